"""Starts, measures, and stops the servers that are compared."""

import http.client
import os
import signal
import subprocess
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from figures import memory_of
from load import post
from programs import PROGRAMS, REPOSITORY, MeasurementError, Session, free_port, run

SERVERS: dict[str, dict] = tomllib.loads(Path(__file__).with_name("servers.toml").read_text())

# Seconds. On a slow machine too, each server starts within this time.
START_TIMEOUT = 60
POLL_INTERVAL = 0.005
STOP_TIMEOUT = 5


def model_environment(release: Path) -> dict[str, str]:
    """Returns the variables with which the model server loads a release (ROOT/NAME/VERSION)."""
    return {
        "MODEL_VERSION": release.name,
        "MODEL_NAME": release.parent.name,
        "MODEL_ROOT": str(release.parent.parent),
        "ONNXRUNTIME_LIBRARY": str(REPOSITORY / "target/onnxruntime/libonnxruntime.so"),
    }


OWN_SETTINGS = {
    "GRACE_SECONDS": "0",
    # The image sets these two as well.
    "MIMALLOC_PURGE_DELAY": "100",
    "MIMALLOC_ALLOW_THP": "0",
    # The peers do not log each request either.
    "REQUEST_LOG": "failures",
}


class Server:
    """A running server that answers requests. It stops at the end of the context, or by `stop`."""

    def __init__(self, session: Session, key: str, release: Path, **settings: str):
        entry = SERVERS[key]
        self.key = key
        self.port = free_port()
        self.path = entry.get("path", "/predict")
        self.takes_list = entry.get("takes_list", False)
        command: list[Any] = [PROGRAMS / "model-server"]
        environment = model_environment(release) | OWN_SETTINGS | {"PORT": str(self.port)}
        if "peer" in entry:
            program = REPOSITORY / "tests/bench/peers/run"
            command = [program, entry["peer"], release, self.port]
            # Some peers leave files in this directory.
            environment = {"TMPDIR": str(session.scratch)}
        log = session.scratch / f"server-{self.port}.log"
        began = time.monotonic()
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, **environment, **entry["environment"], **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        try:
            while not self._answers():
                if self.process.poll() is not None or time.monotonic() > began + START_TIMEOUT:
                    text = log.read_text(errors="replace")
                    raise MeasurementError(f"{entry['name']} does not answer; its log: {text}")
                time.sleep(POLL_INTERVAL)
        except BaseException:
            self.stop()
            raise
        self.started_in = time.monotonic() - began

    def body(self, text: str) -> dict[str, Any]:
        """Returns the body of a request for a text."""
        return {"text": [text] if self.takes_list else text}

    def _answers(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return post(self.port, self.path, self.body("a fine film"))[0] == 200
        return False

    def memory(self) -> float:
        """Returns the memory of all processes of the server, in MB."""
        maps = []
        for process in self._processes():
            with suppress(psutil.Error):
                maps.append(process.memory_maps(grouped=False))
        return memory_of(maps) / 2**20

    def signal(self, number: int) -> None:
        """Sends a signal to all processes of the server.

        SIGSTOP pauses the server while another one is measured, because some servers poll for work
        on the same cores. SIGCONT lets it continue.
        """
        for process in self._processes():
            with suppress(psutil.Error):
                process.send_signal(number)

    def _processes(self) -> list[psutil.Process]:
        """Returns the first process and its descendants. Some of them start their own sessions."""
        with suppress(psutil.Error):
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def stop(self) -> None:
        """Stops the server, and kills the processes that do not stop in time."""
        # Before the signal: after the first process has ended, its descendants cannot be found.
        processes = self._processes()
        try:
            # A process that SIGSTOP has paused does not react to SIGTERM.
            self.signal(signal.SIGCONT)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            psutil.wait_procs(processes, STOP_TIMEOUT)
        finally:
            for process in processes:
                with suppress(psutil.Error):
                    process.kill()
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def texts_per_second(engine: str, release: Path, texts: Path, seconds: int) -> float:
    """Returns the texts per second of an engine without a server, on the lines of a file."""
    command = [PROGRAMS / "model-server", "measure", "--engine", engine]
    command += ["--seconds", seconds, "--texts", texts]
    return float(run(command, 60, model_environment(release)).split()[0])
