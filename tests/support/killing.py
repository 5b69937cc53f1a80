"""A first provision on a cluster that is killed at every step, and begun again each time."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, field

from support.cluster import ClusterMatcha

STEP_SECONDS = 1500.0  # one step at most: an environment is built in a pod

# The real command line. It kills itself at the first write of the record that holds a step which is not
# among those given: before the write, so that the step is done and nobody knows; or after it.
CUT = """
import os, signal, sys
from matcha.targets.kubernetes.store import ClusterStore

known, moment = set(sys.argv.pop(1).split(",")), sys.argv.pop(1)
write = ClusterStore.write

def cut(store, state, token):
    new = set(state.resources) - known
    if not new or moment == "after":
        write(store, state, token)
    if new:
        print(",".join(sorted(new)), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

ClusterStore.write = cut
from matcha.cli.main import run
run()
"""


@dataclass
class Killed:
    """The steps after which, and before whose record, a run was killed."""

    after: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Provisioned:
    """A stack, and how its first provision was killed."""

    matcha: ClusterMatcha
    killed: Killed


def provision_killed_at_every_step(matcha: ClusterMatcha) -> Killed:
    """Every other step is done twice: once unrecorded. Fails the test where a run ends in any other way."""
    told = Killed()
    moment = "before"
    while True:
        run = subprocess.run(
            [sys.executable, "-c", CUT, ",".join(told.after), moment, "provision", "--yes"],
            cwd=matcha.project,
            env=matcha.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
        if run.returncode == 0:
            return told
        assert run.returncode == -signal.SIGKILL, f"{run.returncode}\n{run.stdout}\n{run.stderr}"
        new = run.stdout.split("\n")[-2].split(",")
        if moment == "before":
            told.before += new
            moment = "after"
        else:
            told.after += new
            moment = "before" if len(told.after) % 2 == 0 else "after"
