"""`matcha provision`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target, Yes
from matcha.cli.place import again, first_step, folder_to_change, titles

if TYPE_CHECKING:
    from matcha.planning import Plan
    from matcha.views.live import Display

EXAMPLES = ("matcha provision", "matcha provision --yes", "matcha provision --dry-run")
Force = Annotated[
    bool, typer.Option("--force", help="Take over fields that another tool manages as well (kubernetes).")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


def command(
    project: Project = None,
    target: Target = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    force: Force = False,
    output: AsOutput = Output.text,
) -> None:
    """Make the whole stack run.

    The first time, after a change of matcha.yaml, and as the repair of anything: what is as it should be
    stays untouched.
    """
    folder = folder_to_change(project)
    if dry_run:
        _show_plan(folder, target, output)
    else:
        _provision(folder, target, yes, force, output)


def _show_plan(folder: Path, target: str | None, output: Output) -> None:
    from matcha import api
    from matcha.views.plans import plan_lines

    found = api.plan(folder, target=target)
    if output == Output.json:
        screen.show_json(found)
    else:
        screen.show(plan_lines(found, titles(), screen.paper()))


def _provision(folder: Path, target: str | None, yes: bool, force: bool, output: Output) -> None:
    from matcha import api
    from matcha.views import documents
    from matcha.views.plans import provisioned_lines

    with screen.progress("Provisioning", plain=output == Output.json, resume="matcha provision") as display:
        result = api.provision(
            folder,
            target=target,
            emit=display.emit,
            confirm=lambda plan: _agree(plan, display, yes),
            force=force,
        )
    if output == Output.json:
        screen.show_json(documents.provisioned(result))
    else:
        screen.show(provisioned_lines(result, titles(), screen.paper(), first_step(folder, target)))


def _agree(plan: Plan, display: Display, yes: bool) -> bool:
    """Show the plan on stderr and ask, unless that was answered with --yes."""
    from matcha.views.plans import brief_lines, plan_lines
    from matcha.views.terminal import paper_of

    display.pause()
    if yes:
        screen.tell(brief_lines(plan, paper_of(sys.stderr)))
    else:
        screen.tell([*plan_lines(plan, titles(), paper_of(sys.stderr)), ()])
        if not screen.ask("Go ahead?", default=True, instead=again("--yes")):
            return False
    display.plan(plan)
    return True
