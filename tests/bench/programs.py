"""Programs that the benchmark runs: where they are, on which ports, and how they end."""

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

# Seconds for a program to end after it was told to: the stack stops three processes one by one.
END_SECONDS = 30

# Below the ports that the kernel gives to clients, and above those of the tests. Each is used once:
# not every server can listen on a port that another one just left.
_ports = iter(range(23_000, 32_000))

T = TypeVar("T")


class MeasurementError(Exception):
    """Something could not be measured."""


@dataclass(frozen=True)
class Session:
    """What each measurement needs."""

    scratch: Path
    quick: bool
    # How long a soak takes.
    minutes: int
    # Notes the share of the cores that others use. Call it only while the benchmark is idle.
    look_for_others: Callable[[], None]

    def choose(self, whole: T, quick: T) -> T:
        """Returns the setting for a whole run or for a quick one."""
        return quick if self.quick else whole

    def write(self, name: str, lines: list[Any]) -> Path:
        """Writes a scratch file: texts as they are, and other values as JSON, one a line."""
        path = self.scratch / name
        texts = [it if isinstance(it, str) else json.dumps(it, ensure_ascii=False) for it in lines]
        path.write_text("\n".join(texts) + "\n")
        return path


def progress(text: str) -> None:
    """Tells the person who waits what happens."""
    print(text, file=sys.stderr, flush=True)


def free_port() -> int:
    """Returns a loopback port on which no program listens."""
    for port in _ports:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise MeasurementError("no port from 23000 to 31999 is free")


def rotated(items: list[T], number: int) -> list[T]:
    """Returns the items in the order of a round: each round begins with another one."""
    first = number % len(items)
    return items[first:] + items[:first]


def run(command: list[Any], seconds: float, environment: dict | None = None, **options: Any) -> str:
    """Runs a program that has to succeed within some seconds, and returns what it prints."""
    options |= {"env": {**os.environ, **(environment or {})}, "timeout": seconds}
    ended = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        process_group=0,
        **options,
    )
    if ended.returncode != 0:
        said = f"{ended.stdout}{ended.stderr}"
        raise MeasurementError(f"{command[0]} ended with {ended.returncode}: {said}")
    return ended.stdout


@contextmanager
def started(command: list[Any], **options: Any) -> Iterator[subprocess.Popen]:
    """Runs a program until the context ends.

    It has a process group of its own, so that Ctrl-C reaches this program alone, which ends the
    others in order.
    """
    words = [str(word) for word in command]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0, **options)
    try:
        yield process
    finally:
        try:
            process.terminate()
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            progress(f"bench: {command[0]} did not end and was killed")
        finally:
            process.kill()
            process.wait()


@contextmanager
def rust_program(*arguments: Any) -> Iterator[subprocess.Popen]:
    """Runs a part of the benchmark that is written in Rust, until the context ends."""
    command = [PROGRAMS / "bench", *arguments]
    with started(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


def read_json(process: subprocess.Popen) -> Any:
    """Returns the next line that a part prints, as JSON. The section's alarm bounds the wait."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise MeasurementError(f"{process.args!r} ended without a result")
    return json.loads(line)
