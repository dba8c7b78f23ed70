"""Runs the servers that are compared."""

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

# Seconds. No server takes longer to start, on however slow a machine.
START = 60
ASK_EVERY = 0.005
STOP = 5


def model_environment(release: Path) -> dict[str, str]:
    """Returns what tells this project's server which release to load: ROOT/NAME/VERSION."""
    return {
        "MODEL_VERSION": release.name,
        "MODEL_NAME": release.parent.name,
        "MODEL_ROOT": str(release.parent.parent),
        "ONNXRUNTIME_LIBRARY": str(REPOSITORY / "target/onnxruntime/libonnxruntime.so"),
    }


OWN_SETTINGS = {
    "GRACE_SECONDS": "0",
    # As in the image.
    "MIMALLOC_PURGE_DELAY": "100",
    "MIMALLOC_ALLOW_THP": "0",
    # The peers do not write a line for each request either.
    "REQUEST_LOG": "failures",
}


class Server:
    """A server that answers; it runs until it is stopped or the context ends."""

    def __init__(self, session: Session, key: str, release: Path, **settings: str):
        about = SERVERS[key]
        self.key = key
        self.port = free_port()
        self.path = about.get("path", "/predict")
        self.takes_list = about.get("takes_list", False)
        command: list[Any] = [PROGRAMS / "model-server"]
        environment = model_environment(release) | OWN_SETTINGS | {"PORT": str(self.port)}
        if "peer" in about:
            program = REPOSITORY / "tests/bench/peers/run"
            command = [program, about["peer"], release, self.port]
            # Some peers leave files behind.
            environment = {"TMPDIR": str(session.scratch)}
        log = session.scratch / f"server-{self.port}.log"
        began = time.monotonic()
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, **environment, **about["environment"], **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        try:
            while not self._answers():
                if self.process.poll() is not None or time.monotonic() > began + START:
                    said = log.read_text(errors="replace")
                    raise MeasurementError(f"{about['name']} does not answer: {said}")
                time.sleep(ASK_EVERY)
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
        """Returns the megabytes that its processes hold together."""
        maps = []
        for process in self._processes():
            with suppress(psutil.Error):
                maps.append(process.memory_maps(grouped=False))
        return memory_of(maps) / 2**20

    def signal(self, number: int) -> None:
        """Signals all processes.

        SIGSTOP while it is not the server's turn, since some servers poll for work on the same
        cores; SIGCONT to let it go on.
        """
        for process in self._processes():
            with suppress(psutil.Error):
                process.send_signal(number)

    def _processes(self) -> list[psutil.Process]:
        """Returns the first process and all its descendants: some make sessions of their own."""
        with suppress(psutil.Error):
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def stop(self) -> None:
        """Tells it to end, and kills the processes that do not."""
        # Before: once the first process has ended, the others are not known as its descendants.
        processes = self._processes()
        try:
            # A stopped process heeds no other signal.
            self.signal(signal.SIGCONT)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            psutil.wait_procs(processes, STOP)
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
    """Returns what an engine reaches with no server around it, on texts in a file, one a line."""
    command = [PROGRAMS / "model-server", "measure", "--engine", engine]
    command += ["--seconds", seconds, "--texts", texts]
    return float(run(command, 60, model_environment(release)).split()[0])
