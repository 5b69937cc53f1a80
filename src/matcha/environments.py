"""Installs the exact packages of a hash-locked requirements file, once for all of a user's projects.

An environment lives in `<user cache>/environments/<key>`, where the key is a digest of the lock's content,
the Python version and the platform. It is made in place, under an advisory lock that names its owner, and
counts as installed once its marker is written, which is the last thing that happens; the next installer
wipes one without a marker. uv inherits the lock, so a uv that outlives a killed Matcha keeps others out.

Set MATCHA_CACHE_DIR to put the cache elsewhere. uv keeps its downloads in its own cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import platformdirs

from matcha import pythons, uvtool
from matcha.pythons import python_for
from matcha.uvtool import (
    AGAIN,
    CacheUnusable,
    DownloadFailed,
    EnvironmentBusy,
    EnvironmentFailed,
    EnvironmentUnresolvable,
    NoDiskSpace,
    PackageIndexUnreachable,
    PythonUnavailable,
    WrongHash,
    uv_path,
)

__all__ = [
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
    "is_installed",
    "lock_digest",
    "python_for",
    "uv_path",
    "warm_modules",
]

MARKER = "matcha-installed.json"
BYTECODE_MARKER = "matcha-bytecode"
BYTECODE_SCRIPT = Path(__file__).parent / "inside" / "matcha_bytecode.py"

# Measured on the locks: unpacked files and all bytecode take under five times the download.
UNPACKED_TIMES = 5
LEAST_FREE = 200_000_000
WAIT_SECONDS = 3600.0

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


Report = Callable[[InstallProgress], None]


# Names and places


def cache_root() -> Path:
    chosen = os.environ.get("MATCHA_CACHE_DIR")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("matcha")


def lock_digest(lock: Path) -> str:
    """Digest of what a lock file pins: comments, indentation and line ends do not count."""
    lines = (line.strip() for line in lock.read_text().splitlines())
    pins = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(pins.encode()).hexdigest()[:32]


def environment_key(lock: Path, python: str) -> str:
    about = "\n".join((lock_digest(lock), python, sys.platform, platform.machine()))
    return f"cp{python.replace('.', '')}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"


def environment_path(lock: Path, python: str) -> Path:
    return cache_root() / "environments" / environment_key(lock, python)


def is_installed(lock: Path, python: str) -> bool:
    """Cheap: the marker is there, and the Python that the environment was made from has not gone."""
    return _is_whole(environment_path(lock, python))


def _is_whole(env: Path) -> bool:
    return (env / MARKER).exists() and (env / "bin" / "python").exists()


def warm_modules(file: Path | None) -> tuple[str, ...]:
    """The module names of a warm list, one a line; () without the file."""
    lines = file.read_text().split("\n") if file is not None and file.exists() else []
    return tuple(line for line in lines if line and not line.startswith("#"))


# Installing


def install(lock: Path, python: str, *, warm: Iterable[str] = (), report: Report | None = None) -> Path:
    """Make the environment of `lock` for `python` ("3.11") and return its folder; `bin/python` is inside.

    Returns at once where it is installed. Two callers at once: one installs, the other waits and says for
    whom. `warm` names modules whose bytecode is compiled before this returns. On any failure the half-made
    folder is removed and an EnvironmentFailed raised; a rerun goes on from what was downloaded.
    """
    env = environment_path(lock, python)
    if _is_whole(env):
        return env
    watch = _Watch(lock, env, report)
    with _exclusive(env, watch) as held:
        if not _is_whole(env):
            _check_space(lock)
            _make(env, lock, python, tuple(warm), watch, held.fileno())
    return env


def _make(env: Path, lock: Path, python: str, warm: tuple[str, ...], watch: _Watch, held: int) -> None:
    _wipe(env)
    started = time.monotonic()
    try:
        _fill(env, lock, python, watch, held)
        _compile_warm(env, warm, watch)
        made = {"lock": lock_digest(lock), "python": python, "seconds": round(time.monotonic() - started, 1)}
        _write_whole(env / MARKER, json.dumps(made))
    except OSError as error:
        _wipe(env)
        raise _explain(error, env) from error
    except BaseException:
        _wipe(env)
        raise


def _fill(env: Path, lock: Path, python: str, watch: _Watch, held: int) -> None:
    watch.phase("preparing")
    venv = ["venv", "--no-project", "--python", pythons.interpreter(python), str(env)]
    uvtool.run(venv, cwd=env.parent, tick=watch.tick, hold=held)
    target = ["--python", str(env / "bin" / "python")]
    sync = ["pip", "sync", "--require-hashes", *target, str(lock.absolute())]
    uvtool.run(sync, cwd=env.parent, line=watch.line, tick=watch.tick, hold=held)


def _compile_warm(env: Path, modules: tuple[str, ...], watch: _Watch) -> None:
    """Only saves time, so a module that does not compile is no failure."""
    if not modules:
        return
    watch.phase("compiling bytecode", total=len(modules), unit="modules")
    command = [str(env / "bin" / "python"), "-I", str(BYTECODE_SCRIPT), "warm"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command, input="\n".join(modules), text=True, capture_output=True, timeout=300, check=False
        )


def compile_rest(env: Path) -> None:
    """Compile the bytecode that `install` left out, in a quiet detached process; returns at once.

    Does nothing where that was done before or is being done. Safe to be killed.
    """
    if (env / BYTECODE_MARKER).exists() or not _is_whole(env):
        return
    command = [str(env / "bin" / "python"), "-I", str(BYTECODE_SCRIPT), "rest", str(env / BYTECODE_MARKER)]
    subprocess.run(
        command,
        cwd="/",
        env={"PATH": os.defpath},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        timeout=60,
        check=False,
    )


def _wipe(env: Path) -> None:
    (env / MARKER).unlink(missing_ok=True)  # first: half a wipe must not look installed
    shutil.rmtree(env, ignore_errors=True)


def _write_whole(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def _explain(error: OSError, env: Path) -> EnvironmentFailed:
    failed = uvtool.diagnose(f"{error.strerror} (os error {error.errno}): {error.filename or env}")
    return (
        failed
        if type(failed) is not EnvironmentFailed
        else CacheUnusable(
            "The cache cannot be used.",
            details=str(error),
            resolution="set MATCHA_CACHE_DIR to a folder on a local disk, then " + AGAIN,
        )
    )


# One installer at a time


@contextlib.contextmanager
def _exclusive(env: Path, watch: _Watch) -> Iterator[IO[str]]:
    """Hold the lock of one environment. Raises EnvironmentBusy after an hour, CacheUnusable without locks."""
    try:
        env.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = env.with_suffix(".lock").open("a+")
    except OSError as error:
        raise _explain(error, env) from error
    with file:
        _acquire(file, env, watch)
        file.truncate(0)
        file.write(f"process {os.getpid()} since {time.strftime('%H:%M:%S')}")
        file.flush()
        yield file


def _acquire(file: IO[str], env: Path, watch: _Watch) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read() or "another process"
        except OSError as error:
            raise _explain(error, env) from error
        if time.monotonic() > deadline:
            raise EnvironmentBusy(f"{owner} is still installing {env}.", resolution="end it, then " + AGAIN)
        watch.phase("waiting", detail=owner)
        time.sleep(0.2)


# Sizes


def download_size(wanted: Iterable[tuple[Path, str]]) -> int | None:
    """Bytes still to fetch for those (lock, python) that are not installed; None where a lock does not say.

    An estimate that asks nobody: the sizes are those that the index stated for Linux x86-64 and Python 3.11
    when the locks were made, less the packages that uv's cache holds, each counted once.
    """
    missing: dict[str, int] = {}
    for lock, python in wanted:
        if not is_installed(lock, python):
            sizes = _sizes(lock)
            if not sizes:
                return None
            missing.update(sizes)
    cached = _cached_packages() if missing else frozenset()
    return sum(size for package, size in missing.items() if package not in cached)


def _sizes(lock: Path) -> dict[str, int]:
    found = re.findall(r"^#   (\S+==\S+) (\d+)$", lock.read_text(), re.M)
    return {package: int(size) for package, size in found}


def _uv_cache() -> Path:
    return Path(uvtool.ask(["cache", "dir"]) or platformdirs.user_cache_path("uv"))


def _cached_packages() -> frozenset[str]:
    """`name==version` of the unpacked wheels in uv's cache. Its layout is uv's own: unknown means none."""
    wheels = _uv_cache().glob("wheels-v*/*/*/*-*")
    wheels_of_others = _uv_cache().glob("wheels-v*/index/*/*/*-*")
    return frozenset(
        f"{wheel.parent.name}=={wheel.name.split('-')[0]}"
        for wheel in (*wheels, *wheels_of_others)
        if wheel.suffix not in (".http", ".lock", ".msgpack", ".rev")
    )


def _check_space(lock: Path) -> None:
    """Raises NoDiskSpace where the unpacked packages cannot fit."""
    sizes = _sizes(lock)
    needed = UNPACKED_TIMES * sum(sizes.values()) if sizes else LEAST_FREE
    free = shutil.disk_usage(cache_root()).free
    if free < needed:
        raise NoDiskSpace(
            f"Not enough disk space: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free.",
            details=f"The cache is {cache_root()}.",
            resolution="free some space, or set MATCHA_CACHE_DIR to a folder on a larger disk",
        )


# Locks made at run time


def compile_lock(requirements: Iterable[str], *, constraints: Path | None, python: str, output: Path) -> None:
    """Resolve requirement lines for this platform and `python` into a hash-locked file, written whole.

    Raises EnvironmentUnresolvable with uv's reason, or another EnvironmentFailed.
    """
    with tempfile.TemporaryDirectory(prefix="matcha-") as folder:
        source, made = Path(folder) / "requirements.in", Path(folder) / "requirements.lock"
        source.write_text("\n".join(requirements) + "\n")
        flags = ["--generate-hashes", "--no-header", "--python-version", python, "-o", made.name]
        flags += ["--constraints", str(constraints.absolute())] if constraints else []
        uvtool.run(["pip", "compile", "--quiet", *flags, source.name], cwd=Path(folder))
        output.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(output, made.read_text())


# Progress


class _Watch:
    """Turns uv's lines and the growing folder into progress."""

    def __init__(self, lock: Path, env: Path, report: Report | None) -> None:
        self._env = env
        self._report = report
        self._started = time.monotonic()
        self._sizes = {package.split("==")[0]: size for package, size in _sizes(lock).items()}
        self._packages = 0
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

    def line(self, text: str) -> None:
        if found := re.match(r"Resolved (\d+) package", text):
            self._packages = int(found.group(1))
            self.phase("downloading", total=sum(self._sizes.values()), unit="bytes")
        elif found := re.match(r"\s*Download(ing|ed) (\S+)(?: \((.*)\))?", text):
            self._downloaded(found.group(2), found.group(1) == "ed")
        elif text.startswith("Prepared"):
            self.phase("installing", total=self._packages)

    def _downloaded(self, package: str, whole: bool) -> None:
        done = self._last.done + (self._sizes.get(package, 0) if whole else 0)
        self.phase("downloading", done=done, total=self._last.total, unit="bytes", detail=package)

    def tick(self) -> None:
        last = self._last
        done = last.done
        if last.phase == "installing":
            done = sum(1 for _ in self._env.glob("lib/python*/site-packages/*.dist-info"))
        self.phase(last.phase, done=done, total=last.total, unit=last.unit, detail=last.detail)
