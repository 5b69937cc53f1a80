"""Help, options, places and errors: everything before a stack is touched."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from matcha import __version__
from matcha.cli import commands
from matcha.views.documents import SCHEMAS

ENTRY = [sys.executable, "-c", "from matcha.cli.main import run; run()"]
ELSEWHERE = "Next: Write it to another place, then run the same command again\n"
NAMES = [name for names in commands.PANELS.values() for name in names]


def test_version(matcha) -> None:
    assert matcha("--version") == (0, f"matcha {__version__}\n", "")


def test_help_groups_the_commands_one_line_each(matcha) -> None:
    done = matcha("--help")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "Usage: matcha [OPTIONS] COMMAND [ARGS]..."
    assert [each for each in lines if each.endswith(":")] == [
        "Stack:",
        "Train:",
        "Serve:",
        "Help:",
        "Options:",
    ]
    listed = [
        each.split()[0] for each in lines if each.startswith("  ") and not each.startswith(("   ", "  -"))
    ]
    assert [name for name in listed if name in NAMES] == NAMES
    assert matcha() == done


@pytest.mark.parametrize("name", [*NAMES, *commands.HIDDEN])
def test_every_command_explains_itself(name: str) -> None:
    command = commands.load(name)
    assert command.help
    assert "Example" in command.epilog


def examples() -> list[str]:
    modules = [__import__(f"matcha.cli.cmd_{name.replace('-', '_')}", fromlist=["x"]) for name in NAMES]
    return [example for module in modules for example in module.EXAMPLES]


@pytest.mark.parametrize("example", examples())
def test_examples_of_the_help_parse(example: str) -> None:
    inner = example.partition("$(")[2].rpartition(")")[0] or example
    words = shlex.split(inner.rpartition("| ")[2])
    assert words[0] == "matcha"
    command = commands.load(words[1])
    with command.make_context(words[1], words[2:], obj={"debug": False}) as context:
        assert context.command is command


def test_an_unknown_command(matcha) -> None:
    done = matcha("provison")
    assert done == (2, "", 'Error: There is no command "provison".\nDid you mean "provision"?\n')
    done = matcha("frobnicate")
    assert done == (2, "", 'Error: There is no command "frobnicate".\nNext: matcha --help\n')


@pytest.mark.parametrize(
    ("arguments", "helped"),
    [
        (["status", "--outptu", "json"], "matcha status --help"),
        (["status", "--output", "xml"], "matcha status --help"),
        (["status", "extra"], "matcha status --help"),
        (["logs", "--lines", "-3"], "matcha logs --help"),
        (["deploy"], "matcha deploy --help"),
        (["run"], "matcha run --help"),
        (["example", "got"], "matcha example --help"),
        (["--nonsense"], "matcha --help"),
    ],
)
def test_bad_usage_names_the_help_to_read(matcha, arguments: list[str], helped: str) -> None:
    done = matcha(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Error: ")
    assert done.err.endswith(f"\nNext: {helped}\n")
    assert "Traceback" not in done.err


def test_bad_usage_as_json(matcha) -> None:
    done = matcha("status", "--nonsense", "--output", "json")
    assert (done.code, done.err) == (2, "")
    error = json.loads(done.out)["error"]
    assert (error["code"], error["resolution"]) == ("BadInput", "matcha status --help")


def test_errors_as_json_stand_on_stdout_alone(matcha) -> None:
    done = matcha("status", "--output", "json")
    assert (done.code, done.err) == (1, "")
    assert json.loads(done.out) == {
        "error": {
            "code": "NotProvisioned",
            "message": "There is no running stack here.",
            "details": "",
            "resolution": "matcha provision",
            "docs_url": "",
        }
    }


def test_debug_shows_the_traceback(matcha) -> None:
    plain, debug, before = matcha("status"), matcha("status", "--debug"), matcha("--debug", "status")
    assert plain == (1, "", "Error: There is no running stack here.\nNext: matcha provision\n")
    assert debug.code == before.code == 1
    assert debug.err.startswith("Traceback")
    assert before.err.startswith("Traceback")
    assert debug.err.endswith(plain.err)


def test_a_mistake_of_matchas_own_says_how_to_report_it(matcha) -> None:
    """`matcha.api.status` is made to divide by zero, which no code expects."""
    (matcha.folder / "matcha.yaml").unlink()
    broken = (
        "import matcha.api; matcha.api.status = lambda *a, **k: 1 / 0; from matcha.cli.main import run; run()"
    )
    for options in ([], ["--debug"]):
        done = subprocess.run(
            [sys.executable, "-c", broken, "status", *options],
            cwd=matcha.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "Error: Internal error: ZeroDivisionError: division by zero\n" in done.stderr
        assert "--debug, and send what it prints to Matcha's developers" in done.stderr
        assert ("Traceback" in done.stderr) == bool(options)


@pytest.mark.parametrize(
    "arguments", [["status"], ["init"], ["example", "get", "recommendation"], ["provision", "--yes"]]
)
def test_a_folder_that_was_removed(matcha, arguments: list[str]) -> None:
    line = f"mkdir gone && cd gone && rmdir ../gone && exec {shlex.join([*ENTRY, *arguments])}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=matcha.folder, capture_output=True, text=True, timeout=60, check=False
    )
    said = "Error: The folder that you are in was removed.\nNext: Go to another one: cd\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.skipif(
    not Path("/sys/kernel").is_dir(), reason="needs a folder that takes no files, from root too"
)
def test_folders_that_take_no_files(matcha) -> None:
    done = matcha("example", "get", "recommendation", "/sys/kernel/recommendation")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: The example cannot be written to /sys/kernel/recommendation.\n")
    done = matcha("init", "--project", "/sys/kernel")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: matcha.yaml cannot be written in /sys/kernel: ")
    matcha.file.write_text(matcha.file.read_text().replace("target: fake", "target: local"))
    done = matcha("provision", "--yes", XDG_DATA_HOME="/sys/kernel")
    assert (done.code, done.out) == (1, "")
    assert "Error: The system refused: " in done.err
    assert done.err.endswith("\n  /sys/kernel/matcha\nNext: matcha doctor\n")
    done = matcha("doctor", XDG_DATA_HOME="/sys/kernel")
    assert "/sys/kernel takes no files, for what is kept of your stacks" in done.out


def test_unknown_names(matcha) -> None:
    assert matcha("status", "--target", "fak") == (
        2,
        "",
        'Error: Unknown target "fak".\nDid you mean "fake"?\n',
    )
    assert matcha("status", "--target", "nomad") == (
        2,
        "",
        'Error: Unknown target "nomad".\nKnown: kubernetes, local.\n',
    )
    done = matcha("example", "get", "recomendation")
    assert done == (
        2,
        "",
        'Error: There is no example "recomendation".\nDid you mean "recommendation"?\n',
    )
    done = matcha("status", "--project", "nowhere")
    assert (done.code, done.err.splitlines()[0]) == (2, "Error: nowhere is not a folder.")


def test_the_stack_file_is_blamed_with_its_line(matcha) -> None:
    matcha.file.write_text("target: fake\ncomponents:\n  experiment-traker: mlflow\n")
    done = matcha("plan")
    assert done == (
        2,
        "",
        'Error: matcha.yaml:3: unknown key "experiment-traker"\n'
        "  At components.experiment-traker.\n"
        'Did you mean "experiment-tracker"?\n',
    )


def test_options_before_the_command_hold_too(matcha, tmp_path: Path) -> None:
    inside = matcha("plan")
    assert matcha("--project", str(matcha.folder), "plan", where=tmp_path) == inside
    assert matcha("plan", "--project", str(matcha.folder), where=tmp_path) == inside
    matcha.file.unlink()
    assert matcha("--target", "fake", "plan").out.startswith("Plan for stack default on fake:")


def test_the_nearest_stack_file_upwards_is_meant(matcha) -> None:
    below = matcha.folder / "src" / "deep"
    below.mkdir(parents=True)
    assert matcha("plan", where=below) == matcha("plan")
    done = matcha("provision", "--yes", where=below)
    assert done.code == 0
    assert done.err.startswith(f"In {matcha.folder}, the nearest folder upwards with a matcha.yaml.\n")
    assert (matcha.folder / ".matcha").is_dir()
    assert not (below / ".matcha").exists()


@pytest.mark.parametrize(("command", "code"), [("logs", 0), ("status", 1)])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_goes_away_is_told_nothing(stack, command: str, code: int, *, buffered: bool) -> None:
    """Of logs it may have had enough, as `head` has; what else is said and not heard may have been missed."""
    loud = f"import sys; sys.argv[1:] = ['{command}']; from matcha.cli.main import run; run()"
    process = subprocess.Popen(
        [sys.executable, *([] if buffered else ["-u"]), "-c", loud],
        cwd=stack.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), err) == (code, b"")


OUTPUTS = (
    ["--help"],
    ["--version"],
    ["status"],
    ["status", "--output", "json"],
    ["status", "--help"],
    ["get"],
    ["get", "experiment-tracker", "flavor"],
    ["logs"],
    ["plan"],
    ["doctor"],
    ["env"],
    ["provision", "--yes"],
)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("arguments", OUTPUTS, ids=" ".join)
@pytest.mark.parametrize(
    ("redirection", "why"),
    [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")],
    ids=["closed", "full"],
)
def test_a_stdout_that_takes_nothing(stack, arguments: list[str], redirection: str, why: str) -> None:
    for buffering in ({}, {"PYTHONUNBUFFERED": "1"}):
        done = stack.redirected(redirection, *arguments, **buffering)
        assert (done.code, done.out) == (1, "")
        assert done.err.endswith(f"Error: The output cannot be written.\n  {why}\n{ELSEWHERE}")
        assert "Traceback" not in done.err
        assert "Internal" not in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nosuch"], 2), (["status"], 0), (["provision", "--yes"], 0), (["get", "nosuch", "--debug"], 2)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_changes_nothing(
    stack, arguments: list[str], code: int, redirection: str
) -> None:
    done = stack.redirected(redirection, *arguments)
    assert (done.code, done.err) == (code, "")


@pytest.mark.parametrize("redirection", [">&- 2>&-", "<&- >&- 2>&-"])
def test_with_no_stream_at_all_there_is_an_exit_code(stack, redirection: str) -> None:
    for arguments, code in ((["status"], 1), (["nosuch"], 2), (["destroy"], 2)):
        done = stack.redirected(redirection, *arguments)
        assert done == (code, "", "")


def test_an_error_as_json_that_cannot_be_written_keeps_its_code(stack) -> None:
    done = stack.redirected(">&-", "get", "nosuch", "--output", "json")
    assert (done.code, done.out) == (2, "")
    assert done.err == "Error: The output cannot be written.\n  Bad file descriptor\n" + ELSEWHERE


def test_a_closed_stdin_is_at_its_end(stack) -> None:
    done = stack.redirected("<&-", "destroy")
    assert (done.code, done.out) == (2, "")
    assert "no terminal to ask on" in done.err


def test_schemas_are_published_by_name(matcha) -> None:
    done = matcha("schema")
    assert done.out.splitlines() == sorted(SCHEMAS)
    listed = matcha("schema", "--output", "json")
    assert json.loads(listed.out) == done.out.splitlines()
    shown = matcha("schema", "example", "list")
    assert json.loads(shown.out)["title"] == "matcha example list --output json"
    assert matcha("schema", "statu").err == 'Error: "statu" has no JSON.\nDid you mean "status"?\n'


@pytest.mark.parametrize("command", [("schema",), ("example", "list")])
def test_a_target_and_a_project_may_be_named_everywhere(matcha, command: tuple[str, ...]) -> None:
    plain = matcha(*command)
    assert plain.code == 0
    assert matcha(*command, "--target", "local", "--project", ".") == plain
    assert matcha("--target", "local", *command) == plain


def test_without_unicode_nothing_breaks(matcha) -> None:
    done = matcha("doctor", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C", PYTHONCOERCECLOCALE="0")
    assert (done.out + done.err).isascii()
    assert "Internal error" not in done.err
