"""What the benchmarks' page gives to type is understood by them; they themselves take too long for a test."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from support.pages import ROOT, marked

READ = "import sys; from benchmarks.__main__ import arguments; print(arguments(sys.argv[1:]))"
[PAGE] = marked(__file__)
LINES = [shlex.split(line, comments=True) for line in PAGE.text.splitlines()]


def understood(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", READ, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_the_command_is_understood(words: list[str]) -> None:
    program, *arguments = words
    assert program == "benchmarks/run"
    assert os.access(ROOT / program, os.X_OK)
    done = understood(*arguments)
    assert done.returncode == 0, done.stderr


def test_a_word_that_is_not_is_refused() -> None:
    assert understood("--only", "provision", "--onlx", "memory").returncode == 2


@pytest.mark.parametrize("rounds", ["1", "4"])
def test_figures_of_few_rounds_are_not_kept(rounds: str) -> None:
    """Refused before anything is measured."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rounds", rounds, "--save", "--only", "commands"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{rounds} of 5 rounds" in done.stderr
    assert done.stderr.endswith("Next: benchmarks/run --save --rounds 5\n")


def test_five_rounds_are_enough_to_keep() -> None:
    assert understood("--rounds", "5", "--save").returncode == 0
    assert understood("--rounds", "1").returncode == 0


ROWS = """
from collections import defaultdict
from benchmarks import kubernetes

took = defaultdict(lambda: (SECONDS,))
print(*(row.what for row in kubernetes._rows(took) if row.met is False), sep=",")
"""


@pytest.mark.parametrize(("seconds", "missed"), [("1.0", ""), ("1.1", "`status`,`get`,`--help`")])
def test_a_short_command_on_a_cluster_has_a_second(seconds: str, missed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ROWS.replace("SECONDS", seconds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{missed}\n", "")
