"""The commands; see the package's docstring."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from . import ending
from .ending import Code, Deadline, Failed
from .s3 import Place, Store

PLACE = {"type": Place.of, "required": True}
FILE = {"type": Path, "required": True}
SOURCE = "source"  # what `--from` is called in Python
# Command -> its module and function, how many seconds it may take, its options.
COMMANDS: dict[str, tuple[str, str, float, dict[str, dict[str, Any]]]] = {
    "bucket": ("store", "ensure_bucket", 300, {"at": PLACE}),
    "probe": ("store", "probe", 60, {"at": PLACE}),
    "build": (
        "build",
        "build",
        3600,
        {
            "lock": FILE,
            "path": FILE,
            "to": PLACE,
            "work": {"type": Path, "default": tempfile.gettempdir()},
            "python": {"default": ""},
        },
    ),
    "unpack": ("unpack", "unpack", 900, {SOURCE: PLACE, "path": FILE}),
    "extract": ("unpack", "extract", 900, {SOURCE: PLACE, "path": FILE}),
    "upload": (
        "store",
        "upload_dated",
        3600,
        {SOURCE: FILE, "to": PLACE, "keep": {"type": int, "default": 7}, "ends-with": {"default": ""}},
    ),
    "delete": ("store", "delete_prefix", 900, {"at": PLACE}),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="matcha_pod", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, dest="command")
    for name, (_, _, seconds, options) in COMMANDS.items():
        made = commands.add_parser(name, allow_abbrev=False)
        made.add_argument("--deadline", type=float, default=seconds, help="seconds")
        for option, about in options.items():
            flag = "--from" if option == SOURCE else f"--{option}"
            made.add_argument(flag, dest=option.replace("-", "_"), **about)
    return parser.parse_args(arguments)


def run(arguments: list[str]) -> None:
    """Raises Failed."""
    said = vars(parse(arguments))
    module, function, _, _ = COMMANDS[said.pop("command")]
    store = Store(os.environ, Deadline(said.pop("deadline")))
    getattr(import_module(f".{module}", __package__), function)(store, **said)


def main() -> int:
    ending.on_signals()
    try:
        run(sys.argv[1:])
    except Failed as error:
        return end(str(error), error.code)
    except Exception as error:  # noqa: BLE001 - the last line is for people
        traceback.print_exc()
        return end(f"Unexpected: {type(error).__name__}: {error}", Code.FAILED)
    return 0


def end(message: str, code: int) -> int:
    line = " ".join(message.split())
    ending.leave_word(line)
    print(line, file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
