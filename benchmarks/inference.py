"""One model behind a whole stack with capture on, and behind a bare MLServer; both up, asked in turns.

A logistic regression of 20 columns, one row a request, one connection a client.
"""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import bare, places, stack
from benchmarks.figures import Asked, Budget, Row
from benchmarks.load import Burst, burst

CLIENTS = (1, 16)
SECONDS = 6.0
NAME = "bench"
Bursts = dict[int, list[Burst]]


def run(asked: Asked) -> list[Row]:
    python = places.installed()["mlserver"] / "bin" / "python"
    ours: Bursts = defaultdict(list)
    plain: Bursts = defaultdict(list)
    with ExitStack() as stacked:
        project = stacked.enter_context(stack.project())
        folder = stacked.enter_context(places.scratch())
        urls = _deployed(project, python, folder), _bare(stacked, python, folder)
        for url in urls:
            burst(url, body(), clients=4, seconds=3.0)
        _rounds(asked, urls, ours, plain)
    return [row for clients in CLIENTS for row in _rows(clients, ours[clients], plain[clients])]


def _rounds(asked: Asked, urls: tuple[str, str], ours: Bursts, plain: Bursts) -> None:
    for clients in CLIENTS:
        sides = _side(urls[0], clients, ours[clients]), _side(urls[1], clients, plain[clients])
        asked.say(f"clients: {clients}")
        asked.take_turns(sides)


def _side(url: str, clients: int, into: list[Burst]) -> Callable[[], None]:
    return lambda: into.append(burst(url, body(), clients=clients, seconds=SECONDS))


def _deployed(project: stack.Project, python: Path, folder: Path) -> str:
    """The model's address in a fresh stack."""
    project("provision", "--yes")
    found = project.json("get")
    train(python, folder / "model", found["experiment-tracker"]["tracking-url"], folder)
    project("deploy", f"models:/{NAME}/1", "--name", NAME)
    return f"{found['model-deployer']['base-url']}/v2/models/{NAME}/infer"


def train(python: Path, model: Path, tracker: str, folder: Path) -> None:
    script = Path(__file__).with_name("training.py")
    subprocess.run(
        [str(python), str(script), str(model)],
        env=places.user_env(MLFLOW_TRACKING_URI=tracker, **bare.QUIET),
        cwd=folder,
        capture_output=True,
        timeout=300,
        check=True,
    )


def _bare(stacked: ExitStack, python: Path, folder: Path) -> str:
    """The same saved model in a bare MLServer with its own MLflow runtime."""
    settings = {
        "name": NAME,
        "implementation": "mlserver_mlflow.MLflowRuntime",
        "parameters": {"uri": str(folder / "model")},
    }
    place = folder / "mlserver" / NAME
    place.mkdir(parents=True)
    (place / "model-settings.json").write_text(json.dumps(settings))
    server = bare.mlserver(python, folder / "mlserver")
    stacked.enter_context(bare.running({"mlserver": server}, folder))
    return f"{server.health.partition('/v2/')[0]}/v2/models/{NAME}/infer"


def body() -> bytes:
    tensors = [
        {"name": f"x{number}", "shape": [1], "datatype": "FP64", "data": [0.1 * number]}
        for number in range(20)
    ]
    return json.dumps({"parameters": {"content_type": "pd"}, "inputs": tensors}).encode()


def _rows(clients: int, ours: list[Burst], plain: list[Burst]) -> list[Row]:
    who = "1 client" if clients == 1 else f"{clients} clients"
    return [
        Row(
            "inference",
            f"requests a second, {who}",
            "/s",
            tuple(b.per_second for b in ours),
            tuple(b.per_second for b in plain),
            Budget("ratio", ">=", 0.95),
        ),
        Row(
            "inference",
            f"p99, {who}",
            "ms",
            tuple(b.p99 for b in ours),
            tuple(b.p99 for b in plain),
            Budget("ratio", "<=", 1.1),
        ),
    ]
