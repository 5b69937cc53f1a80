"""The machine that figures come from: without it they mean nothing."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil

CALM_PERCENT = 20.0  # of all processors, over half a second


@dataclass(frozen=True)
class Machine:
    """`load` is the load average over one minute before the first measurement."""

    when: str
    cpu: str
    cores: int
    memory_gb: float
    system: str
    python: str
    load: float


def this_machine() -> Machine:
    return Machine(
        when=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        system=_system(),
        python=platform.python_version(),
        load=load(),
    )


def load() -> float:
    return round(os.getloadavg()[0], 2)


def wait_until_calm(seconds: float) -> bool:
    """Wait until others leave the processors alone, at most that long; whether they do."""
    deadline = time.monotonic() + seconds
    while True:
        if psutil.cpu_percent(interval=0.5) < CALM_PERCENT:
            return True
        if time.monotonic() > deadline:
            return False


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if sys.platform != "linux" or not info.exists():
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line)
    return next(names, platform.machine())


def _system() -> str:
    release = Path("/etc/os-release")
    lines = release.read_text().splitlines() if release.exists() else []
    pretty = (line.partition("=")[2].strip('"') for line in lines if line.startswith("PRETTY_NAME="))
    return f"{next(pretty, platform.system())}, kernel {platform.release()}"
