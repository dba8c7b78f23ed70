"""Measures what clients notice of a switch, for each way to switch, and the cost of the router."""

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
    running,
    rust_program,
)

ROUNDS = 10
# Two switches in each direction, so that a round ends with the color with which it began.
SWITCHES = ["green", "blue", "green", "blue"]
CONNECTIONS = 64
# Each client's pause after a response, in milliseconds. `moderate` is a normal load. `saturating`
# is more than v2 can answer on two cores, so requests queue, and commands compete for a core.
LOADS = {"moderate": 150, "saturating": 5}
WAYS = ["deployer", "flag", "reload"]
VERSIONS = {"blue": "v1", "green": "v2"}
# The shortest time between two switches, in seconds.
SWITCH_INTERVAL = 0.6
# Seconds after which a switch counts as failed. nginx starts and reloads much faster.
SWITCH_TIMEOUT = 10

SERVING = {"connections": 64, "rounds": 3, "seconds": 5}
SENTENCE = {"text": "The plot was not good at all."}
ROUTES = ["direct", "plain", "router"]
TEMPLATES = Path(__file__).with_name("plain-router")


def measure(session: Session) -> dict[str, Any]:
    """Measures each way to switch under both loads, and serving through each route."""
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

    The plain router shows the usual way to switch: nginx has one upstream, whose file is rewritten
    before a reload. It uses the same nginx program and `nginx.conf` as the other router: log,
    keep-alive, workers, and timeouts are equal. Only the upstream and its server differ.
    """

    def __init__(self, session: Session, stack: ExitStack):
        self.ports: dict[str, int] = read_json(stack.enter_context(rust_program("stack")))
        self.directory = Path(self.ports.pop("directory"))
        # A standby would hide failures of the active color, and only behind this project's router.
        if list(self.directory.glob("run/flags/fit-*")):
            raise MeasurementError("a fit-* flag is set, so a standby could hide failures")
        self.plain = session.scratch / "plain-router"
        (self.plain / "logs").mkdir(parents=True)
        for name in ("nginx.conf", "limits.conf", "repeat.conf"):
            shutil.copy(self.directory / "nginx" / name, self.plain)
        self._write("addresses.conf", port=self.ports["plain"], **self.ports)
        self._write("upstream.conf", color="blue", server=self.ports["blue"])
        # The deployer starts its router in the same way: for root, the workers run as root too.
        user = " user root;" if os.geteuid() == 0 else ""
        self.nginx = ["nginx", "-p", self.plain, "-c", self.plain / "nginx.conf"]
        self.nginx += ["-g", f"daemon off;{user}"]
        log = stack.enter_context((self.plain / "error.log").open("w"))
        stack.enter_context(running(self.nginx, stdout=log, stderr=log))
        _await_version(self.ports["plain"], "v1")

    def _write(self, name: str, **values: Any) -> None:
        """Replaces a file of the plain router in one step."""
        new = self.plain / f"{name}.new"
        new.write_text(Template((TEMPLATES / name).read_text()).substitute(values))
        new.rename(self.plain / name)

    def switch(self, way: str, color: str) -> tuple[int, int]:
        """Switches. Returns the times at which the command began and returned, in nanoseconds."""
        flag = self.directory / "run/flags/green"
        began = time.monotonic_ns()
        if way == "deployer":
            command = [PROGRAMS / "deployer", "switch", color]
            run(command, 60, {"DEPLOYER_FLEET": "process"}, cwd=self.directory)
        elif way == "reload":
            self._write("upstream.conf", color=color, server=self.ports[color])
            run([*self.nginx, "-s", "reload"], SWITCH_TIMEOUT)
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
                record = _switch_back_and_forth(routers, way, bodies, pause)
                records.append({"load": load, "way": way, **record})
        session.record_other_load()
    return records


def _switch_back_and_forth(
    routers: Routers, way: str, bodies: Path, pause: float
) -> dict[str, Any]:
    port = routers.ports["plain" if way == "reload" else "router"]
    load = ["--bodies", bodies, "--connections", CONNECTIONS, "--pause-ms", pause]
    # Every connection is open and has sent requests before the first switch.
    load += ["--ready-after", CONNECTIONS * 4]
    switches = []
    with rust_program("traffic", f"127.0.0.1:{port}", *load) as traffic:
        read_json(traffic)
        for color in SWITCHES:
            began, returned = routers.switch(way, color)
            # This program only sleeps here, so that it takes no processor time from the switch.
            time.sleep(SWITCH_INTERVAL)
            _await_version(port, VERSIONS[color])
            switches.append((VERSIONS[color], began, returned, time.monotonic_ns()))
        traffic.send_signal(signal.SIGTERM)
        answers = read_json(traffic)
    return {
        "requests": len(answers),
        "failures": Counter(it["failure"] for it in answers if "failure" in it),
        "switches": [summarize_switch(answers, *switch) for switch in switches],
    }


def _await_version(port: int, version: str) -> None:
    """Waits until a request on a new connection is answered by this version."""
    until = time.monotonic() + SWITCH_TIMEOUT
    while time.monotonic() < until:
        # An nginx worker that quits may reset a new connection.
        with suppress(OSError, HTTPException):
            if json.loads(post(port, "/predict", SENTENCE)[1]).get("model_version") == version:
                return
        time.sleep(0.01)
    raise MeasurementError(f"{version} did not answer {SWITCH_TIMEOUT} s after a switch to it")


def summarize_switch(
    answers: list[dict], version: str, began: int, returned: int, until: int
) -> dict[str, float | None]:
    """Returns what clients noticed of a switch to a version. Times are in milliseconds.

    Only answers that ended before the next switch count. Either version may answer a request that
    was in flight at that moment. A time from the return is negative if it was before the return.
    """
    complete = [it for it in answers if "version" in it and it["started"] + it["took"] < until]
    by_new_version = [it for it in complete if it["version"] == version and it["started"] >= began]
    if not by_new_version:
        raise MeasurementError(f"{version} answered no client after the switch to it")
    first = min(it["started"] + it["took"] for it in by_new_version)
    # Requests that began after the return, and that the old version answered.
    by_old_version = [
        it for it in complete if it["version"] != version and it["started"] >= returned
    ]
    # The start of the last request that the old version answered after the return.
    last_late = max((it["started"] for it in by_old_version), default=None)
    return {
        "command": (returned - began) / 1e6,
        "new_from_begin": (first - began) / 1e6,
        "new_from_return": (first - returned) / 1e6,
        "late": len(by_old_version),
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
            # The old nginx workers answer for a moment after a reload.
            time.sleep(0.3)
            for route in rotated(ROUTES, number):
                port = routers.ports[color if route == "direct" else route]
                seconds = session.choose(SERVING["seconds"], 1) if number else 1
                sample = wrk(port, "/predict", bodies, SERVING["connections"], seconds)
                if number:
                    records.append({"version": version, "route": route, **sample})
        session.record_other_load()
    return records
