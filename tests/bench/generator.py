"""Compares the deployer's load generator with wrk and oha. They load the same target in turns."""

import json
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from load import bodies, oha, wrk
from models import RELEASES
from programs import MeasurementError, Session, progress, read_json, rust_program
from servers import Server

# The default concurrency of the gate `load`.
CONNECTIONS = 500
ROUNDS = 5
SECONDS = 5
# Requests per second in the open loop. In a stall more requests are due than there are connections.
RATE = 2_000


def measure(session: Session) -> dict[str, Any]:
    """Measures with all targets."""
    request_bodies = bodies("twenty")
    lines = session.write("texts.bodies", request_bodies)
    # At least 2 s: the first stall of the open loop ends after 1.5 s.
    seconds = session.choose(SECONDS, 2)
    rounds = session.choose(ROUNDS, 1)
    records: list[dict] = []

    def take_turns(target: str, port: int, rate: float | None, peer: Callable[[], dict]) -> None:
        # Round 0 warms up.
        for number in range(rounds + 1):
            progress(f"{target}, round {number} of {rounds}")
            if target != "fast":
                next_round(port)
            samples = {"peer": peer()}
            if target != "fast":
                next_round(port)
            samples["deployer"] = generate(port, lines, seconds, rate, target == "fast")
            # In the open loop the server does not see requests that still wait for a connection.
            if target == "closed":
                samples["server"] = next_round(port)
            if failed := [it for it in samples.values() if it.get("failed")]:
                raise MeasurementError(f"requests failed: {failed}")
            if number:
                records.extend({"target": target, "tool": it} | samples[it] for it in samples)
        session.record_other_load()

    # As fast as possible, limited by the processor time that the server leaves.
    with Server(session, "rten", RELEASES["v1"]) as server:
        by_wrk = partial(wrk, server.port, "/predict", lines, CONNECTIONS, seconds)
        take_turns("fast", server.port, None, by_wrk)
    # This server leaves the processor free, so both tools must measure the same latencies. The
    # first load is a closed loop. The second is an open loop, in which the server stalls.
    for target, rate, options in (("closed", None, []), ("open", RATE, ["--stalls"])):
        with rust_program("paced", *options) as paced:
            port = read_json(paced)["port"]
            by_oha = partial(oha, port, request_bodies[0], CONNECTIONS, seconds, rate)
            take_turns(target, port, rate, by_oha)
    settings = {"connections": CONNECTIONS, "rounds": ROUNDS, "seconds": SECONDS, "rate": RATE}
    return {"settings": settings, "records": records}


def generate(
    port: int, lines: Path, seconds: int, rate: float | None, corrected: bool
) -> dict[str, Any]:
    """Loads a server with the deployer's generator. `corrected`: correct latencies as wrk does."""
    load = ["--bodies", lines, "--connections", CONNECTIONS, "--seconds", seconds]
    load += ["--correct"] if corrected else []
    load += [] if rate is None else ["--rate", rate]
    with rust_program("generate", f"127.0.0.1:{port}", *load) as process:
        return read_json(process)


def next_round(port: int) -> dict[str, float]:
    """Begins a round of the paced server, and returns the percentiles of the previous round."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/round", timeout=10) as response:
        return json.load(response)
