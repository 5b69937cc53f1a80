"""`matcha plan`."""

from __future__ import annotations

from matcha.cli import screen
from matcha.cli.options import AsOutputWithYaml, OutputWithYaml, Project, Target
from matcha.cli.place import project_folder, titles

EXAMPLES = ("matcha plan", "matcha plan --output json")


def command(
    project: Project = None,
    target: Target = None,
    output: AsOutputWithYaml = OutputWithYaml.text,
) -> None:
    """Show what provision would do.

    With --output yaml, on targets that have them: the manifests themselves, without asking the cluster.
    """
    from matcha import api
    from matcha.views.documents import to_yaml_stream
    from matcha.views.plans import plan_lines

    folder = project_folder(project)
    if output == OutputWithYaml.yaml:
        screen.write(to_yaml_stream(api.manifests(folder, target=target)))
        return
    found = api.plan(folder, target=target)
    if output == OutputWithYaml.json:
        screen.show_json(found)
    else:
        screen.show(plan_lines(found, titles(), screen.paper()))
