"""`matcha env`."""

from __future__ import annotations

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, ShowSensitive, Target
from matcha.cli.place import project_folder

EXAMPLES = ('eval "$(matcha env --show-sensitive)"', "matcha env --output json")


def command(
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
    show_sensitive: ShowSensitive = False,
) -> None:
    """Show the variables with which code reaches the stack."""
    from matcha import api
    from matcha.views import documents, outputs

    found = api.env(project_folder(project), target=target)
    variables = documents.variables(found, show=show_sensitive)
    if output == Output.json:
        screen.show_json(variables)
        return
    screen.write(outputs.env_text(variables))
    if documents.hides({"": found}, show=show_sensitive):
        screen.note(outputs.HIDDEN_NOTE)
