"""Reads a server's metrics with the parsers of Python's prometheus_client, and checks their form.

    pip install prometheus_client
    python tests/clients/metrics.py http://localhost:8081/metrics
"""

import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

EXPECTED = {
    "model": "info",
    "model_server_batch_texts": "histogram",
    "model_server_batch_tokens": "histogram",
    "model_server_engine_panics": "counter",
    "model_server_errors": "counter",
    "model_server_in_flight_requests": "gauge",
    "model_server_inference_time_seconds": "histogram",
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


def main(url):
    # As Prometheus asks.
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    request = urllib.request.Request(url, headers={"accept": accept})
    with urllib.request.urlopen(request, timeout=10) as response:
        content_type = response.headers["content-type"]
        text = response.read().decode()
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8", content_type

    # This parser is strict: order of samples, buckets that only grow, units, the end.
    families = {family.name: family for family in open_metrics(text)}
    types = {name: family.type for name, family in families.items()}
    assert types == EXPECTED, {name for name in types.items() ^ EXPECTED.items()}
    for name, family in families.items():
        assert family.documentation, f"{name} has no help"
    # What does not know OpenMetrics has to get along with it too.
    assert len(list(prometheus(text))) >= len(families)

    samples = sum(len(family.samples) for family in families.values())
    print(f"{len(families)} families with {samples} samples: well formed")


if __name__ == "__main__":
    main(*sys.argv[1:])
