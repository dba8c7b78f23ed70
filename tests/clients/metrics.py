"""Parses a server's metrics with Python's prometheus_client, and checks their names, types, and format.

    pip install prometheus_client
    python tests/clients/metrics.py http://localhost:8081/metrics
"""

import re
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families as parse

EXPECTED = {
    "model": "info",
    "model_server_batch_texts": "histogram",
    "model_server_batch_tokens": "histogram",
    "model_server_engine_panics": "counter",
    "model_server_errors": "counter",
    "model_server_in_flight_requests": "gauge",
    "model_server_inference_time_seconds": "histogram",
    "model_server_capture_write_errors": "counter",
    "model_server_captured_texts_dropped": "counter",
    "model_server_log_lines_dropped": "counter",
    "model_server_padding_tokens": "counter",
    "model_server_queue_depth": "gauge",
    "model_server_queue_time_seconds": "histogram",
    "model_server_ready": "gauge",
    "model_server_request_duration_seconds": "histogram",
    "model_server_requests": "counter",
    "model_server_tokenize_time_seconds": "histogram",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "process_uptime_seconds": "gauge",
}

# Suffixes of family names in format 0.0.4, where a family has the name of its samples.
FAMILY_SUFFIX = {"counter": "_total", "info": "_info"}


def fetch(url, accept):
    """Returns the metrics as text, and their content type."""
    request = urllib.request.Request(url, headers={"accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode(), response.headers["content-type"]


def check_format_0_0_4(text):
    """Checks that each line is valid in format 0.0.4, and that each sample belongs to the family above it."""
    expected = {
        name + FAMILY_SUFFIX.get(kind, ""): "gauge" if kind == "info" else kind
        for name, kind in EXPECTED.items()
    }
    seen, family = {}, None
    for line in text.splitlines():
        if help_line := re.fullmatch(r"# HELP ([a-z_]+) \S.*", line):
            family = help_line[1]
            assert family not in seen, f"the family {family} occurs twice"
        elif type_line := re.fullmatch(r"# TYPE ([a-z_]+) (counter|gauge|histogram)", line):
            assert type_line[1] == family, line
            seen[family] = type_line[2]
        else:
            sample = re.fullmatch(r"([a-z_]+)(\{[a-z_]+=\"[^\"]*\"(,[a-z_]+=\"[^\"]*\")*\})? [-+.\deE]+", line)
            assert sample, line
            suffixes = ("_bucket", "_sum", "_count") if seen[family] == "histogram" else ("",)
            assert sample[1] in [family + suffix for suffix in suffixes], line
    assert seen == expected, {name for name in seen.items() ^ expected.items()}


def check_histogram(family):
    """Checks for each series that bucket bounds ascend, that bucket counts only grow, and that the last one is the count."""
    series = {}
    for sample in family.samples:
        labels = tuple(sorted(item for item in sample.labels.items() if item[0] != "le"))
        kind = sample.name.removeprefix(family.name)
        series.setdefault(labels, {}).setdefault(kind, []).append((sample.labels.get("le"), sample.value))
    for labels, samples in series.items():
        bounds = [float(bound) for bound, _ in samples["_bucket"]]
        counts = [count for _, count in samples["_bucket"]]
        assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf"), (family.name, labels, bounds)
        assert counts == sorted(counts), (family.name, labels, counts)
        [(_, total)], [(_, _)] = samples["_count"], samples["_sum"]
        assert counts[-1] == total, (family.name, labels, counts, total)


def main(url):
    # Prometheus sends the last header. It reads this format as well.
    for accept in (
        None,
        "text/plain;version=0.0.4",
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4",
    ):
        text, content_type = fetch(url, accept)
        assert content_type == "text/plain; version=0.0.4; charset=utf-8", content_type
        check_format_0_0_4(text)
        # The parser removes the suffix of counters.
        families = {family.name: family for family in parse(text)}
        expected = {name + "_info" * (kind == "info") for name, kind in EXPECTED.items()}
        assert set(families) == expected, set(families) ^ expected
        for name, family in families.items():
            assert family.documentation, f"{name} has no help"
            if family.type == "histogram":
                check_histogram(family)

    samples = sum(len(family.samples) for family in families.values())
    print(f"{len(families)} families with {samples} samples: well formed")


if __name__ == "__main__":
    main(*sys.argv[1:])
