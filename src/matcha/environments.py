"""Installs the exact packages of a hash-locked requirements file, once for all of a user's projects.

An environment lives in `<user cache>/environments/<key>`, where the key is a digest of the lock's content,
the Python version and the platform. It is made in place, under an advisory lock that names its owner, and
counts as installed once its marker is written, which is the last thing that happens; the next installer
wipes one without a marker. What fills it ends with the process that asked for it, and holds the lock to its
end, so nobody builds in the same folder meanwhile.

Set MATCHA_CACHE_DIR to put the cache elsewhere. uv keeps its downloads in its own cache.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matcha import damage, envlock, lockfiles, pythons, sizes, tether, uvtool
from matcha.damage import MARKER
from matcha.lockfiles import compile_lock, lock_digest, warm_modules
from matcha.pythons import python_for
from matcha.uvtool import (
    CacheUnusable,
    DownloadFailed,
    EnvironmentBusy,
    EnvironmentFailed,
    EnvironmentUnresolvable,
    NoDiskSpace,
    PackageIndexUnreachable,
    PythonUnavailable,
    WrongHash,
    cache_root,
    uv_path,
)

__all__ = [
    "MARKER",
    "CacheUnusable",
    "DownloadFailed",
    "EnvironmentBusy",
    "EnvironmentFailed",
    "EnvironmentUnresolvable",
    "InstallProgress",
    "NoDiskSpace",
    "PackageIndexUnreachable",
    "PythonUnavailable",
    "WrongHash",
    "cache_root",
    "compile_lock",
    "compile_rest",
    "download_size",
    "environment_key",
    "environment_path",
    "install",
    "install_apart",
    "is_installed",
    "lock_digest",
    "python_for",
    "reinstall",
    "sweep",
    "uv_path",
    "warm_modules",
]

BYTECODE_MARKER = "matcha-bytecode"
BYTECODE_SCRIPT = Path(__file__).resolve().parent / "inside" / "matcha_bytecode.py"

WARM_SECONDS = 300.0
FORGET_SECONDS = 600.0  # it waits for every other uv that uses the cache

Phase = Literal["waiting", "preparing", "downloading", "installing", "compiling bytecode"]


@dataclass(frozen=True)
class InstallProgress:
    """How far an install is. `done` of `total` are `unit`; a total of 0 is unknown. Elapsed in seconds."""

    phase: Phase
    elapsed: float
    done: int = 0
    total: int = 0
    unit: Literal["bytes", "packages", "modules"] = "packages"
    detail: str = ""

    def __str__(self) -> str:
        """`downloading 12 of 191 MB`."""
        if self.total and self.unit == "bytes":
            unit, size = ("MB", 1e6) if self.total >= 1e6 else ("kB", 1e3) if self.total >= 1e3 else ("B", 1)
            count = f" {self.done / size:.0f} of {self.total / size:.0f} {unit}"
        else:
            count = f" {self.done} of {self.total} {self.unit}" if self.total else ""
        return f"{self.phase}{count}{f' ({self.detail})' if self.detail else ''}"


Report = Callable[[InstallProgress], None]


# Names and places


def environment_key(lock: Path, python: str) -> str:
    about = "\n".join((lockfiles.lock_digest(lock), python, sys.platform, platform.machine()))
    return f"cp{python.replace('.', '')}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"


def environment_path(lock: Path, python: str) -> Path:
    return cache_root() / "environments" / environment_key(lock, python)


def is_installed(lock: Path, python: str) -> bool:
    """Cheap: the marker is there, and the Python that the environment was made from has not gone."""
    return envlock.is_whole(environment_path(lock, python))


# Installing


def install(lock: Path, python: str, *, warm: Iterable[str] = (), report: Report | None = None) -> Path:
    """Make the environment of `lock` for `python` ("3.11") and return its folder; `bin/python` is inside.

    Returns at once where it is installed. Two callers at once: one installs, the other waits and says for
    whom. `warm` names modules whose bytecode is compiled before this returns. On any failure the half-made
    folder is removed and an EnvironmentFailed raised; a rerun goes on from what was downloaded.
    """
    env = environment_path(lock, python)
    if envlock.is_whole(env):
        return env
    watch = _Watch(lock, python, env, report)
    with envlock.exclusive(env, watch.waiting) as held:
        if not envlock.is_whole(env):
            sweep()
            sizes.check_space(lock, python, env.parent)
            _make(env, lock, python, tuple(warm), watch, held.fileno())
    return env


def reinstall(lock: Path, python: str, *, warm: Iterable[str] = (), report: Report | None = None) -> Path:
    """`install` anew, whatever is there now."""
    env = environment_path(lock, python)
    watch = _Watch(lock, python, env, report)
    with envlock.exclusive(env, watch.waiting) as held:
        _forget([each.package for each in damage.find(env) if not each.gone], env.parent)
        _make(env, lock, python, tuple(warm), watch, held.fileno())
    return env


def _forget(packages: list[str], cwd: Path) -> None:
    """Have uv fetch these again: a file that was changed in place is the same file in its own cache."""
    if packages:
        uvtool.run(["cache", "clean", "--quiet", *packages], cwd=cwd, limit=FORGET_SECONDS)


def install_apart(listed: Path, python: Path, folder: Path) -> None:
    """Install what the requirements file `listed` names, and nothing that they need, into a new `folder`.

    For PYTHONPATH: packages without a hash, built anew each time. Raises EnvironmentFailed.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    fresh = ["--quiet", "--no-deps", "--reinstall", "--python", str(python), "--target", str(part)]
    try:
        uvtool.run(["pip", "install", *fresh, "--requirements", str(listed)], cwd=folder.parent)
        with contextlib.suppress(OSError):  # made by somebody else meanwhile
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _make(env: Path, lock: Path, python: str, warm: tuple[str, ...], watch: _Watch, held: int) -> None:
    envlock.wipe(env)
    _half_made.add(env)
    started = time.monotonic()
    try:
        _fill(env, lock, python, watch, held)
        _compile_warm(env, warm, watch, held)
        made = {
            "lock": lockfiles.lock_digest(lock),
            "python": python,
            "packages": damage.packages_in(env),
            "seconds": round(time.monotonic() - started, 1),
        }
        lockfiles.write_whole(env / MARKER, json.dumps(made))
    except OSError as error:
        envlock.wipe(env)
        raise envlock.explain(error, env) from error
    except BaseException:
        envlock.wipe(env)
        raise
    finally:
        _half_made.discard(env)


_half_made: set[Path] = set()


@atexit.register
def _abandon() -> None:
    """Ctrl-C ends the main thread while daemon threads install: they stop here, and leave nothing."""
    if _half_made:
        tether.end_all()
    for env in tuple(_half_made):
        envlock.wipe(env)


def _fill(env: Path, lock: Path, python: str, watch: _Watch, held: int) -> None:
    watch.phase("preparing")
    # Whoever imports or compiles from a folder that was wiped makes it again, to write bytecode there.
    venv = ["venv", "--allow-existing", "--no-project", "--python", pythons.interpreter(python), str(env)]
    uvtool.run(venv, cwd=env.parent, tick=watch.tick, hold=held)
    target = ["--python", str(env / "bin" / "python")]
    sync = ["pip", "sync", "--require-hashes", *target, str(lock.absolute())]
    uvtool.run(sync, cwd=env.parent, line=watch.line, tick=watch.tick, hold=held)


def _compile_warm(env: Path, modules: tuple[str, ...], watch: _Watch, held: int) -> None:
    """Only saves time, so a module that does not compile is no failure."""
    if not modules:
        return
    watch.phase("compiling bytecode", total=len(modules), unit="modules")
    command = [str(env / "bin" / "python"), "-I", str(BYTECODE_SCRIPT), "warm"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        contextlib.suppress(subprocess.TimeoutExpired),
        tether.started(command, hold=(held,), stdin=subprocess.PIPE, **silent) as process,
    ):
        process.communicate("\n".join(modules), timeout=WARM_SECONDS)


def compile_rest(env: Path) -> None:
    """Compile the bytecode that `install` left out, in a quiet detached process; returns at once.

    Does nothing where that was done before or is being done. Safe to be killed.
    """
    if (env / BYTECODE_MARKER).exists() or not envlock.is_whole(env):
        return
    command = [str(env / "bin" / "python"), "-I", str(BYTECODE_SCRIPT), "rest", str(env / BYTECODE_MARKER)]
    quiet = subprocess.DEVNULL
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            command,
            cwd="/",
            env={"PATH": os.defpath},
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
            timeout=60,
            check=False,
        )


def sweep(patience: float = 0.0) -> None:
    """Remove what killed installs left half-made in the cache; `patience` as `envlock.sweep` has it."""
    envlock.sweep(cache_root() / "environments", patience)


def download_size(wanted: Iterable[tuple[Path, str]]) -> int | None:
    """Bytes still to download for those (lock, python) that are not installed; None where unknown.

    An estimate, made at once without asking anybody: see `matcha.sizes.to_fetch`.
    """
    return sizes.to_fetch([each for each in wanted if not is_installed(*each)])


# Progress


class _Watch:
    """Turns uv's lines and the growing folder into progress."""

    def __init__(self, lock: Path, python: str, env: Path, report: Report | None) -> None:
        self._env = env
        self._report = report
        self._started = time.monotonic()
        self._to_fetch = sizes.to_fetch([(lock, python)]) or 0  # now: uv's cache fills while it speaks
        self._sizes = {package.split("==")[0]: size for package, size in lockfiles.sizes(lock).items()}
        self._packages = 0
        self._fetched = 0
        self._last = InstallProgress("preparing", 0.0)

    def phase(
        self,
        phase: Phase,
        *,
        done: int = 0,
        total: int = 0,
        unit: Literal["bytes", "packages", "modules"] = "packages",
        detail: str = "",
    ) -> None:
        self._last = InstallProgress(phase, time.monotonic() - self._started, done, total, unit, detail)
        if self._report:
            self._report(self._last)

    def waiting(self, owner: str) -> None:
        self.phase("waiting", detail=owner)

    def line(self, text: str) -> None:
        if found := re.match(r"Resolved (\d+) package", text):
            self._packages = int(found.group(1))
            if self._to_fetch:
                self.phase("downloading", total=self._to_fetch, unit="bytes")
            else:
                self.phase("installing", total=self._packages)
        elif found := re.match(r"\s*Download(ing|ed) (\S+)(?: \((.*)\))?", text):
            self._downloaded(found.group(2), found.group(1) == "ed")
        elif text.startswith("Prepared"):
            self.phase("installing", total=self._packages)

    def _downloaded(self, package: str, whole: bool) -> None:
        """More than was expected is fetched where the estimate is wrong: then its end is unknown."""
        self._fetched += self._sizes.get(package, 0) if whole else 0
        total = self._to_fetch if self._fetched <= self._to_fetch else 0
        self.phase("downloading", done=self._fetched, total=total, unit="bytes", detail=package)

    def tick(self) -> None:
        last = self._last
        done = last.done
        if last.phase == "installing":
            done = sum(1 for _ in self._env.glob("lib/python*/site-packages/*.dist-info"))
        self.phase(last.phase, done=done, total=last.total, unit=last.unit, detail=last.detail)
