"""Measures whether the model server's memory grows, with both engines and mixed texts."""

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from load import EXTRA_SECONDS, bodies, read_wrk, wrk_command
from models import RELEASES
from programs import Session, progress, running
from servers import Server

CONNECTIONS = 8
# Seconds between readings. One reading depends on the texts in work, so a minute's median counts.
READ_EVERY = 2


def measure(session: Session) -> dict[str, Any]:
    """Loads both servers for the session's minutes. In a quick run a minute has 5 s, with v1."""
    release = RELEASES[session.choose("minilm-fp32", "v1")]
    texts = session.write("texts.bodies", bodies("mixed"))
    figures: dict[str, Any] = {"minutes": [], "failed": 0}
    with ExitStack() as stack:
        engines = ("onnxruntime", "rten")
        servers = [stack.enter_context(Server(session, it, release)) for it in engines]
        for minute in range(1, session.minutes + 1):
            memory, failed = _load(servers, texts, session.choose(60, 5))
            figures["minutes"].append(memory)
            figures["failed"] += failed
            cells = ", ".join(f"{key} {megabytes:.1f} MB" for key, megabytes in memory.items())
            progress(f"soak: minute {minute} of {session.minutes}: {cells}")
    return figures


def _load(servers: list[Server], texts: Path, seconds: int) -> tuple[dict[str, float], int]:
    """Loads all servers. Returns each server's memory in MB, and the failed requests."""
    readings: dict[str, list[float]] = {it.key: [] for it in servers}
    failed = 0
    with ExitStack() as stack:
        loads = []
        for server in servers:
            command = wrk_command(server.port, "/predict", texts, CONNECTIONS, seconds)
            process = running(command, stdout=subprocess.PIPE, text=True)
            loads.append(stack.enter_context(process))
        until = time.monotonic() + seconds - READ_EVERY / 2
        while time.monotonic() + READ_EVERY < until:
            time.sleep(READ_EVERY)
            for server in servers:
                readings[server.key].append(server.memory())
        for load in loads:
            failed += int(read_wrk(load.communicate(timeout=EXTRA_SECONDS)[0])["failed"])
    return {key: median(values) for key, values in readings.items()}, failed
