"""`matcha run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import Project, Target
from matcha.cli.place import folder_inside, project_folder

if TYPE_CHECKING:
    from matcha.events import Event

EXAMPLES = (
    "matcha run -- python train.py",
    "matcha run --gpu 1 --memory 16Gi -- python train.py --epochs 3",
    "matcha run --detach -- python train.py",
    "matcha run --pipeline -- python pipeline.py",
)
SETTINGS = {"allow_interspersed_args": False}  # what follows CMD is CMD's own

Command = Annotated[list[str], typer.Argument(metavar="CMD", help="The command and its arguments.")]
Gpu = Annotated[
    int, typer.Option("--gpu", min=0, metavar="N", show_default=False, help="GPUs that it needs.")
]
Cpu = Annotated[float | None, typer.Option("--cpu", min=0, metavar="N", help="CPU cores that it needs.")]
Image = Annotated[
    str, typer.Option("--image", metavar="I", show_default=False, help="Run in it, with its own packages.")
]
Detach = Annotated[bool, typer.Option("--detach", help="Queue it, print its name, and end.")]
Pipeline = Annotated[
    bool, typer.Option("--pipeline", help="Run each step of its ZenML pipeline as a job of its own.")
]
Memory = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Memory it needs, such as 4Gi.")]


def command(
    cmd: Command,
    gpu: Gpu = 0,
    cpu: Cpu = None,
    memory: Memory = None,
    image: Image = "",
    detach: Detach = False,
    pipeline: Pipeline = False,
    project: Project = None,
    target: Target = None,
) -> int:
    """Run your code against the stack.

    It runs in an environment that has the stack's client libraries and what the project requires, with the
    stack's variables set, in the folder that you are in, or in the project's where that is another one. The
    exit code is its own.

    On a cluster it is a job: the project's files go there, less what .gitignore leaves out; its output is
    shown here, and it goes on when this terminal does not. Ctrl-C ends it. With --pipeline it runs on this
    machine, and each step of its pipeline is a job, of the size that the step's ResourceSettings ask for.
    """
    from matcha import api

    folder = project_folder(project)
    # The leader of a pipeline writes to the terminal itself, while its steps are told of.
    with screen.progress("Preparing", plain=pipeline) as display:

        def emit(event: Event) -> None:
            display.emit(event)
            if event.phase in ("done", "failed"):
                display.pause()  # the command's own output may follow at once

        def say(text: str) -> None:
            display.pause()
            screen.write(f"{text}\n")

        return api.run(
            cmd,
            project=folder,
            target=target,
            folder=folder_inside(folder),
            gpu=gpu,
            cpu=cpu,
            memory=memory,
            image=image,
            detach=detach,
            pipeline=pipeline,
            emit=emit,
            say=say,
        )
