"""The model server under four times the load that it can answer."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from load import bodies
from models import RELEASES
from programs import MeasurementError, Session, progress, read_json, rust_program
from servers import Server

# Clients before and after.
CALM_CLIENTS = 256
# The queue's capacity: no calm client is ever turned away.
QUEUE = 256
FACTOR = 4
SECONDS = 30
OVERLOAD_CLIENTS = 1024
# Texts that each of the server's cores answers at once when the queue is full.
BATCH = 4


def measure(session: Session) -> dict[str, Any]:
    """Measures the server with the second release."""
    texts = session.write("texts.bodies", bodies("twenty"))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise MeasurementError("one core is not enough for a server and its clients")
    # Cores of their own: the clients would take from the server the cores that they ask for.
    of_server, of_clients = cores[: len(cores) // 2], cores[len(cores) // 2 :]
    with keep_to(of_server):
        server = Server(session, "onnxruntime", RELEASES["v2"], QUEUE_CAPACITY=str(QUEUE))

    def ask(clients: int, pause: float, seconds: float) -> list[dict]:
        load = ["--connections", clients, "--pause-ms", pause * 1e3, "--seconds", seconds]
        with rust_program(
            "traffic", f"127.0.0.1:{server.port}", "--bodies", texts, *load
        ) as traffic:
            read_json(traffic)
            return read_json(traffic)

    with server, keep_to(of_clients):
        progress("overload: before")
        answers = ask(CALM_CLIENTS, 0, session.choose(10, 2))
        # The first fifth warms up.
        calm = summarize(answers[len(answers) // 5 :])
        session.look_for_others()
        progress("overload: meanwhile")
        # A client that is let in waits and asks nothing meanwhile, so the others have to ask more.
        asking = OVERLOAD_CLIENTS - CALM_CLIENTS - BATCH * len(of_server)
        pause = asking / (FACTOR * calm["answered"])
        meanwhile = summarize(ask(OVERLOAD_CLIENTS, pause, session.choose(SECONDS, 3)))
        progress("overload: afterwards")
        answers = ask(CALM_CLIENTS, 0, 2)
        until = min(it["started"] for it in answers) + 1e9
        first_second = summarize([it for it in answers if it["started"] + it["took"] < until])
    session.look_for_others()
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
        raise MeasurementError(f"none of {len(answers)} requests was answered")
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
def keep_to(cores: list[int]) -> Iterator[None]:
    """Keeps the programs that are started meanwhile to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
