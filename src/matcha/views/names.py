"""What a step is called for a person: `service/mlflow` -> MLflow, start.

`titles` maps the names that occur in keys (services, environments, roles) to titles; what it lacks is made
readable from the key itself, so a new component needs no entry anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from matcha.planning import Action

Titles = Mapping[str, str]

VERBS = {"foundation": "make", "environment": "install", "service": "start", "setup": "set up"}
WHOLE = {
    "secrets": ("Secrets", "generate"),
    "stores": ("Storage", "make"),
    "deployments": ("Models", "load"),
    "stack": ("Stack", ""),
    "lock": ("Stack", ""),
}
NOUNS = {"foundation": "{}", "environment": "{} environment", "service": "{}", "setup": "{} set-up"}
FORMS = {  # verb: what goes on, what was done
    "install": ("installing", "installed"),
    "reinstall": ("reinstalling", "reinstalled"),
    "start": ("starting", "started"),
    "restart": ("restarting", "restarted"),
    "stop": ("stopping", "stopped"),
    "set up": ("setting up", "set up"),
    "generate": ("generating", "generated"),
    "make": ("making", "made"),
    "load": ("loading", "loaded"),
    "remove": ("removing", "removed"),
}
PROPER = {"mysql": "MySQL"}  # what no component has a title for
AGAIN: dict[tuple[str, Action], str] = {
    ("service", "update"): "restart",
    ("service", "repair"): "restart",
    ("environment", "update"): "install",
    ("environment", "repair"): "reinstall",
}


def title_of(name: str, titles: Titles) -> str:
    return titles.get(name) or readable(name)


def readable(name: str) -> str:
    """`experiment-tracker` -> Experiment tracker; what has capitals already is kept."""
    if name in PROPER:
        return PROPER[name]
    text = name.replace("-", " ").replace("_", " ").strip()
    return text if text != text.lower() else text[:1].upper() + text[1:]


def step_name(key: str, titles: Titles, action: Action = "create") -> tuple[str, str]:
    """The thing a step is about, and what is done to it."""
    kind, _, name = key.partition("/")
    if kind == "job" and name:  # as it is typed
        return name, ""
    title, verb = WHOLE.get(key) or (
        title_of(name or kind, titles),
        VERBS.get(kind, "" if not name else kind),
    )
    if action == "remove":
        return title, "remove"
    return title, AGAIN.get((kind, action), verb)


def noun(key: str, titles: Titles) -> str:
    """The thing alone, such as `MLflow environment`; used in plans."""
    if key in WHOLE:
        return WHOLE[key][0]
    kind, _, name = key.partition("/")
    return NOUNS.get(kind, "{}").format(title_of(name or kind, titles))
