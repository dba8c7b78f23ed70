"""Renders results with the templates: the sections of docs/benchmarks.md, and a soak's table."""

import tomllib
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from figures import (
    ENGINES,
    distinct,
    goals_of,
    median,
    median_of,
    median_ratio,
    medians,
    ratio,
    select,
    sum_of,
)

TEMPLATES = Path(__file__).with_name("templates")
SECTIONS = ["models", "overload", "switching", "generator"]

# The machine is not quiet if other processes use this share of all cores, or more.
QUIET = 0.20
NOISY = "**the machine was not quiet: other processes used its cores, which distorts the figures**"
# The names of models, routes, and so on in the document.
NAMES = tomllib.loads(Path(__file__).with_name("names.toml").read_text())


def render(result: dict[str, Any]) -> str:
    """Returns the rendered text of a result."""
    values = {
        "models": _models,
        "overload": _overload,
        "switching": _switching,
        "generator": _generator,
        "soak": _soak,
    }[result["what"]](result["figures"])
    return align(fill(result["what"], machine=machine(result["machine"]), **values))


def replace_section(document: str, section: str, text: str) -> str:
    """Returns the document with another text for one section."""
    parts = [fill("head")]
    for name in SECTIONS:
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        _, found, rest = document.partition(begin)
        if name == section or found:
            kept = text if name == section else rest.partition(end)[0]
            parts.append(f"{begin}\n{kept.strip()}\n{end}")
    return "\n\n".join(parts) + "\n"


def fill(template: str, **values: Any) -> str:
    """Returns a template with its placeholders replaced by the values."""
    return (TEMPLATES / f"{template}.md").read_text().format(**values).strip()


def rows(lines: Iterable[Iterable[Any]]) -> str:
    """Returns the rows of a Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def align(text: str) -> str:
    """Aligns the tables in a text: the first column to the left, the others to the right."""
    parts: list[str] = []
    for is_table, lines in groupby(text.splitlines(), lambda line: line.startswith("|")):
        if not is_table:
            parts.extend(lines)
            continue
        header, _, *others = [[it.strip() for it in line[1:-1].split("|")] for line in lines]
        first, *widths = [max(map(len, it)) for it in zip(header, *others, strict=True)]
        rule = [f"|{'-' * (first + 2)}|{''.join('-' * (it + 1) + ':|' for it in widths)}"]
        padded = [[it[0].ljust(first), *map(str.rjust, it[1:], widths)] for it in [header, *others]]
        aligned = rows(padded).splitlines()
        parts += aligned[:1] + rule + aligned[1:]
    return "\n".join(parts)


def machine(description: dict[str, Any]) -> str:
    """Returns the description of the machine as a list."""
    others = description["used_by_others"]
    values = {
        "instruction_sets": instruction_sets(description["processor_flags"]),
        "loads": ", ".join(f"{it:.2f}" for it in description["load_averages"]),
        "median": f"{median(others) * 100:.0f} %",
        "worst": f"{max(others) * 100:.0f} %",
        "verdict": "the machine was quiet" if max(others) < QUIET else NOISY,
    }
    return fill("machine", **description, **values)


def instruction_sets(flags: list[str]) -> str:
    """Returns the instruction sets of names.toml, each with `no` if the processor lacks it."""
    names = NAMES["instruction_sets"].items()
    return ", ".join(name if flag in flags else f"no {name}" for flag, name in names)


def rate(per_second: float) -> str:
    """Returns a rate as text, with one decimal below 1,000."""
    return f"{per_second:.1f}" if per_second < 1000 else f"{per_second:,.0f}"


def _models(figures: dict[str, Any]) -> dict[str, Any]:
    records, servers = figures["records"], figures["servers"]
    goals = goals_of("models", figures)
    http = medians(select(records, kind="http"), "server", "per_second")
    bare, own = (http[it]["per_second"] for it in ("bare", "rten"))
    parts = []
    for (model,) in distinct(select(records, kind="memory"), "model"):
        of_model = select(records, model=model)
        for mix, connections in distinct(select(of_model, kind="load"), "mix", "connections"):
            case = select(of_model, mix=mix, connections=connections)
            names = {"model": NAMES["models"][model], "mix": NAMES["mixes"][mix]}
            of_case = _case(case, servers)
            parts.append(fill("case", connections=connections, **names, **of_case))
        starts = medians(select(of_model, kind="start"), "server", "seconds")
        weights = [
            [servers[key]["name"], f"{starts[key]['seconds']:.2f}", f"{it['megabytes']:.0f}"]
            for it in select(of_model, kind="memory")
            for key in [it["server"]]
        ]
        parts.append(fill("weights", model=NAMES["models"][model], rows=rows(weights)))
    return figures["settings"] | {
        "goals": rows([it.name, it.bound(), *(it.cell(e, 2) for e in ENGINES)] for it in goals),
        "bare": rate(bare),
        "own": rate(own),
        "share": ratio(own, bare),
        "models": "\n\n".join(parts),
    }


def _case(case: list[dict], servers: dict[str, dict]) -> dict[str, str]:
    loads = select(case, kind="load")
    alone = medians(select(case, kind="engine"), "server", "per_second")
    reached = medians(loads, "server", "succeeded_per_second", "p50", "p99")
    peers = [it["succeeded_per_second"] for key, it in reached.items() if "peer" in servers[key]]
    lines = []
    for key in sorted(reached, key=list(servers).index):
        per_second, p50, p99 = reached[key].values()
        to_engine = f"{ratio(per_second, alone[key]['per_second']):.2f}" if key in alone else ""
        to_peer = f"{ratio(per_second, max(peers)):.2f}"
        failed = sum_of(loads, "failed", server=key)
        times = [f"{p50:.2f}", f"{p99:.2f}"]
        lines.append([servers[key]["name"], rate(per_second), to_peer, to_engine, *times, failed])
    engines = {key: rate(it["per_second"]) for key, it in alone.items()}
    return engines | {"rows": rows(lines)}


def _overload(figures: dict[str, Any]) -> dict[str, Any]:
    lines = []
    for key, name in NAMES["phases"].items():
        phase = figures[key]
        others = [f"{count:,} × {other}" for other, count in sorted(phase["others"].items())]
        figures_of = [rate(phase["asked"]), rate(phase["answered"])]
        figures_of += [f"{phase['p50']:.1f}", f"{phase['p99']:.1f}"]
        lines.append([name, *figures_of, ", ".join(others) or "none"])
    return figures["settings"] | {"rows": rows(lines)}


def _switching(figures: dict[str, Any]) -> dict[str, Any]:
    serving = figures["serving"]
    lines = []
    for version, route in sorted(distinct(serving, "version", "route")):
        samples = select(serving, version=version, route=route)
        rates = [it["per_second"] for it in samples]
        direct = median_of(serving, "per_second", version=version, route="direct")
        line = [f"{version} {NAMES['routes'][route]}", f"{median(rates):,.0f}"]
        line += [f"{min(rates):,.0f}–{max(rates):,.0f}", f"{ratio(median(rates), direct):.2f}"]
        line += [f"{median_of(samples, it):.2f}" for it in ("p50", "p99")]
        lines.append([*line, sum_of(samples, "failed")])
    loads = [
        fill("load", name=name.capitalize(), pause=pause, **_load(figures["switching"], name))
        for name, pause in figures["pauses"].items()
    ]
    return figures["settings"] | {"switching": "\n\n".join(loads), "serving": rows(lines)}


def _load(records: list[dict], load: str) -> dict[str, str]:
    ways = [select(records, load=load, way=way) for way in NAMES["ways"]]
    switches = [[switch for it in way for switch in it["switches"]] for way in ways]
    failures = [total(it["failures"] for it in way) for way in ways]
    counts = {
        "switches": map(len, switches),
        "requests": (sum_of(way, "requests") for way in ways),
        "**failed requests**": (it.total() for it in failures),
        NAMES["late"]: (sum_of(way, "late") for way in switches),
    }
    lines = [[name, *(f"{it:,}" for it in of), "", ""] for name, of in counts.items()]
    for key, name in NAMES["times"].items():
        times = [[it[key] for it in way if it[key] is not None] for way in switches]
        cells = [f"{median(it):.1f} ({max(it):.1f})" if it else "none" for it in times]
        deployer, flag, reload = map(median, times)
        lines.append([name, *cells, time_ratio(reload, deployer), time_ratio(reload, flag)])
    failed = [
        f"- {name}: {count} × {failure}"
        for name, of in zip(NAMES["ways"].values(), failures, strict=True)
        for failure, count in sorted(of.items())
    ]
    failures_text = (
        "\n".join(["Failed requests:\n", *failed]) if failed else "No request failed by any way."
    )
    return {"rows": rows(lines), "failures": failures_text}


def total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    """Returns the sums of counts."""
    return sum(map(Counter, counts), Counter())


def time_ratio(dividend: float, divisor: float) -> str:
    """Returns a ratio of two times as text; empty if one of them is missing or not positive."""
    return f"{dividend / divisor:.2f}" if dividend > 0 and divisor > 0 else ""


def _generator(figures: dict[str, Any]) -> dict[str, Any]:
    records = figures["records"]
    goals = goals_of("generator", figures)
    waiting = median_of(records, "waiting", target="fast", tool="deployer")
    tables = {target: _comparison_rows(records, target) for target in ("fast", "closed", "open")}
    goal_rows = rows([it.name, it.bound(), it.cell("deployer", 3)] for it in goals)
    return figures["settings"] | tables | {"waiting": waiting, "goals": goal_rows}


def _comparison_rows(records: list[dict], target: str) -> str:
    """Returns the rows with the figures of both tools, and of the server if it has own figures."""
    lines = []
    for figure in ("per_second", "p50", "p90", "p99"):
        name, digits = ("requests/s", 0) if figure == "per_second" else (f"{figure}, ms", 1)
        of_target = select(records, target=target)
        by_tool = [median_of(of_target, figure, tool=it) for it in ("peer", "deployer")]
        cells = [f"{it:,.{digits}f}" for it in by_tool]
        cells.append(f"{median_ratio(records, figure, target):.2f}")
        own = [it for it in select(of_target, tool="server") if figure in it]
        if select(of_target, tool="server"):
            cells.append(f"{median_of(own, figure):.1f}" if own else "")
        lines.append([name, *cells])
    return rows(lines)


def _soak(figures: dict[str, Any]) -> dict[str, Any]:
    minutes = enumerate(figures["minutes"], 1)
    lines = [[minute, *(f"{memory[it]:.1f} MB" for it in ENGINES)] for minute, memory in minutes]
    return {"rows": rows(lines)}
