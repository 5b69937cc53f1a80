"""`python -m benchmarks [--only NAME ...] [--rounds N] [--save]`, from the root of the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks import report
from benchmarks.figures import Asked, Row
from benchmarks.machine import Machine, load, this_machine, wait_until_calm

SUBJECTS = ("provision", "commands", "memory", "inference", "cold")
ON_REQUEST = ("jobs", "kubernetes", "serving")  # needs root, and makes a cluster
ROUNDS = 5  # the fewest whose median is worth reporting
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    asked = arguments()
    machine = this_machine()
    weather = Weather(asked.patience)
    rows = [row for name in asked.only or SUBJECTS for row in _run(name, asked.rounds, weather)]
    print(report.text(machine, weather.said(), rows))
    if asked.save:
        _save(machine, weather.said(), rows, asked.only or ())
    return 0 if all(row.met is not False for row in rows) else 1


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line, unless others are given. Exits with 2 for what it does not understand."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Matcha against the bare tools on this machine. Exits 1 when a budget is not met.",
    )
    help_ = "this subject (may be repeated)"
    parser.add_argument("--only", action="append", choices=SUBJECTS + ON_REQUEST, help=help_)
    parser.add_argument("--rounds", type=_rounds, default=ROUNDS, help="rounds of each subject (usually 5)")
    help_ = "seconds to wait before a turn for a calm machine (usually 30)"
    parser.add_argument("--patience", type=float, default=30.0, help=help_)
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/DATE[-NAME].md and .json"
    )
    asked = parser.parse_args(words)
    if asked.save and asked.rounds < ROUNDS:
        parser.error(
            f"{asked.rounds} of {ROUNDS} rounds: a median of fewer is not worth keeping (--save).\n"
            f"Next: benchmarks/run --save --rounds {ROUNDS}"
        )
    return asked


def _rounds(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return int(text)


class Weather:
    """Waits before every turn for others to leave the machine alone, and counts when they did not."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._turns = self._rough = 0

    def wait(self) -> None:
        self._turns += 1
        self._rough += not wait_until_calm(self._patience)

    def said(self) -> str:
        return f"{self._rough} of {self._turns} turns began while others kept the machine busy"


def _run(name: str, rounds: int, weather: Weather) -> list[Row]:
    def say(text: str) -> None:
        print(f"{name}: {text} (load {load():g})", file=sys.stderr, flush=True)

    subject = import_module(f"benchmarks.{name}")
    rows: list[Row] = subject.run(Asked(rounds, say, weather.wait))
    for row in rows:
        say(report.line(row))
    return rows


def _save(machine: Machine, weather: str, rows: list[Row], only: Sequence[str]) -> None:
    name = "-".join([machine.when.split()[0], *only])
    for path in report.save(RESULTS, name, machine, weather, rows):
        print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    raise SystemExit(main())
