"""Measures on this machine over loopback, saves the raw rounds, and writes docs/benchmarks.md.

All programs that are compared are measured in one run with interleaved rounds. So noise on the
machine affects all of them. Start it by `scripts/bench`, which builds and installs what it needs.
"""

import argparse
import importlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import document
from figures import missed
from programs import REPOSITORY, TARGET, MeasurementError, Session, progress

DOCUMENT = REPOSITORY / "docs/benchmarks.md"
RESULTS = TARGET / "bench/results"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
# Time limits in minutes. Even on a slow and busy machine, the rounds take much less.
TIME_LIMITS = {"models": 60, "overload": 5, "switching": 12, "generator": 10}


def stop(number: int, _: object) -> None:
    """Exits in order, so that all started programs are stopped."""
    # A second signal must not interrupt the stopping of the programs.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    reason = "time limit exceeded" if number == signal.SIGALRM else signal.Signals(number).name
    # With a text, sys.exit prints it and exits with 1.
    sys.exit(f"bench: stopped: {reason}")


def measure(what: str, quick: bool, minutes: int) -> list[str]:
    """Measures, saves, and writes one section. Returns the missed goals that have `must`."""
    # Imported here, because they need psutil, and `render` works without it.
    machine, section = importlib.import_module("machine"), importlib.import_module(what)
    signal.alarm(60 * TIME_LIMITS.get(what, 2 * minutes + 10))
    description = machine.describe()

    def record_other_load() -> None:
        description["used_by_others"].append(machine.share_in_use())

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        # nginx's workers may run as another user.
        Path(scratch).chmod(0o755)
        figures = section.measure(Session(Path(scratch), quick, minutes, record_other_load))
    signal.alarm(0)
    result = {"what": what, "quick": quick, "machine": description, "figures": figures}
    RESULTS.mkdir(parents=True, exist_ok=True)
    stamp = description["date"].removesuffix(" UTC").replace(" ", "T").replace(":", "")
    path = RESULTS / f"{stamp}-{what}{'-quick' if quick else ''}.json"
    path.write_text(json.dumps(result))
    progress(f"bench: saved {path}")
    # The figures are written first, so that missed goals are in the document too.
    write(result)
    # The figures of a quick run are too inaccurate to judge.
    return [] if quick else missed(what, figures)


def write(result: dict[str, Any]) -> None:
    """Prints a result, and replaces its section of the document."""
    text = document.render(result)
    print(text, flush=True)
    if result["what"] in document.SECTIONS and not result["quick"]:
        before = DOCUMENT.read_text() if DOCUMENT.exists() else ""
        DOCUMENT.write_text(document.replace_section(before, result["what"], text))


def parse() -> argparse.Namespace:
    """Reads the command line."""
    sections = document.SECTIONS
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__)
    help_text = f"sections to measure ({', '.join(sections)}), or soak, or render FILE..."
    parser.add_argument("what", nargs="+", help=help_text)
    parser.add_argument("--minutes", type=int, default=60, help="duration of a soak")
    help_text = "measure for seconds, to test the benchmark; leave the document unchanged"
    parser.add_argument("--quick", action="store_true", help=help_text)
    arguments = parser.parse_args()
    what = arguments.what
    is_valid = set(what) <= set(sections) or what == ["soak"] or (what[0] == "render" and what[1:])
    if not is_valid or arguments.minutes < 1:
        parser.error(f"cannot measure {' '.join(what)} for {arguments.minutes} minutes")
    return arguments


def main() -> int:
    """Returns 0 if all sections were measured and no goal with `must` was missed; otherwise 1."""
    arguments = parse()
    if arguments.what[0] == "render":
        for path in arguments.what[1:]:
            write(json.loads(Path(path).read_text()))
        return 0
    for each in SIGNALS:
        signal.signal(each, stop)
    problems = []
    for what in arguments.what:
        try:
            problems += measure(what, arguments.quick, arguments.minutes)
        except (MeasurementError, OSError, subprocess.SubprocessError) as error:
            problems.append(f"{what} was not measured: {error}")
    for problem in problems:
        progress(f"bench: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
