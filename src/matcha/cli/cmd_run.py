"""`matcha run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import Project, Target
from matcha.cli.place import folder_inside, project_folder

if TYPE_CHECKING:
    from matcha.events import Event

EXAMPLES = ("matcha run -- python train.py", "matcha run --gpu 1 -- python train.py --epochs 3")
SETTINGS = {"allow_interspersed_args": False}  # what follows CMD is CMD's own

Command = Annotated[list[str], typer.Argument(metavar="CMD", help="The command and its arguments.")]
Gpu = Annotated[
    int, typer.Option("--gpu", min=0, metavar="N", show_default=False, help="GPUs that it needs.")
]
Cpu = Annotated[float | None, typer.Option("--cpu", min=0, metavar="N", help="CPU cores that it needs.")]
Memory = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Memory it needs, such as 4Gi.")]


def command(
    cmd: Command,
    gpu: Gpu = 0,
    cpu: Cpu = None,
    memory: Memory = None,
    project: Project = None,
    target: Target = None,
) -> int:
    """Run your code against the stack.

    It runs in an environment that has the stack's client libraries and what the project requires, with the
    stack's variables set, in the folder that you are in, or in the project's where that is another one. The
    exit code is its own.
    """
    from matcha import api

    folder = project_folder(project)
    with screen.progress("Preparing") as display:

        def emit(event: Event) -> None:
            display.emit(event)
            if event.phase in ("done", "failed"):
                display.pause()  # the command's own output may follow at once

        return api.run(
            cmd,
            project=folder,
            target=target,
            folder=folder_inside(folder),
            gpu=gpu,
            cpu=cpu,
            memory=memory,
            emit=emit,
        )
