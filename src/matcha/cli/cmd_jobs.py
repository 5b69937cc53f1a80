"""`matcha jobs list`, `matcha jobs logs` and `matcha jobs cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from matcha.cli import screen
from matcha.cli.cmd_logs import Follow, Lines, pour
from matcha.cli.options import AsOutput, Output, Project, Target, epilog, shared
from matcha.cli.place import project_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EXAMPLES = (
    "matcha jobs list",
    "matcha jobs logs train-x7k2p --follow",
    "matcha jobs cancel train-x7k2p",
)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, follow or end training jobs.",
    epilog=epilog(EXAMPLES),
    context_settings={"help_option_names": ["--help", "-h"]},
)
Name = Annotated[str, typer.Argument(metavar="JOB", help="One of those that list shows.")]


@app.command("list")
@shared
def list_jobs(project: Project = None, target: Target = None, output: AsOutput = Output.text) -> None:
    """List jobs: what they wait for, and how they ended."""
    from matcha import api
    from matcha.views.jobs import jobs_lines

    folder = project_folder(project)
    with screen.waiting("Looking for jobs"):
        found = api.jobs(folder, target=target)
    if output == Output.json:
        screen.show_json(found)
    else:
        screen.show(jobs_lines(found, screen.paper()))


@app.command("logs")
@shared
def show_log(
    name: Name,
    follow: Follow = False,
    lines: Lines = 100,
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Show what a job wrote; with --follow until it is over, also after its terminal was closed."""
    from matcha import api

    folder = project_folder(project)
    with screen.progress("Waiting for the job") as display:
        said = api.job_logs(name, folder, target=target, lines=lines, follow=follow, emit=display.emit)
        try:
            pour(_texts(name, said, output, display.pause))
        except KeyboardInterrupt:
            screen.note(f"The job goes on. To end it: matcha jobs cancel {name}")
            raise


@app.command("cancel")
@shared
def cancel_job(
    name: Name, project: Project = None, target: Target = None, output: AsOutput = Output.text
) -> None:
    """End a job."""
    from matcha import api
    from matcha.views.documents import DoneDocument
    from matcha.views.text import line

    with screen.waiting(f"Ending {name}"):
        api.cancel(name, project_folder(project), target=target)
    if output == Output.json:
        screen.show_json(DoneDocument("cancel", name))
    else:
        screen.show([line(f"{name} was ended.")])


def _texts(name: str, said: Iterable[str], output: Output, before: Callable[[], None]) -> Iterable[str]:
    from matcha.views.documents import LogLine, to_json_line

    for each in said:
        before()
        yield to_json_line(LogLine(name, each)) if output == Output.json else f"{each}\n"
