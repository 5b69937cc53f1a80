"""Compiles the bytecode of the environment whose interpreter runs this file. Standard library only.

    python -I matcha_bytecode.py warm          the modules named on standard input, in parallel; then ends
    python -I matcha_bytecode.py rest MARKER   everything else, as a quiet process in the background

Compiled files are written whole or not at all, so both may be killed at any moment. `rest` writes MARKER
when it got through; one process at a time works on an environment.
"""

from __future__ import annotations

import compileall
import fcntl
import os
import sys
import sysconfig
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

MOST_PROCESSES = 4
CHUNK = 64


def source_of(site: Path, module: str) -> Path | None:
    """The file of a pure-Python module under `site`, found without importing anything."""
    path = site.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def compile_files(files: list[str]) -> int:
    return sum(bool(compileall.compile_file(file, quiet=2)) for file in files)


def warm(site: Path, modules: list[str]) -> None:
    files = [str(file) for module in modules if (file := source_of(site, module))]
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    with ProcessPoolExecutor(min(MOST_PROCESSES, max(2, os.cpu_count() or 1))) as pool:
        list(pool.map(compile_files, chunks))


def rest(site: Path, marker: Path) -> None:
    if os.fork():
        return
    os.nice(19)
    try:
        with marker.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not marker.exists():
                compileall.compile_dir(str(site), quiet=2, workers=1, force=False, maxlevels=40)
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
