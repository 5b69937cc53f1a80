"""Builds the environment of a hash-locked requirements file where it will be used, and uploads it."""

from __future__ import annotations

import operator
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import archive, unpack
from .ending import Code, Deadline, Failed, megabytes, say
from .s3 import Place, Store

MOST_PROCESSES = 4
TESTS = r"/tests/"
# Wheels for x86-64 and arm64, with glibc and with musl.
UV = """uv==0.13.9 \
--hash=sha256:d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19 \
--hash=sha256:5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe \
--hash=sha256:ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375 \
--hash=sha256:2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25
"""

# What the installer said -> why it failed. Causes stand before their effects.
_WHY = (
    (r"no space left|os error 28\b|quota exceeded", Code.NO_SPACE, "the disk is full"),
    (r"hash mismatch|do not match the hashes", Code.PACKAGES, "the index holds another file than was locked"),
    (
        r"certificate.verify|unknownissuer|peer certificate",
        Code.PACKAGES,
        "the index shows a certificate that is not trusted here; "
        "targets.kubernetes.ca-bundle in matcha.yaml names whom to trust",
    ),
    (
        r"\b40[137]\b|unauthorized|forbidden|authentication",
        Code.PACKAGES,
        "the index or a proxy refused the credentials",
    ),
    (
        r"connection|error sending request|dns error|name resolution|timed? ?out|\b50\d\b|decoding response|"
        r"incomplete ?read|max retries",
        Code.INDEX,
        "the index cannot be reached, or broke off; "
        "targets.kubernetes.index-url in matcha.yaml names another",
    ),
    (r"no solution|\b404\b|not found in", Code.PACKAGES, "the index lacks a package"),
    # Of an index that answers with errors pip says no more than this.
    (r"no matching distribution", Code.INDEX, "the index lacks a package or gives none out"),
    (
        r"failed to build|subprocess-exited|metadata-generation-failed",
        Code.PACKAGES,
        "a package has no wheel for this Python and machine, and could not be built here",
    ),
)
_CREDENTIALS = re.compile(r"(\w+://)[^/\s@`'\"]+@")


def build(store: Store, lock: Path, path: Path, to: Place, work: Path, python: str) -> None:
    """Does nothing where the archive is there and whole. `python`: what the packages need (`>=3.10`)."""
    _check(python, sys.version_info[1])
    to = unpack.for_this_machine(to)
    if archive.is_whole(store, to):
        say(f"{to} is there already")
        return
    started = time.monotonic()
    with archive.scratch(work) as folder:
        unpack.make(path)
        _install(lock, path, folder, store.deadline)
        say(f"installed after {time.monotonic() - started:.0f} s")
        _compile(path, store.deadline)
        say(f"compiled after {time.monotonic() - started:.0f} s")
        file = folder / "archive.tar.gz"
        archive.pack(path, file, unpack.is_made)
        say(f"packed after {time.monotonic() - started:.0f} s, {megabytes(file.stat().st_size)}")
        archive.put(store, to, file, unpack.runs_on())


_HOLDS: dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "~=": operator.ge,
    ">": operator.gt,
    "<": operator.lt,
}


def _check(wanted: str, minor: int) -> None:
    """Raises Failed where Python 3.`minor` is not what is wanted."""
    for sign, other in re.findall(r"(>=|<=|==|!=|~=|>|<)\s*3\.(\d+)", wanted):
        if not _HOLDS[sign](minor, int(other)):
            raise Failed(
                f"The packages need Python {wanted}, and this image has 3.{minor}: "
                "targets.kubernetes.image in matcha.yaml says which one is used.",
                Code.UNSUITABLE,
            )


def _install(lock: Path, env: Path, folder: Path, deadline: Deadline) -> None:
    """By uv where it can be had; pip takes several times as long.

    uv's cache lies beside the packages, so that they are linked and not copied, and goes with the install.
    """
    cache = env / ".cache"
    python, variables = str(env / "bin" / "python"), _variables(folder) | {"UV_CACHE_DIR": str(cache)}
    try:
        command = [_uv(folder, variables, deadline), "pip", "sync", "--python", python]
    except Failed as error:
        if error.code in {Code.LATE, Code.NO_SPACE, Code.STOPPED}:
            raise
        say(f"no uv ({error}); pip installs instead")
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--no-deps",
            "--no-compile",
            "-r",
        ]
    _run([*command, str(lock), "--require-hashes"], variables, deadline)
    shutil.rmtree(cache, ignore_errors=True)


def _uv(folder: Path, variables: Mapping[str, str], deadline: Deadline) -> str:
    if found := shutil.which("uv"):
        return found
    wanted = folder / "uv.txt"
    wanted.write_text(UV, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    _run([*pip, "--require-hashes", "--target", str(folder / "uv"), "-r", str(wanted)], variables, deadline)
    return str(folder / "uv" / "bin" / "uv")


def _compile(env: Path, deadline: Deadline) -> None:
    """Bytecode that holds whatever becomes of the files' times, but for packages' own tests, a quarter of
    all. What does not compile is no failure.
    """
    processes = min(MOST_PROCESSES, len(os.sched_getaffinity(0)))
    command = [str(env / "bin" / "python"), "-I", "-m", "compileall", "-qq", "-j", str(processes)]
    command += ["--invalidation-mode", "unchecked-hash", "-x", TESTS, str(env / "lib")]
    try:
        subprocess.run(command, capture_output=True, timeout=deadline.left(), check=False)
    except subprocess.TimeoutExpired:
        deadline.left()


def _variables(folder: Path) -> dict[str, str]:
    """The pod's own settings of index, proxy and certificates, for uv and pip alike; all else is ours."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("AWS_", "PYTHON", "VIRTUAL_ENV"))}
    index = next((kept[n] for n in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL") if kept.get(n)), "")
    if index:
        kept.update(UV_DEFAULT_INDEX=index, PIP_INDEX_URL=index)
    if kept.get("SSL_CERT_FILE"):
        kept.setdefault("PIP_CERT", kept["SSL_CERT_FILE"])
    places = {"HOME": str(folder), "TMPDIR": str(folder)}
    uv = {"UV_NO_CONFIG": "1", "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    pip = {"PIP_NO_CACHE_DIR": "1", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {**kept, **places, **uv, **pip, "PIP_PROGRESS_BAR": "off", "PIP_ROOT_USER_ACTION": "ignore"}


def _run(command: Sequence[str], variables: Mapping[str, str], deadline: Deadline) -> None:
    """Raises Failed with what the installer's last lines amount to; says all of them first."""
    said: list[str] = []
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as process:
        watch = threading.Timer(deadline.left(), process.kill)
        watch.start()
        try:
            for line in process.stdout or ():
                said.append(_CREDENTIALS.sub(r"\1****@", line.rstrip()))
                say(said[-1])
            process.wait()
        finally:
            watch.cancel()
            process.kill()
    deadline.left()
    if process.returncode:
        raise _why(said, process.returncode)


def _why(said: Sequence[str], code: int) -> Failed:
    for pattern, kind, words in _WHY:
        if re.search(pattern, "\n".join(said), re.I):
            return Failed(f"The packages could not be installed: {words}.", kind)
    last = next((line.strip() for line in reversed(said) if line.strip()), f"exit code {code}")
    return Failed(f"The packages could not be installed: {last}", Code.FAILED)
