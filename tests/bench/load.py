"""The texts of the requests, and the load generators wrk and oha.

Both tools return a sample: rates per second, latencies in milliseconds, and the number of failures.
wrk corrects its latencies for coordinated omission. A latency of at least twice the mean interval
between a connection's requests also counts for the requests that the connection would have sent
meanwhile (`stats_correct` in wrk's `stats.c`). oha corrects nothing without `--latency-correction`.
"""

import http.client
import json
from pathlib import Path
from typing import Any

from programs import REPOSITORY, MeasurementError, run

POST_SCRIPT = Path(__file__).with_name("post.lua")
# The number of different texts in each mix.
TEXT_COUNT = 512
# Seconds for a response, and seconds that a tool may take beyond the duration of its load.
TIMEOUT = 20
EXTRA_SECONDS = 30

Sample = dict[str, float]


def golden_inputs() -> list[dict[str, str]]:
    """Returns the inputs of the golden set."""
    golden = (REPOSITORY / "models/sentiment/golden.jsonl").read_text()
    return [json.loads(line)["input"] for line in golden.splitlines()]


def texts(mix: str) -> list[str]:
    """Returns texts of 20 words each ("twenty"), or of 3 to 100 words ("mixed")."""
    words = [word for item in golden_inputs() for word in item["text"].split()]
    # A linear congruential generator, so that all versions of Python make the same texts.
    state = 20_260_101

    def below(limit: int) -> int:
        nonlocal state
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        return (state >> 33) % limit

    chosen = []
    for _ in range(TEXT_COUNT):
        length = 20 if mix == "twenty" else 3 + below(98)
        start = below(len(words) - length)
        chosen.append(" ".join(words[start : start + length]))
    return chosen


def bodies(mix: str) -> list[dict[str, str]]:
    """Returns the request bodies for the texts of a mix."""
    return [{"text": text} for text in texts(mix)]


def post(port: int, path: str, body: dict) -> tuple[int, bytes]:
    """Returns the status and the body of the response to one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wrk_command(port: int, path: str, bodies: Path, connections: int, seconds: int) -> list[Any]:
    """Returns the command with which wrk posts the bodies in turn, in a closed loop."""
    settings = [f"-t{min(connections, 2)}", f"-c{connections}", f"-d{seconds}s"]
    options = ["--timeout", f"{TIMEOUT}s", "--script", POST_SCRIPT]
    return ["wrk", *settings, *options, f"http://127.0.0.1:{port}{path}", "--", bodies]


def wrk(port: int, path: str, bodies: Path, connections: int, seconds: int) -> Sample:
    """Posts the bodies in turn, in a closed loop. Returns the sample."""
    command = wrk_command(port, path, bodies, connections, seconds)
    return read_wrk(run(command, seconds + EXTRA_SECONDS))


def read_wrk(output: str) -> Sample:
    """Returns the sample that `post.lua` printed in the last line of the output."""
    try:
        figures = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise MeasurementError(f"wrk printed no figures: {output}") from error
    return sample(figures, figures["requests"], figures["failed"], figures["seconds"])


def oha(port: int, body: dict, connections: int, seconds: int, rate: float | None) -> Sample:
    """Posts a body at a rate, or in a closed loop without a rate. Returns the sample.

    At a rate, a latency counts from the time when the request was due.
    """
    command = ["oha", "--no-tui", "--output-format", "json", "-z", f"{seconds}s"]
    # -w: oha waits for the responses to all requests that it has sent.
    command += ["-w", "-t", f"{TIMEOUT}s", "-c", str(connections)]
    command += ["-m", "POST", "-T", "application/json", "-d", json.dumps(body)]
    command += ["-q", str(rate), "--latency-correction"] if rate is not None else []
    output = run([*command, f"http://127.0.0.1:{port}/predict"], seconds + EXTRA_SECONDS)
    return read_oha(output, seconds)


def read_oha(output: str, seconds: float) -> Sample:
    """Returns the sample in oha's report."""
    report = json.loads(output)
    statuses = report["statusCodeDistribution"]
    requests = sum(statuses.values()) + sum(report["errorDistribution"].values())
    succeeded = sum(count for status, count in statuses.items() if status.startswith("2"))
    percentiles = {key: latency * 1e3 for key, latency in report["latencyPercentiles"].items()}
    return sample(percentiles, requests, requests - succeeded, seconds)


def sample(percentiles: Sample, requests: int, failed: int, seconds: float) -> Sample:
    """Returns a sample from its counts and percentiles."""
    counts = {"per_second": requests, "succeeded_per_second": max(requests - failed, 0)}
    rates = {key: count / seconds for key, count in counts.items()}
    return rates | {key: percentiles[key] for key in ("p50", "p90", "p99")} | {"failed": failed}
