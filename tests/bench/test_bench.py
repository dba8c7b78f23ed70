"""Tests of the parts that need no server: parsing, statistics, goals, and rendering."""

import json
import math
import tomllib
import unittest
from itertools import product
from types import SimpleNamespace

import document
import figures
import load
from programs import MeasurementError
from switching import summarize_switch

SAMPLE = {"per_second": 200.0, "succeeded_per_second": 180.0, "p50": 2.5, "p90": 6.0, "p99": 9.0}
MACHINE = {
    "date": "2026-01-01 00:00 UTC",
    "processor": "Some Processor",
    "processor_flags": ["avx2", "avx512f", "fpu"],
    "cores": 2,
    "kernel": "6.1",
    "router": "nginx/1.22.1",
    "build_profile": "release",
    "load_averages": [0.5, 0.25, 0.125],
    "used_by_others": [0.01, 0.0, 0.04],
}
SERVERS = tomllib.loads(figures.GOALS.with_name("servers.toml").read_text())


def models() -> dict:
    """Returns results of all models in which peers have half the rate of this project's servers."""
    records = [{"kind": "http", "server": it, **SAMPLE} for it in ("bare", "rten")]
    for model in document.NAMES["models"]:
        for key, entry in SERVERS.items():
            rate = 100.0 if "peer" in entry else 200.0
            of = {"model": model, "server": key}
            records.append({"kind": "start", **of, "seconds": 0.5})
            records.append({"kind": "memory", **of, "megabytes": 50.0})
            for mix, connections in (("twenty", 1), ("twenty", 32), ("twenty", 128), ("mixed", 32)):
                case = {**of, "mix": mix, "connections": connections}
                sample = {**SAMPLE, "succeeded_per_second": rate, "failed": 0}
                records.append({"kind": "load", **case, **sample})
                if "peer" not in entry:
                    records.append({"kind": "engine", **case, "per_second": 250.0})
    settings = dict.fromkeys(("rounds", "seconds", "warm_up", "starts", "http_connections"), 3)
    return {"settings": settings, "servers": SERVERS, "records": records}


def results() -> dict[str, dict]:
    """Returns results of all sections that reach each goal with `must`."""
    tools = ("peer", "deployer")
    pairs = [*product(("fast", "closed", "open"), tools), ("closed", "server")]
    records = [{"target": it, "tool": tool, **SAMPLE, "waiting": 500.0} for it, tool in pairs]
    settings = {"connections": 500, "rounds": 5, "seconds": 5, "rate": 200}
    phase = {"asked": 900.0, "answered": 300.0, "p50": 5.0, "p99": 9.0, "others": {}}
    refused = phase | {"others": {"status 429 Too Many Requests": 7}}
    switch = {"command": 2.0, "new_from_begin": 5.0, "new_from_return": 3.0, "late": 1}
    of_way = {"load": "moderate", "requests": 50, "switches": [switch | {"last_late": None}]}
    failures = {"deployer": {}, "flag": {}, "reload": {"connection closed": 3}}
    routes = product(("v1", "v2"), ("direct", "plain", "router"))
    return {
        "models": models(),
        "overload": {
            "settings": {"queue": 256, "clients": 256, "factor": 4, "seconds": 30},
            **{"calm": phase, "meanwhile": refused, "first_second": phase},
        },
        "switching": {
            "settings": settings | {"clients": 64, "body": "{}"},
            "pauses": {"moderate": 150},
            "switching": [of_way | {"way": it, "failures": of} for it, of in failures.items()],
            "serving": [{"version": it, "route": by, **SAMPLE, "failed": 0} for it, by in routes],
        },
        "generator": {"settings": settings, "records": records},
        "soak": {"minutes": [{"onnxruntime": 50.0, "rten": 40.0}] * 2, "failed": 0},
    }


def render(what: str) -> str:
    """Returns the text of a section."""
    return document.render({"what": what, "machine": MACHINE, "figures": results()[what]})


class Parsing(unittest.TestCase):
    def test_wrk_figures_are_read_from_the_last_line(self):
        line = (
            '{"requests": 1000, "failed": 100, "seconds": 5.0, "p50": 2.5, "p90": 6.0, "p99": 9.0}'
        )
        self.assertEqual(load.read_wrk(f"Running 5s test\n{line}\n"), SAMPLE | {"failed": 100})

    def test_wrk_report_without_figures_is_an_error(self):
        with self.assertRaises(MeasurementError):
            load.read_wrk("unable to connect to 127.0.0.1:1\n")

    def test_oha_counts_rejections_and_errors_as_failed(self):
        latencies = {"p50": 0.0025, "p90": 0.006, "p95": 0.007, "p99": 0.009}
        report = {
            "latencyPercentiles": latencies,
            "statusCodeDistribution": {"200": 900, "503": 75},
            "errorDistribution": {"timeout": 25},
        }
        self.assertEqual(load.read_oha(json.dumps(report), 5), SAMPLE | {"failed": 100})

    def test_texts_have_the_lengths_of_their_mix(self):
        self.assertEqual({len(it.split(" ")) for it in load.texts("twenty")}, {20})
        mixed = [len(it.split(" ")) for it in load.texts("mixed")]
        self.assertTrue(3 <= min(mixed) < 10 and 90 < max(mixed) <= 100)


class Figures(unittest.TestCase):
    def test_median_does_not_depend_on_the_order(self):
        self.assertEqual(figures.median([3, 1, 2]), 2)
        self.assertEqual(figures.median([4, 1, 3, 2]), 2.5)
        self.assertTrue(math.isnan(figures.median([])))

    def test_memory_counts_a_shared_library_once_and_the_heap_by_its_share(self):
        library = SimpleNamespace(path="/lib/a.so", rss=2048, pss=100, private_dirty=1024)
        heap = SimpleNamespace(path="[heap]", rss=8192, pss=4096, private_dirty=0)
        self.assertEqual(figures.memory_of([[library, heap]]), 6 * 1024)
        self.assertEqual(figures.memory_of([[library, heap], [library, heap]]), 11 * 1024)

    def test_each_goal_has_a_metric(self):
        goals = tomllib.loads(figures.GOALS.read_text())
        for section, measured in results().items():
            names = [it.name for it in figures.goals_of(section, measured)]
            self.assertEqual(names, [it["name"] for it in goals[section]])
            self.assertEqual(figures.missed(section, measured), [])

    def test_overload_with_lost_requests_or_slow_answers_fails_the_run(self):
        overload = results()["overload"]
        overload["meanwhile"] |= {"p99": 10.4, "others": {"status 429": 7, "cannot connect": 1}}
        lost, slow = figures.missed("overload", overload)
        self.assertIn("neither an answer nor 429: onnxruntime: 1.000, **missed**", lost)
        self.assertIn("p99 before: onnxruntime: 1.156, **missed**; wanted: ≤ 1.15", slow)

    def test_switching_fails_the_run_for_failures_by_flag_but_not_by_reload(self):
        switching = results()["switching"]
        switching["switching"][1]["failures"] = {"connection closed": 2}
        (problem,) = figures.missed("switching", switching)
        self.assertIn("flag: 2.000, **missed**", problem)

    def test_goal_has_a_verdict_only_with_a_bound(self):
        least, reached = {"onnxruntime": 1.2, "rten": 1.05}, {"onnxruntime": 1.1, "rten": 1.1}
        goal = figures.Goal("", least, {}, reached, False)
        self.assertEqual(goal.bound(), "≥ 1.20; rten ≥ 1.05")
        self.assertEqual(goal.cell("onnxruntime", 2), "1.10, **missed**")
        self.assertEqual(goal.cell("rten", 2), "1.10, reached")
        unbound = figures.Goal("", {"onnxruntime": 1.2}, {}, {"rten": 1.1}, False)
        self.assertEqual([unbound.cell(it, 2) for it in ("onnxruntime", "rten")], ["", "1.10"])

    def test_switch_counts_requests_started_after_the_return_as_late(self):
        records = [(5, 100, "v1"), (12, 3, "v1"), (20, 2, "v2"), (99, 9, "v1")]
        answers = [
            {"started": started * 1_000_000, "took": took * 1_000_000, "version": version}
            for started, took, version in records
        ]
        summary = summarize_switch(answers, "v2", 0, int(10e6), int(100e6))
        times = {"command": 10.0, "new_from_begin": 22.0, "new_from_return": 12.0}
        self.assertEqual(summary, times | {"late": 1, "last_late": 2.0})
        with self.assertRaises(MeasurementError):
            summarize_switch(answers, "v3", 0, int(10e6), int(100e6))


class Rendering(unittest.TestCase):
    def test_models_are_rendered_with_goals_and_instruction_sets(self):
        text = render("models")
        self.assertIn("AVX2, AVX-512F, no AVX512_VNNI, no AVX_VNNI, no AMX_INT8", text)
        self.assertIn("1 % in the median, 4 % at worst; the machine was quiet", text)
        self.assertRegex(text, r"v1, 128 connections: requests/s ÷ the best peer's +\| +≥ 4.00 \|")
        self.assertRegex(text, r"\| MOSEC, .*, batches of 8 +\| +100.0 \| +1.00 \| +\| +2.50 \|")

    def test_switching_is_rendered_with_failures(self):
        text = render("switching")
        self.assertRegex(text, r"\| begin of the command .* 5.0 \(5.0\) .*\| +1.00 \|")
        self.assertIn("- rewrite, `nginx -s reload`: 3 × connection closed", text)

    def test_overload_generator_and_soak_are_rendered(self):
        self.assertRegex(render("overload"), r"\| meanwhile .* 7 × status 429 Too Many Requests \|")
        self.assertRegex(render("generator"), r"\| p99, ms +\| +9.0 \| +9.0 \| +1.00 \| +9.0 \|")
        self.assertRegex(render("soak"), r"\| 2 +\| +50.0 MB \| +40.0 MB \|")

    def test_table_columns_are_as_wide_as_their_widest_cell(self):
        text = document.align("before\n|  | a |\n|---|---:|\n| one | 12.5 |\nafter")
        expected = "before\n|     |    a |\n|-----|-----:|\n| one | 12.5 |\nafter"
        self.assertEqual(text, expected)

    def test_section_is_replaced_and_other_sections_stay(self):
        text = document.replace_section("", "switching", "old switching")
        text = document.replace_section(text, "models", "some models")
        text = document.replace_section(text, "switching", "new switching")
        self.assertEqual(text.count("# Benchmarks"), 1)
        self.assertIn("<!-- begin models -->\nsome models\n<!-- end models -->", text)
        self.assertIn("new switching", text)
        self.assertNotIn("old switching", text)

    def test_time_ratio_is_empty_for_times_that_are_not_positive(self):
        self.assertEqual(document.time_ratio(3.0, 2.0), "1.50")
        self.assertEqual(document.time_ratio(3.0, -2.0), "")
        self.assertEqual(document.time_ratio(math.nan, 2.0), "")


if __name__ == "__main__":
    unittest.main()
