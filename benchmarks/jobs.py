"""Training jobs on a real cluster: from the command to the first line of its output, beside `kubectl create
job` and `kubectl logs --follow` of the same image, which the node has.

`--image` is the same work on both sides: Matcha packs the project and brings it there as well. Without it
a pod of Matcha's lays out the project's environment first (the clients of a whole stack, built
beforehand), which kubectl has no counterpart for: whoever uses it builds an image.
"""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from pathlib import Path

from benchmarks import places, stack
from benchmarks.figures import Asked, Row
from benchmarks.kubernetes import SECONDS, built, namespace, script

IMAGE = "python:3.11-slim-bookworm"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
PRINT = ("python", "-c", "print('ready')")
STACK = """\
target: kubernetes
targets:
  kubernetes: {{namespace: {namespace}, image: {image}, storage-size: 2Gi, database-size: 1Gi{trust}}}
components: {{pipeline: null, model-deployer: null, monitoring: null}}
"""


def run(asked: Asked) -> list[Row]:
    took: defaultdict[str, list[float]] = defaultdict(list)
    with places.scratch() as folder:
        state, programs = folder / "state", built()
        kubeconfig = str(state / "admin.kubeconfig")
        try:
            script("up", state, env=places.user_env(), check=True)
            with stack.project(KUBECONFIG=kubeconfig) as project:
                project.folder.mkdir(parents=True)
                trust = f", ca-bundle: {AUTHORITIES}" if AUTHORITIES.exists() else ""
                text = STACK.format(namespace=namespace(), image=IMAGE, trust=trust)
                (project.folder / "matcha.yaml").write_text(text)
                (project.folder / "train.py").write_text("print('ready')\n")
                project("provision", "--yes")
                project("run", "--", *PRINT)  # which builds the environment

                def matcha(*options: str) -> None:
                    command = [*stack.command(), "run", *options, "--", *PRINT]
                    seconds = _first_line([command], project.env, project)
                    took[" ".join(("matcha", *options[:1]))].append(seconds)

                def kubectl() -> None:
                    name = namespace()
                    program = [str(programs / "kubectl"), f"--kubeconfig={kubeconfig}"]
                    create = [*program, "create", "job", name, f"--image={IMAGE}", "--", *PRINT]
                    follow = [*program, "logs", "--follow", f"job/{name}", "--pod-running-timeout=5m"]
                    took["kubectl"].append(_first_line([create, follow], {}, project))

                asked.take_turns((lambda: matcha("--image", IMAGE), kubectl, matcha))
        finally:
            script("down", state, env=places.user_env(), check=False)
    return _rows({name: tuple(values) for name, values in took.items()})


def _first_line(commands: list[list[str]], env: dict[str, str], project: stack.Project) -> float:
    """Seconds until the last of the commands, one after the other, writes `ready`."""
    began = time.monotonic()
    *before, last = commands
    variables = places.user_env(XDG_DATA_HOME=str(project.root / "data"), **env)
    for command in before:
        subprocess.run(command, env=variables, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
    while True:  # kubectl gives up on a pod whose container is in the making
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(last, cwd=project.folder, env=variables, text=True, **quiet) as process:
            assert process.stdout
            if process.stdout.readline() == "ready\n":
                took = time.monotonic() - began
                process.communicate(timeout=SECONDS)
                return took
        if time.monotonic() - began > SECONDS:
            raise RuntimeError(f"{' '.join(last)} wrote nothing")
        time.sleep(0.1)


def _rows(took: dict[str, tuple[float, ...]]) -> list[Row]:
    bare = took["kubectl"]
    said = "to the first line, against `kubectl create job`"
    return [
        Row("jobs", f"`matcha run --image` {said}", "s", took["matcha --image"], bare),
        Row("jobs", f"`matcha run`, whose pod lays out its environment, {said}", "s", took["matcha"], bare),
    ]
