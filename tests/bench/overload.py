"""Measures the model server under four times the load that it can answer."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from load import bodies
from models import RELEASES
from programs import MeasurementError, Session, progress, read_json, rust_program
from servers import Server

# The number of clients before and after the overload.
CALM_CLIENTS = 256
# The queue's capacity in texts. It has room for all calm clients, so none of them is rejected.
QUEUE = 256
# The load in the overload, as a multiple of the rate before.
FACTOR = 4
SECONDS = 30
OVERLOAD_CLIENTS = 1024
# The number of texts per forward pass on each of the server's cores when the queue is full.
BATCH = 4


def measure(session: Session) -> dict[str, Any]:
    """Measures the server with v2."""
    texts = session.write("texts.bodies", bodies("twenty"))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise MeasurementError("one core is not enough: server and clients need separate cores")
    # Server and clients have separate cores, because the clients would take time from the server.
    server_cores, client_cores = cores[: len(cores) // 2], cores[len(cores) // 2 :]
    with pinned_to(server_cores):
        server = Server(session, "onnxruntime", RELEASES["v2"], QUEUE_CAPACITY=str(QUEUE))

    def send_traffic(clients: int, pause: float, seconds: float) -> list[dict]:
        load = ["--connections", clients, "--pause-ms", pause * 1e3, "--seconds", seconds]
        with rust_program(
            "traffic", f"127.0.0.1:{server.port}", "--bodies", texts, *load
        ) as traffic:
            read_json(traffic)
            return read_json(traffic)

    with server, pinned_to(client_cores):
        progress("overload: before")
        answers = send_traffic(CALM_CLIENTS, 0, session.choose(10, 2))
        # The first fifth warms up.
        calm = summarize(answers[len(answers) // 5 :])
        session.record_other_load()
        progress("overload: during")
        # Clients whose requests are queued or in work send nothing: only the others make the load.
        sending_clients = OVERLOAD_CLIENTS - CALM_CLIENTS - BATCH * len(server_cores)
        pause = sending_clients / (FACTOR * calm["answered"])
        meanwhile = summarize(send_traffic(OVERLOAD_CLIENTS, pause, session.choose(SECONDS, 3)))
        progress("overload: after")
        answers = send_traffic(CALM_CLIENTS, 0, 2)
        until = min(it["started"] for it in answers) + 1e9
        first_second = summarize([it for it in answers if it["started"] + it["took"] < until])
    session.record_other_load()
    return {
        "settings": dict(queue=QUEUE, clients=CALM_CLIENTS, factor=FACTOR, seconds=SECONDS),
        "calm": calm,
        "meanwhile": meanwhile,
        "first_second": first_second,
    }


def summarize(answers: list[dict]) -> dict[str, Any]:
    """Returns rates, latencies of the predictions in milliseconds, and the other outcomes."""
    took = sorted(it["took"] / 1e6 for it in answers if "version" in it)
    if not took:
        raise MeasurementError(f"the server answered none of {len(answers)} requests")
    first = min(it["started"] for it in answers)
    seconds = (max(it["started"] + it["took"] for it in answers) - first) / 1e9
    return {
        "asked": len(answers) / seconds,
        "answered": len(took) / seconds,
        "p50": took[len(took) * 50 // 100],
        "p99": took[len(took) * 99 // 100],
        "others": Counter(it["failure"] for it in answers if "failure" in it),
    }


@contextmanager
def pinned_to(cores: list[int]) -> Iterator[None]:
    """Pins programs that are started in this context to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
