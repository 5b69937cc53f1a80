"""Commands, each imported only when it is used: `cmd_<name>.py` holds `command` (or a group's `app`).

A module's `EXAMPLES` stand in its help; the tests try that they parse.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

from matcha.cli.options import epilog, shared
from matcha.errors import BadInput, suggest

PANELS = {
    "Stack": (
        "init",
        "plan",
        "provision",
        "status",
        "get",
        "logs",
        "open",
        "stop",
        "start",
        "destroy",
    ),
    "Train": ("run", "jobs", "env"),
    "Serve": ("deploy", "models", "predict", "monitor", "undeploy", "tokens"),
    "Help": ("example", "doctor", "force-unlock"),
}
HIDDEN = ("schema",)
WIDEST = max(len(name) for names in PANELS.values() for name in names)


class Commands(TyperGroup):
    """The top-level group."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in PANELS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        known = cmd_name in HIDDEN or cmd_name in self.list_commands(ctx)
        return load(cmd_name) if known else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            raise BadInput(
                f'There is no command "{name}".', resolution=_instead(name, self.list_commands(ctx))
            )
        return name, command, args[1:]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Commands by what they are for, then the options."""
        for panel, names in PANELS.items():
            rows = [(name.ljust(WIDEST), load(name).get_short_help_str(limit=200)) for name in names]
            with formatter.section(panel):
                formatter.write_dl(rows)
        with formatter.section("Options"):
            formatter.write_dl([r for p in self.get_params(ctx) if (r := p.get_help_record(ctx))])


def _instead(name: str, known: list[str]) -> str:
    hint = suggest(name, known)
    return hint if hint.startswith("Did you mean") else "matcha --help"


def load(name: str) -> Any:
    """The command called `name`, made from its module."""
    module = importlib.import_module(f"matcha.cli.cmd_{name.replace('-', '_')}")
    made: Any = typer.main.get_command(getattr(module, "app", None) or _single(name, module))
    made.name = name
    return made


def _single(name: str, module: Any) -> typer.Typer:
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(
        name, epilog=epilog(module.EXAMPLES), context_settings=_settings(module), hidden=name in HIDDEN
    )(shared(module.command))
    return single


def _settings(module: Any) -> dict[str, Any]:
    return {"help_option_names": ["--help", "-h"], **getattr(module, "SETTINGS", {})}
