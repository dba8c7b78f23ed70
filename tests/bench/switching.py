"""What clients notice of a switch, for each way to switch, and the cost of the router."""

import json
import os
import shutil
import signal
import time
from collections import Counter
from contextlib import ExitStack, suppress
from http.client import HTTPException
from pathlib import Path
from string import Template
from typing import Any

from load import golden_inputs, post, wrk
from programs import (
    PROGRAMS,
    MeasurementError,
    Session,
    progress,
    read_json,
    rotated,
    run,
    rust_program,
    started,
)

ROUNDS = 10
# There and back, twice: a round ends where it began.
SWITCHES = ["green", "blue", "green", "blue"]
CONNECTIONS = 64
# Each client's pause after an answer, in milliseconds: a load that a server has to bear, and more
# than v2 can answer on two cores, so that requests queue and commands fight for a core.
LOADS = {"moderate": 150, "saturating": 5}
WAYS = ["deployer", "flag", "reload"]
VERSIONS = {"blue": "v1", "green": "v2"}
# The shortest time between a switch and the next one, in seconds.
SETTLED = 0.6
# Seconds after which a switch counts as failed. nginx starts and reloads far faster.
PATIENCE = 10

SERVING = {"connections": 64, "rounds": 3, "seconds": 5}
SENTENCE = {"text": "The plot was not good at all."}
ROUTES = ["direct", "plain", "router"]
TEMPLATES = Path(__file__).with_name("plain-router")


def measure(session: Session) -> dict[str, Any]:
    """Measures switching under both loads by all ways, and serving by all routes."""
    with ExitStack() as stack:
        routers = Routers(session, stack)
        return {
            "settings": {"clients": CONNECTIONS, "body": json.dumps(SENTENCE), **SERVING},
            "pauses": LOADS,
            "switching": _measure_switching(session, routers),
            "serving": _measure_serving(session, routers),
        }


class Routers:
    """Two model servers, this project's router, and a plain one.

    The plain router is the usual way to switch: nginx with one upstream, whose file is rewritten
    before a reload. It is the same nginx with the same `nginx.conf` as the other router: log,
    keep-alive, worker processes and timeouts are equal. Only the upstream and its server differ.
    """

    def __init__(self, session: Session, stack: ExitStack):
        self.ports: dict[str, int] = read_json(stack.enter_context(rust_program("stack")))
        self.directory = Path(self.ports.pop("directory"))
        # A standby would hide failures of the active color, and only behind this project's router.
        if list(self.directory.glob("run/flags/fit-*")):
            raise MeasurementError("a fit-* flag is set, so a standby could hide failures")
        self.plain = session.scratch / "plain-router"
        (self.plain / "logs").mkdir(parents=True)
        shutil.copy(self.directory / "nginx/nginx.conf", self.plain)
        self._write("addresses.conf", port=self.ports["plain"], **self.ports)
        self._write("upstream.conf", color="blue", server=self.ports["blue"])
        # As the deployer starts its router: as root, its workers run as root too.
        user = " user root;" if os.geteuid() == 0 else ""
        self.nginx = ["nginx", "-p", self.plain, "-c", self.plain / "nginx.conf"]
        self.nginx += ["-g", f"daemon off;{user}"]
        log = stack.enter_context((self.plain / "error.log").open("w"))
        stack.enter_context(started(self.nginx, stdout=log, stderr=log))
        _await_version(self.ports["plain"], "v1")

    def _write(self, name: str, **values: Any) -> None:
        """Replaces a file of the plain router in one step."""
        new = self.plain / f"{name}.new"
        new.write_text(Template((TEMPLATES / name).read_text()).substitute(values))
        new.rename(self.plain / name)

    def switch(self, way: str, color: str) -> tuple[int, int]:
        """Switches, and returns when the command began and when it returned, in nanoseconds."""
        flag = self.directory / "run/flags/green"
        began = time.monotonic_ns()
        if way == "deployer":
            command = [PROGRAMS / "deployer", "switch", color]
            run(command, 60, {"DEPLOYER_FLEET": "process"}, cwd=self.directory)
        elif way == "reload":
            self._write("upstream.conf", color=color, server=self.ports[color])
            run([*self.nginx, "-s", "reload"], PATIENCE)
        elif color == "green":
            flag.touch()
        else:
            flag.unlink(missing_ok=True)
        return began, time.monotonic_ns()


def _measure_switching(session: Session, routers: Routers) -> list[dict[str, Any]]:
    rounds = session.choose(ROUNDS, 1)
    bodies = session.write("golden.bodies", golden_inputs())
    records = []
    for number in range(rounds):
        progress(f"switching, round {number + 1} of {rounds}")
        for load, pause in LOADS.items():
            for way in rotated(WAYS, number):
                told = _there_and_back(routers, way, bodies, pause)
                records.append({"load": load, "way": way, **told})
        session.look_for_others()
    return records


def _there_and_back(routers: Routers, way: str, bodies: Path, pause: float) -> dict[str, Any]:
    port = routers.ports["plain" if way == "reload" else "router"]
    load = ["--bodies", bodies, "--connections", CONNECTIONS, "--pause-ms", pause]
    # Each connection is open and in use before the first switch.
    load += ["--ready-after", CONNECTIONS * 4]
    switches = []
    with rust_program("traffic", f"127.0.0.1:{port}", *load) as traffic:
        read_json(traffic)
        for color in SWITCHES:
            began, returned = routers.switch(way, color)
            # This program does nothing meanwhile: it would take a core at the moment that counts.
            time.sleep(SETTLED)
            _await_version(port, VERSIONS[color])
            switches.append((VERSIONS[color], began, returned, time.monotonic_ns()))
        traffic.send_signal(signal.SIGTERM)
        answers = read_json(traffic)
    return {
        "requests": len(answers),
        "failures": Counter(it["failure"] for it in answers if "failure" in it),
        "switches": [observe(answers, *switch) for switch in switches],
    }


def _await_version(port: int, version: str) -> None:
    """Waits until a request on a new connection is answered by this version."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        # A worker that quits may reset a new connection.
        with suppress(OSError, HTTPException):
            if json.loads(post(port, "/predict", SENTENCE)[1]).get("model_version") == version:
                return
        time.sleep(0.01)
    raise MeasurementError(f"{version} did not answer {PATIENCE} s after a switch to it")


def observe(
    answers: list[dict], version: str, began: int, returned: int, until: int
) -> dict[str, float | None]:
    """Returns what clients noticed of a switch to a version; times in milliseconds.

    Only answers that ended before the next switch count: a request that was on its way then may
    rightly be answered by either version. A time from the return is negative if it was before.
    """
    complete = [it for it in answers if "version" in it and it["started"] + it["took"] < until]
    of_new = [it for it in complete if it["version"] == version and it["started"] >= began]
    if not of_new:
        raise MeasurementError(f"no client got an answer of {version} after the switch to it")
    first = min(it["started"] + it["took"] for it in of_new)
    # Requests that began after the return, and that the old version answered.
    of_old = [it for it in complete if it["version"] != version and it["started"] >= returned]
    # When the router had switched.
    last_late = max((it["started"] for it in of_old), default=None)
    return {
        "command": (returned - began) / 1e6,
        "new_from_begin": (first - began) / 1e6,
        "new_from_return": (first - returned) / 1e6,
        "late": len(of_old),
        "last_late": None if last_late is None else (last_late - returned) / 1e6,
    }


def _measure_serving(session: Session, routers: Routers) -> list[dict[str, Any]]:
    rounds = session.choose(SERVING["rounds"], 1)
    bodies = session.write("sentence.bodies", [SENTENCE])
    records = []
    # Round 0 warms up.
    for number in range(rounds + 1):
        for color, version in VERSIONS.items():
            progress(f"serving {version}, round {number} of {rounds}")
            routers.switch("deployer", color)
            routers.switch("reload", color)
            # Workers from before a reload still answer for a moment.
            time.sleep(0.3)
            for route in rotated(ROUTES, number):
                port = routers.ports[color if route == "direct" else route]
                seconds = session.choose(SERVING["seconds"], 1) if number else 1
                sample = wrk(port, "/predict", bodies, SERVING["connections"], seconds)
                if number:
                    records.append({"version": version, "route": route, **sample})
        session.look_for_others()
    return records
