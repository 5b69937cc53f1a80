"""`matcha destroy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target, Yes
from matcha.cli.place import again, folder_to_change

if TYPE_CHECKING:
    from matcha.api.types import Destruction
    from matcha.views.live import Display

EXAMPLES = ("matcha destroy", "matcha destroy --yes --delete-data")
DeleteData = Annotated[
    bool, typer.Option("--delete-data", help="Also where that loses the only copy of data, runs or models.")
]


def command(
    project: Project = None,
    target: Target = None,
    yes: Yes = False,
    delete_data: DeleteData = False,
    output: AsOutput = Output.text,
) -> None:
    """Remove all of the stack, and check that it is gone."""
    from matcha import api
    from matcha.views.upkeep import destroyed_lines

    folder = folder_to_change(project)
    with screen.progress("Destroying", plain=output == Output.json, resume="matcha destroy") as display:
        result = api.destroy(
            folder,
            target=target,
            delete_data=delete_data,
            confirm=None if yes else lambda going: _agree(going, folder, display, delete_data),
            emit=display.emit,
        )
    if output == Output.json:
        screen.show_json(result)
    else:
        screen.show(destroyed_lines(result, listed=not yes))


def _agree(going: Destruction, folder: Path, display: Display, delete_data: bool) -> bool:
    """Show what goes and ask; a second time, by name, for what cannot be had back."""
    from matcha.views.format import joined
    from matcha.views.upkeep import destruction_lines

    display.pause()
    lost = joined(list(going.holdings))
    screen.tell(destruction_lines(going, f"the stack of {folder}"))
    instead = again("--yes", *(["--delete-data"] if lost else []))
    if not screen.ask("Remove all of it?", default=False, instead=instead):
        return False
    if not lost or delete_data:
        return True
    return screen.ask_word(f'This loses {lost} for good. Type "delete" to go on:', "delete")
