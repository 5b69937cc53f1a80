"""`matcha force-unlock`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target, Yes
from matcha.cli.place import again, project_folder
from matcha.views.text import line

if TYPE_CHECKING:
    from matcha.target import LockInfo
    from matcha.views.documents import LockDocument

EXAMPLES = ("matcha force-unlock",)


def command(
    project: Project = None,
    target: Target = None,
    yes: Yes = False,
    output: AsOutput = Output.text,
) -> None:
    """Break a lock that nobody will release any more."""
    from matcha import api

    folder = project_folder(project)
    question = f"Break the lock of {folder}? A command that is still at work would fail."
    if not yes and not screen.ask(question, default=False, instead=again("--yes")):
        return
    broken = api.force_unlock(folder, target=target, emit=lambda event: screen.note(event.message))
    if output == Output.json:
        screen.show_json(_document(broken))
    elif broken:
        screen.show([line(f"The lock of {broken.owner} ({broken.operation}) is broken.")])
    else:
        screen.show([line("The stack was not locked.")])


def _document(broken: LockInfo | None) -> LockDocument:
    from matcha.views.documents import LockDocument

    if broken is None:
        return LockDocument(broken=False)
    return LockDocument(
        broken=True,
        owner=broken.owner,
        operation=broken.operation,
        since=broken.since,
        expires=broken.expires,
    )
