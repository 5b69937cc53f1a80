"""Options that commands share. What stands before the command's name holds for the command too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


class Output(str, Enum):
    """Compare with `==`: some typers hand on the plain string."""

    text = "text"
    json = "json"


class OutputWithYaml(str, Enum):
    text = "text"
    json = "json"
    yaml = "yaml"


def _inherited(context: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    return value if value is not None or param.name is None else context.find_root().params.get(param.name)


def _remember(context: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Tell `main`, which has to know when a command fails.

    Hands on the plain value: older typers convert it after this, newer ones before.
    """
    plain = getattr(value, "value", value)
    if value:
        context.find_root().obj[param.name] = plain
    return plain


Project = Annotated[
    Path | None,
    typer.Option(
        "--project",
        metavar="DIR",
        callback=_inherited,
        help="The project's folder; otherwise the nearest one upwards with a matcha.yaml, or this one.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        callback=_inherited,
        help="Where the stack runs; otherwise what matcha.yaml says, or local.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", callback=_remember, help="Show tracebacks of errors.")]
AsOutput = Annotated[
    Output,
    typer.Option(
        "--output",
        callback=_remember,
        show_default=False,
        help="Text (the default) for people, JSON for programs.",
    ),
]
AsOutputWithYaml = Annotated[
    OutputWithYaml,
    typer.Option(
        "--output",
        callback=_remember,
        show_default=False,
        help="Text (the default) for people, JSON or YAML for programs.",
    ),
]
ShowSensitive = Annotated[bool, typer.Option("--show-sensitive", help="Show passwords and keys.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


_Folder = Annotated[Path | None, typer.Option("--project", hidden=True)]
_Place = Annotated[str | None, typer.Option("--target", hidden=True)]
EVERYWHERE: dict[str, tuple[Any, Any]] = {
    "project": (None, _Folder),
    "target": (None, _Place),
    "debug": (False, Debug),
}


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """`command` with the options that every command takes, `--debug` among them, which is for `main` alone.

    Those that it has no parameter for mean nothing to it, and are not in its help.
    """
    own = inspect.signature(command, eval_str=True)
    added = {name: each for name, each in EVERYWHERE.items() if name not in own.parameters}

    @functools.wraps(command)
    def wrapped(*args: Any, **values: Any) -> Any:
        return command(*args, **{name: value for name, value in values.items() if name not in added})

    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (default, annotation) in added.items()
    ]
    signature = own.replace(parameters=[*own.parameters.values(), *extra])
    wrapped.__signature__ = signature  # type: ignore[attr-defined]
    wrapped.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    return wrapped


def epilog(examples: tuple[str, ...]) -> str:
    """The end of a command's help."""
    title = "Example:" if len(examples) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {example}" for example in examples)])
