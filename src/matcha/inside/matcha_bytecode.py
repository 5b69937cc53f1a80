"""Compiles the bytecode of the environment whose interpreter runs this file. Standard library only.

    python -I matcha_bytecode.py warm          the modules named on standard input, in parallel; then ends
    python -I matcha_bytecode.py rest MARKER   everything else, as a quiet process in the background

Compiled files are written whole or not at all, so both may be killed at any moment. `rest` writes MARKER
when it got through; one process at a time works on an environment.

Environments of one cache hold many of the same files, so what a neighbour has compiled is linked. That is
right for any path: Python puts the path of its own source into what it loads.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import filecmp
import os
import random
import sys
import sysconfig
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import cache_from_source
from pathlib import Path

MOST_PROCESSES = 4
CHUNK = 64


def source_of(site: Path, module: str) -> Path | None:
    """The file of a pure-Python module under `site`, found without importing anything."""
    path = site.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def neighbours(site: Path) -> list[Path]:
    """The same folder in other environments of this Python beside the one of `site`."""
    env = site.parents[2]
    version = env.name.partition("-")[0]
    found = (other / site.relative_to(env) for other in env.parent.glob(f"{version}-*") if other != env)
    return [folder for folder in found if folder.is_dir()]


def borrow(file: Path, twins: list[Path]) -> None:
    """Link the bytecode of the first of `twins` that is the same file and has some."""
    target = Path(cache_from_source(str(file)))
    for twin in twins:
        with contextlib.suppress(OSError):
            made = Path(cache_from_source(str(twin)))
            if made.exists() and same(file, twin):
                target.parent.mkdir(exist_ok=True)
                os.link(made, target)
                return


def same(one: Path, other: Path) -> bool:
    """Also in time, which stands in the bytecode."""
    a, b = one.stat(), other.stat()
    if os.path.samestat(a, b):
        return True
    alike = (a.st_size, int(a.st_mtime)) == (b.st_size, int(b.st_mtime))
    return alike and filecmp.cmp(one, other, shallow=False)


def compile_files(site: Path, lenders: list[Path], files: list[Path]) -> None:
    """Bytecode that was borrowed is checked like any other, and only made anew where it does not fit."""
    for file in files:
        borrow(file, [lender / file.relative_to(site) for lender in lenders])
        compileall.compile_file(str(file), quiet=2)


def warm(site: Path, modules: list[str]) -> None:
    """In any order: environments that are made at the same time then find what the others have done."""
    files = [file for module in modules if (file := source_of(site, module))]
    random.shuffle(files)
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    work = partial(compile_files, site, neighbours(site))
    with ProcessPoolExecutor(min(MOST_PROCESSES, max(2, os.cpu_count() or 1))) as pool:
        list(pool.map(work, chunks))


def rest(site: Path, marker: Path) -> None:
    if os.fork():
        return
    os.nice(19)
    try:
        with marker.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not marker.exists():
                compile_files(site, neighbours(site), sorted(site.rglob("*.py")))
                marker.write_text("")
    except OSError:  # another one is at work, or the environment has gone
        pass
    os._exit(0)


def main() -> None:
    site = Path(sysconfig.get_paths()["purelib"])
    if sys.argv[1] == "warm":
        warm(site, sys.stdin.read().split())
    else:
        rest(site, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
