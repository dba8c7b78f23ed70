"""Compares the model server with its peers, and its HTTP part with a bare axum handler."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from load import texts, wrk
from programs import REPOSITORY, Session, progress, read_json, rotated, rust_program
from servers import SERVERS, Server, texts_per_second

ROUNDS = 3
SECONDS = 2
# Load before each measurement, because the caches of a paused server are cold.
WARM_UP_SECONDS = 1
# Seconds between SIGCONT and the load. A server may first catch up on work from its pause.
PAUSE_AFTER_CONTINUE = 0.3
# The number of measured starts of each server. One start before them does not count.
STARTS = 3
# The mix of texts, and the number of connections.
LOADS = [("twenty", 1), ("twenty", 32), ("twenty", 128), ("mixed", 32)]

HTTP_CONNECTIONS = 128
# The server parses this body and rejects it. It reaches no worker.
HTTP_BODY = {"text": ""}

RELEASES = {
    "v1": REPOSITORY / "models/sentiment/v1",
    "v2": REPOSITORY / "models/sentiment/v2",
    "minilm-fp32": REPOSITORY / "target/minilm/minilm/fp32",
    "minilm-int8": REPOSITORY / "target/minilm/minilm/int8",
}
# The releases with which the model server is compared with its peers.
COMPARED = ["v1", "minilm-fp32", "minilm-int8"]


def measure(session: Session) -> dict[str, Any]:
    """Measures all servers with all models. The servers of a model all run, and take turns."""
    records = _measure_http(session)
    session.record_other_load()
    for model in session.choose(COMPARED, ["v1"]):
        records += _compare(session, model)
    settings = {"rounds": ROUNDS, "seconds": SECONDS, "warm_up": WARM_UP_SECONDS, "starts": STARTS}
    settings["http_connections"] = HTTP_CONNECTIONS
    return {"settings": settings, "servers": SERVERS, "records": records}


def _measure_http(session: Session) -> list[dict]:
    """Posts a body that both servers reject: the model server, and a bare axum handler."""
    rounds = session.choose(ROUNDS, 1)
    bodies = session.write("http.bodies", [HTTP_BODY])
    records = []
    with rust_program("bare-handler") as bare, Server(session, "rten", RELEASES["v1"]) as server:
        ports = {"bare": read_json(bare)["port"], "rten": server.port}
        # Round 0 warms up.
        for number in range(rounds + 1):
            progress(f"HTTP alone, round {number} of {rounds}")
            seconds = session.choose(SECONDS, 1) if number else WARM_UP_SECONDS
            for key, port in ports.items():
                sample = wrk(port, "/predict", bodies, HTTP_CONNECTIONS, seconds)
                if number:
                    records.append({"kind": "http", "server": key, **sample})
    return records


def _compare(session: Session, model: str) -> list[dict]:
    keys = [key for key, entry in SERVERS.items() if model in entry.get("models", [model])]
    starts = session.choose(STARTS, 1)
    records: list[dict] = []

    def record(kind: str, server: str, **figures: Any) -> None:
        records.append({"kind": kind, "model": model, "server": server, **figures})

    with ExitStack() as stack:
        running_servers = []
        # Round 0 does not count, because it reads the files from the disk.
        for number in range(starts + 1):
            progress(f"{model}: start {number} of {starts}")
            for key in keys:
                server = Server(session, key, RELEASES[model])
                if number:
                    record("start", key, seconds=server.started_in)
                if number < starts:
                    server.stop()
                else:
                    running_servers.append(stack.enter_context(server))
                    server.signal(signal.SIGSTOP)
        for mix, connections in session.choose(LOADS, LOADS[1:2]):
            case = {"model": model, "mix": mix, "connections": connections}
            records += [case | it for it in _measure_case(session, case, running_servers)]
            session.record_other_load()
        for server in running_servers:
            record("memory", server.key, megabytes=server.memory())
    return records


def _measure_case(session: Session, case: dict, running: list[Server]) -> list[dict]:
    rounds = session.choose(ROUNDS, 1)
    seconds = session.choose(SECONDS, 1)
    mix_texts = texts(case["mix"])
    lines = session.write("texts", mix_texts)
    bodies: dict[str, Path] = {
        it.key: session.write(f"{it.key}.bodies", [it.body(text) for text in mix_texts])
        for it in running
    }
    load = f"{case['model']}, {case['mix']}, {case['connections']} connections"
    records = []
    for number in range(1, rounds + 1):
        progress(f"{load}, round {number} of {rounds}")
        # Rotated, so that not always the same server is the first of a round.
        for server in rotated(running, number):
            server.signal(signal.SIGCONT)
            time.sleep(PAUSE_AFTER_CONTINUE)
            target = (server.port, server.path, bodies[server.key], case["connections"])
            wrk(*target, WARM_UP_SECONDS)
            records.append({"kind": "load", "server": server.key, **wrk(*target, seconds)})
            server.signal(signal.SIGSTOP)
        for engine in ("onnxruntime", "rten"):
            rate = texts_per_second(engine, RELEASES[case["model"]], lines, seconds)
            records.append({"kind": "engine", "server": engine, "per_second": rate})
    return records
