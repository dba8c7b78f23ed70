"""Describes the machine, and measures the load of other processes on it."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

# Long enough to notice a compiler, and short enough to repeat between rounds.
SAMPLE_SECONDS = 0.5


def describe() -> dict[str, Any]:
    """Returns the data of the machine. Call it before the benchmark starts a program."""
    cpuinfo: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        cpuinfo.setdefault(key.strip(), value.strip())
    # `nginx -v` prints to standard error.
    nginx = subprocess.run(["nginx", "-v"], stderr=subprocess.PIPE, text=True, timeout=10)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": cpuinfo.get("model name", platform.machine()),
        "processor_flags": cpuinfo.get("flags", cpuinfo.get("Features", "")).split(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "router": nginx.stderr.strip().removeprefix("nginx version: "),
        "build_profile": "release",
        "load_averages": list(os.getloadavg()),
        "used_by_others": [share_in_use()],
    }


def share_in_use() -> float:
    """Returns the share of all cores that is in use. The benchmark itself must be idle."""
    return psutil.cpu_percent(interval=SAMPLE_SECONDS) / 100
