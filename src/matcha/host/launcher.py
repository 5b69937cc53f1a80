"""Becomes a program: `python -I -S launcher.py SITE FILE`, run by supervisord in the supervisor's home.

Standard library alone, and nothing of Matcha: it runs at every start of every program. FILE is what
`programs.write` made. Values of secrets go from their file into the environment, or into a pipe where the
program asks for that, and nowhere else.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

LEFTOVER_GRACE = 3.0  # seconds for what an earlier run of the same program left behind


def main(site: str, file: str) -> None:
    entry = json.loads(Path(file).read_text(encoding="utf-8"))
    program = entry["program"]
    _die_with_parent()
    _end_leftovers(site, Path("runs", program["name"]), entry["tag"], program["name"])
    secrets = secret_values(program)
    environ = environment(entry, concealed(secrets) if program.get("conceal") else secrets)
    # stdin stays the pipe that supervisord made. It may still watch the number of its own end, from an RPC
    # connection that had it before (supervisor 4.3.0); closing ours would wake it without end.
    os.chdir(program["folder"])
    os.execvpe(program["argv"][0], program["argv"], environ)  # noqa: S606 - that is what a launcher is for


def secret_values(program: dict[str, Any]) -> dict[str, str]:
    """Environment variable to value. Raises LookupError that names the secret."""
    if not program["secrets"]:
        return {}
    values = json.loads(Path(program["secrets_file"]).read_text(encoding="utf-8"))
    missing = sorted(set(program["secrets"].values()) - set(values))
    if missing:
        raise LookupError(f"no such secret: {', '.join(missing)}")
    return {variable: values[name] for variable, name in program["secrets"].items()}


def concealed(secrets: dict[str, str]) -> dict[str, str]:
    """The variable that names a pipe with them, as `matcha_secrets.take` reads it."""
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    with os.fdopen(writing, "w") as pipe:
        json.dump(secrets, pipe)
    return {"MATCHA_SECRETS_FD": str(reading)}


def environment(entry: dict[str, Any], secrets: dict[str, str]) -> dict[str, str]:
    """Only what was captured and asked for, and the marks that a sweep looks for."""
    marks = {"MATCHA_STACK_TAG": entry["tag"], "MATCHA_PROGRAM": entry["program"]["name"]}
    return {**entry["inherited"], **entry["program"]["env"], **secrets, **marks}


def _die_with_parent() -> None:
    """Linux: SIGTERM when supervisord dies, even by SIGKILL. Its only thread is the one that forks."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, kept over exec
    if os.getppid() != parent or parent == 1:
        raise LookupError("the supervisor is gone")


def _end_leftovers(site: str, mark: Path, tag: str, name: str) -> None:
    """End children that outlived a crashed run and would hold its port; the first run has none."""
    again = mark.exists()
    mark.parent.mkdir(mode=0o700, exist_ok=True)
    mark.write_text(str(os.getpid()))
    if not again:
        return
    sys.path.extend(site.split(os.pathsep))
    spec = importlib.util.spec_from_file_location("sweep", Path(__file__).with_name("sweep.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.sweep(tag, LEFTOVER_GRACE, name)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except (OSError, LookupError, ValueError) as problem:
        sys.stderr.write(f"matcha: cannot start: {problem}\n")
        raise SystemExit(127) from None
