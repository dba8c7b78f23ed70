"""What the servers are asked, and the tools that ask: wrk and oha.

Both tools give a sample: rates per second, latencies in milliseconds, failures. wrk corrects its
latencies for coordinated omission: one that is at least twice the mean interval of a connection's
requests also stands for the requests that would have been sent meanwhile (`stats_correct` in its
`stats.c`). oha corrects nothing unless it is told to.
"""

import http.client
import json
from pathlib import Path
from typing import Any

from programs import REPOSITORY, MeasurementError, run

POST = Path(__file__).with_name("post.lua")
# How many different texts there are of each kind.
TEXTS = 512
# Seconds for a response, and for a tool beyond the time that its load takes.
TIMEOUT = 20
PATIENCE = 30

Sample = dict[str, float]


def golden_inputs() -> list[dict[str, str]]:
    """Returns the inputs of the golden set."""
    golden = (REPOSITORY / "models/sentiment/golden.jsonl").read_text()
    return [json.loads(line)["input"] for line in golden.splitlines()]


def texts(mix: str) -> list[str]:
    """Returns texts of 20 words each ("twenty"), or of 3 to 100 words ("mixed")."""
    words = [word for given in golden_inputs() for word in given["text"].split()]
    # A linear congruential generator, so that no version of Python changes the texts.
    state = 20_260_101

    def below(limit: int) -> int:
        nonlocal state
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        return (state >> 33) % limit

    chosen = []
    for _ in range(TEXTS):
        length = 20 if mix == "twenty" else 3 + below(98)
        start = below(len(words) - length)
        chosen.append(" ".join(words[start : start + length]))
    return chosen


def bodies(mix: str) -> list[dict[str, str]]:
    """Returns the bodies of requests for the texts."""
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
    """Returns the command that posts bodies in turn as fast as they are answered."""
    settings = [f"-t{min(connections, 2)}", f"-c{connections}", f"-d{seconds}s"]
    options = ["--timeout", f"{TIMEOUT}s", "--script", POST]
    return ["wrk", *settings, *options, f"http://127.0.0.1:{port}{path}", "--", bodies]


def wrk(port: int, path: str, bodies: Path, connections: int, seconds: int) -> Sample:
    """Posts bodies in turn as fast as they are answered."""
    command = wrk_command(port, path, bodies, connections, seconds)
    return read_wrk(run(command, seconds + PATIENCE))


def read_wrk(said: str) -> Sample:
    """Reads what `post.lua` prints."""
    try:
        told = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise MeasurementError(f"wrk gave no figures: {said}") from error
    return sample(told, told["requests"], told["failed"], told["seconds"])


def oha(port: int, body: dict, connections: int, seconds: int, rate: float | None) -> Sample:
    """Posts a body: at a rate, each latency from when the request was due, or in a closed loop."""
    command = ["oha", "--no-tui", "--output-format", "json", "-z", f"{seconds}s"]
    # -w: a request that was sent in time is waited for.
    command += ["-w", "-t", f"{TIMEOUT}s", "-c", str(connections)]
    command += ["-m", "POST", "-T", "application/json", "-d", json.dumps(body)]
    command += ["-q", str(rate), "--latency-correction"] if rate is not None else []
    said = run([*command, f"http://127.0.0.1:{port}/predict"], seconds + PATIENCE)
    return read_oha(said, seconds)


def read_oha(said: str, seconds: float) -> Sample:
    """Reads oha's report."""
    report = json.loads(said)
    statuses = report["statusCodeDistribution"]
    requests = sum(statuses.values()) + sum(report["errorDistribution"].values())
    succeeded = sum(count for status, count in statuses.items() if status.startswith("2"))
    told = {key: latency * 1e3 for key, latency in report["latencyPercentiles"].items()}
    return sample(told, requests, requests - succeeded, seconds)


def sample(percentiles: Sample, requests: int, failed: int, seconds: float) -> Sample:
    """Returns the sample of a load."""
    rates = {"per_second": requests, "succeeded_per_second": max(requests - failed, 0)}
    told = {key: count / seconds for key, count in rates.items()}
    return told | {key: percentiles[key] for key in ("p50", "p90", "p99")} | {"failed": failed}
