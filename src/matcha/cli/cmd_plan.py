"""`matcha plan`."""

from __future__ import annotations

from matcha.cli import screen
from matcha.cli.options import AsOutputWithYaml, OutputWithYaml, Project, Target
from matcha.cli.place import project_folder, titles
from matcha.errors import BadInput

EXAMPLES = ("matcha plan", "matcha plan --output json")


def command(
    project: Project = None,
    target: Target = None,
    output: AsOutputWithYaml = OutputWithYaml.text,
) -> None:
    """Show what provision would do."""
    from matcha import api
    from matcha.views.plans import plan_lines

    found = api.plan(project_folder(project), target=target)
    if output == OutputWithYaml.yaml:
        raise BadInput(
            f"The {found.target} target has no manifests to show as YAML.",
            resolution="matcha plan --output json",
        )
    if output == OutputWithYaml.json:
        screen.show_json(found)
    else:
        screen.show(plan_lines(found, titles(), screen.paper()))
