"""Starts and stops the programs of the benchmark, and chooses their ports."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target")
PROGRAMS = TARGET / "release"

# Seconds that a program may take to stop. The stack stops three processes one by one.
STOP_SECONDS = 30

# Below the kernel's ports for outgoing connections, and above the ports of the tests. Each is used
# once, because not every server can listen on a port that another server has just left.
_ports = iter(range(23_000, 32_000))

T = TypeVar("T")


class MeasurementError(Exception):
    """A measurement failed."""


@dataclass(frozen=True)
class Session:
    """What every measurement needs: a scratch directory, and how long to measure."""

    scratch: Path
    quick: bool
    # The duration of a soak, in minutes.
    minutes: int
    # Records the share of the cores that other processes use. The benchmark must be idle meanwhile.
    record_other_load: Callable[[], None]

    def choose(self, full: T, quick: T) -> T:
        """Returns the first value in a full run, and the second one in a quick run."""
        return quick if self.quick else full

    def write(self, name: str, lines: list[Any]) -> Path:
        """Writes a scratch file, one value per line: texts as they are, other values as JSON."""
        path = self.scratch / name
        texts = [it if isinstance(it, str) else json.dumps(it, ensure_ascii=False) for it in lines]
        path.write_text("\n".join(texts) + "\n")
        return path


def progress(text: str) -> None:
    """Prints a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def free_port() -> int:
    """Returns a loopback port on which no program listens."""
    for port in _ports:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise MeasurementError("no port from 23000 to 31999 is free")


def rotated(items: list[T], number: int) -> list[T]:
    """Returns the items rotated by `number`, so that each round begins with another item."""
    first = number % len(items)
    return items[first:] + items[:first]


def run(command: list[Any], seconds: float, environment: dict | None = None, **options: Any) -> str:
    """Runs a program, and returns its output. Raises if it fails or exceeds the time limit."""
    options |= {"env": {**os.environ, **(environment or {})}, "timeout": seconds}
    result = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        process_group=0,
        **options,
    )
    if result.returncode != 0:
        output = f"{result.stdout}{result.stderr}"
        raise MeasurementError(f"{command[0]} exited with {result.returncode}: {output}")
    return result.stdout


@contextmanager
def running(command: list[Any], **options: Any) -> Iterator[subprocess.Popen]:
    """Runs a program until the context ends.

    The program has its own process group. So Ctrl-C reaches only the benchmark, which then stops
    all programs in order.
    """
    words = [str(word) for word in command]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0, **options)
    try:
        yield process
    finally:
        try:
            process.terminate()
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            progress(f"bench: {command[0]} did not stop within {STOP_SECONDS} s and was killed")
        finally:
            process.kill()
            process.wait()


@contextmanager
def rust_program(*arguments: Any) -> Iterator[subprocess.Popen]:
    """Runs a part of the Rust program `bench` until the context ends."""
    command = [PROGRAMS / "bench", *arguments]
    with running(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


def read_json(process: subprocess.Popen) -> Any:
    """Returns the next line of a program's output as JSON. The section's alarm bounds the wait."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise MeasurementError(f"{process.args!r} ended without a result")
    return json.loads(line)
