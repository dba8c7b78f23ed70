"""Measures on this machine over loopback, keeps the raw rounds, and writes docs/benchmarks.md.

What is compared is measured in one run with interleaved rounds, so that a noisy machine is noisy
for all. `scripts/bench` builds and installs what this needs, and is the usual way to start it.
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
# The most minutes: far above what the rounds add up to, also on a slow and busy machine.
LONGEST = {"models": 60, "overload": 5, "switching": 12, "generator": 10}


def stop(number: int, _: object) -> None:
    """Ends the program in order: what it started would outlive it."""
    # Once: a second signal must not interrupt the end of the programs.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    why = "it took too long" if number == signal.SIGALRM else signal.Signals(number).name
    # The exit code is 1.
    sys.exit(f"bench: stopped: {why}")


def measure(what: str, quick: bool, minutes: int) -> list[str]:
    """Measures, keeps, prints and writes one section. Returns what must not be."""
    # Here, because rendering needs no psutil.
    machine, section = importlib.import_module("machine"), importlib.import_module(what)
    signal.alarm(60 * LONGEST.get(what, 2 * minutes + 10))
    about = machine.describe()

    def look() -> None:
        about["used_by_others"].append(machine.share_in_use())

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        # nginx's workers may run as another user.
        Path(scratch).chmod(0o755)
        figures = section.measure(Session(Path(scratch), quick, minutes, look))
    signal.alarm(0)
    result = {"what": what, "quick": quick, "machine": about, "figures": figures}
    RESULTS.mkdir(parents=True, exist_ok=True)
    stamp = about["date"].removesuffix(" UTC").replace(" ", "T").replace(":", "")
    path = RESULTS / f"{stamp}-{what}{'-quick' if quick else ''}.json"
    path.write_text(json.dumps(result))
    progress(f"bench: kept {path}")
    # Figures that disappoint are written like any others, before they are judged.
    write(result)
    # Figures of so short a run say nothing.
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
    usage = f"sections to measure ({', '.join(sections)}), or soak, or render FILE..."
    parser.add_argument("what", nargs="+", help=usage)
    parser.add_argument("--minutes", type=int, default=60, help="how long a soak takes")
    usage = "seconds instead of minutes, to test the benchmark; the document stays as it is"
    parser.add_argument("--quick", action="store_true", help=usage)
    arguments = parser.parse_args()
    what = arguments.what
    known = set(what) <= set(sections) or what == ["soak"] or (what[0] == "render" and what[1:])
    if not known or arguments.minutes < 1:
        parser.error(f"cannot measure {' '.join(what)} for {arguments.minutes} minutes")
    return arguments


def main() -> int:
    """Returns 0 if all was measured, or 1 if it was not, or requests failed that must not."""
    arguments = parse()
    if arguments.what[0] == "render":
        for path in arguments.what[1:]:
            write(json.loads(Path(path).read_text()))
        return 0
    for each in SIGNALS:
        signal.signal(each, stop)
    failed = []
    for what in arguments.what:
        try:
            failed += measure(what, arguments.quick, arguments.minutes)
        except (MeasurementError, OSError, subprocess.SubprocessError) as error:
            failed.append(f"{what} was not measured: {error}")
    for problem in failed:
        progress(f"bench: {problem}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
