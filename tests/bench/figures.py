"""Computes figures from raw rounds, and compares them with the goals."""

import math
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENGINES = ["onnxruntime", "rten"]
GOALS = Path(__file__).with_name("goals.toml")

Record = dict[str, Any]
# The value of each figure for each subject: an engine, the deployer, a way to switch, or a tool.
Metrics = dict[str, dict[str, float]]


def select(records: list[Record], **where: Any) -> list[Record]:
    """Returns the records with these values."""
    return [it for it in records if all(it.get(key) == value for key, value in where.items())]


def distinct(records: list[Record], *keys: str) -> list[tuple]:
    """Returns the different values of these keys, in the order of their first records."""
    return list(dict.fromkeys(tuple(it[key] for key in keys) for it in records))


def median(values: Iterable[float]) -> float:
    """Returns the median; not a number if there are no values."""
    values = list(values)
    return statistics.median(values) if values else math.nan


def median_of(records: list[Record], figure: str, **where: Any) -> float:
    """Returns the median of a figure over the rounds."""
    return median(it[figure] for it in select(records, **where))


def medians(records: list[Record], by: str, *figures: str) -> dict[str, dict[str, float]]:
    """Returns the medians of some figures, for each value of a key such as the server."""
    return {
        value: {it: median_of(records, it, **{by: value}) for it in figures}
        for (value,) in distinct(records, by)
    }


def sum_of(records: list[Record], figure: str, **where: Any) -> int:
    """Returns the sum of a count over the rounds."""
    return sum(it[figure] for it in select(records, **where))


def ratio(dividend: float, divisor: float) -> float:
    """Returns the ratio; not a number if the divisor is zero."""
    return dividend / divisor if divisor else math.nan


def memory_of(processes: Iterable[Iterable[Any]]) -> int:
    """Returns the memory of processes in bytes, from the memory maps of psutil.

    Memory that the processes share counts once. A page of a mapped file, such as a library, counts
    in full even if other servers map it too. With its proportional share (PSS), a server would look
    smaller the more other servers run.
    """
    own = 0
    files: dict[str, int] = {}
    for mappings in processes:
        shared: dict[str, int] = defaultdict(int)
        for mapping in mappings:
            is_file = mapping.path.startswith("/")
            own += mapping.private_dirty if is_file else mapping.pss
            if is_file:
                shared[mapping.path] += mapping.rss - mapping.private_dirty
        files |= {path: max(size, files.get(path, 0)) for path, size in shared.items()}
    return own + sum(files.values())


def metrics_of_models(figures: dict[str, Any]) -> Metrics:
    """Returns the ratios to peers: MODEL.MIX.CONNECTIONS.RATIO, MODEL.RATIO, and http.RATIO."""
    records, servers = figures["records"], figures["servers"]
    http = medians(select(records, kind="http"), "server", "per_second")
    bare, own = (http[it]["per_second"] for it in ("bare", "rten"))
    metrics: Metrics = defaultdict(dict, {"http.rate_to_bare_handler": {"rten": ratio(own, bare)}})
    loads = select(records, kind="load")
    for case in distinct(loads, "model", "mix", "connections"):
        where = dict(zip(("model", "mix", "connections"), case, strict=True))
        reached = medians(select(loads, **where), "server", "succeeded_per_second", "p50", "p99")
        alone = medians(select(records, kind="engine", **where), "server", "per_second")
        peers = {key: it for key, it in reached.items() if "peer" in servers[key]}
        rates = {key: it["succeeded_per_second"] for key, it in peers.items()}
        best = max(rates, key=lambda key: rates[key])
        for key in ENGINES:
            rate, p50, p99 = reached[key].values()
            for name, value in {
                "rate_to_best_peer": ratio(rate, rates[best]),
                "rate_to_best_tuned_peer": ratio(
                    rate, max(it for key, it in rates.items() if "tuned" in servers[key])
                ),
                "rate_to_fastapi": ratio(rate, rates["fastapi"]),
                "rate_to_engine_alone": ratio(rate, alone[key]["per_second"]),
                "p50_to_lowest_peer": ratio(p50, min(it["p50"] for it in peers.values())),
                "p99_to_lowest_peer": ratio(p99, min(it["p99"] for it in peers.values())),
                "p99_to_best_peer": ratio(p99, peers[best]["p99"]),
            }.items():
                metrics[".".join([*map(str, case), name])][key] = value
    for name, kind, figure in (
        ("start_to_fastest_peer", "start", "seconds"),
        ("memory_to_leanest_peer", "memory", "megabytes"),
    ):
        for (model,) in distinct(select(records, kind=kind), "model"):
            of_model = medians(select(records, kind=kind, model=model), "server", figure)
            least = min(it[figure] for key, it in of_model.items() if "peer" in servers[key])
            for key in ENGINES:
                metrics[f"{model}.{name}"][key] = ratio(of_model[key][figure], least)
    return metrics | {"failed": {key: sum_of(loads, "failed", server=key) for key in ENGINES}}


def metrics_of_overload(figures: dict[str, Any]) -> Metrics:
    """Returns lost requests, and ratios to the time before the overload."""
    calm, meanwhile, after = (figures[it] for it in ("calm", "meanwhile", "first_second"))
    refused = sum(it for name, it in meanwhile["others"].items() if "status 429" in name)
    lost = sum(calm["others"].values()) + sum(meanwhile["others"].values()) - refused
    values = {
        "lost": lost,
        "p99_to_calm": ratio(meanwhile["p99"], calm["p99"]),
        "rate_after_to_calm": ratio(after["answered"], calm["answered"]),
    }
    return {name: {"onnxruntime": value} for name, value in values.items()}


def metrics_of_switching(figures: dict[str, Any]) -> Metrics:
    """Returns the failed requests of each way to switch, and those without a switch."""
    failed: dict[str, float] = defaultdict(int)
    for record in figures["switching"]:
        failed[record["way"]] += sum(record["failures"].values())
    return {"failed": failed, "serving_failed": {"wrk": sum_of(figures["serving"], "failed")}}


def metrics_of_soak(figures: dict[str, Any]) -> Metrics:
    """Returns the growth of each engine's memory, and the failed requests."""
    first, last = figures["minutes"][0], figures["minutes"][-1]
    growth = {engine: ratio(last[engine], first[engine]) for engine in first}
    return {"growth": growth, "failed": {"wrk": figures["failed"]}}


def metrics_of_generator(figures: dict[str, Any]) -> Metrics:
    """Returns the ratios of the deployer's load generator: TARGET.RATIO."""
    records = figures["records"]
    values = {"fast.rate_to_wrk": median_ratio(records, "per_second", "fast")}
    closed = medians(select(records, target="closed"), "tool", "p50", "p90", "p99")
    for percentile in ("p50", "p90", "p99"):
        for target in ("closed", "open"):
            values[f"{target}.{percentile}_to_oha"] = median_ratio(records, percentile, target)
        own = closed["server"][percentile]
        values[f"closed.{percentile}_to_server"] = ratio(closed["deployer"][percentile], own)
    rate = median_of(records, "per_second", target="open", tool="deployer")
    values["open.rate_to_wanted"] = ratio(rate, figures["settings"]["rate"])
    return {name: {"deployer": value} for name, value in values.items()}


def median_ratio(records: list[Record], figure: str, target: str) -> float:
    """Returns the median of the rounds' ratios: the deployer's figure to the peer's."""
    ours = select(records, target=target, tool="deployer")
    peers = select(records, target=target, tool="peer")
    return median(ratio(our[figure], peer[figure]) for our, peer in zip(ours, peers, strict=True))


METRICS = {
    "models": metrics_of_models,
    "overload": metrics_of_overload,
    "switching": metrics_of_switching,
    "generator": metrics_of_generator,
    "soak": metrics_of_soak,
}


@dataclass(frozen=True)
class Goal:
    """The bounds of a metric for some subjects, and the figure of each subject."""

    name: str
    at_least: dict[str, float]
    at_most: dict[str, float]
    reached: dict[str, float]
    # Whether a miss fails the run.
    must: bool

    def is_reached(self, subject: str) -> bool:
        """Returns whether a subject's figure lies within its bounds."""
        least, most = self.at_least.get(subject, -math.inf), self.at_most.get(subject, math.inf)
        return least <= self.reached[subject] <= most

    def bound(self) -> str:
        """Returns the bounds as text."""
        if self.at_least and self.at_most:
            # Only one subject has both.
            return f"{min(self.at_least.values()):.2f}–{max(self.at_most.values()):.2f}"
        sign, bounds = ("≥", self.at_least) if self.at_least else ("≤", self.at_most)
        (_, first), *others = bounds.items()
        different = [f"; {subject} {sign} {it:.2f}" for subject, it in others if it != first]
        return f"{sign} {first:.2f}{''.join(different)}"

    def cell(self, subject: str, digits: int) -> str:
        """Returns a subject's figure as text, with the verdict if the subject has a bound."""
        if subject not in self.reached:
            return ""
        verdict = ", reached" if self.is_reached(subject) else ", **missed**"
        has_bound = subject in self.at_least or subject in self.at_most
        return f"{self.reached[subject]:.{digits}f}{verdict if has_bound else ''}"


def goals_of(section: str, figures: dict[str, Any]) -> list[Goal]:
    """Returns the goals of a section, except those whose metric was not measured."""
    metrics = METRICS[section](figures)
    goals = []
    for it in tomllib.loads(GOALS.read_text())[section]:
        if reached := metrics.get(it["metric"]):
            bounds = it.get("at_least", {}), it.get("at_most", {})
            goals.append(Goal(it["name"], *bounds, reached, it.get("must", False)))
    return goals


def missed(section: str, figures: dict[str, Any]) -> list[str]:
    """Returns a line for each missed goal that has `must`. Each of them fails the run."""
    return [
        f"{section}: {goal.name}: {subject}: {goal.cell(subject, 3)}; wanted: {goal.bound()}"
        for goal in goals_of(section, figures)
        for subject in goal.reached
        if goal.must and not goal.is_reached(subject)
    ]
