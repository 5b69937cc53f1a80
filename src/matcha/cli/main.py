"""The entry point, and the only place that handles errors.

An error is one message on stderr with its details and what to type next; with `--output json` it is one
document on stdout, `{"error": {...}}`, so that a program reads one stream. Exit codes: 0 done, 1 the
operation failed, 2 bad input or usage, 130 interrupted.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence
from typing import Any

import typer

from matcha import __version__
from matcha.cli import streams
from matcha.cli.commands import Commands
from matcha.cli.options import Debug, Project, Target
from matcha.errors import AGAIN, BadInput, MatchaError

UsageError: Any = typer.BadParameter.__mro__[1]  # of click, or of the copy of it inside newer typers
REPORT = "Matcha's developers"
# What a machine says of permissions, disks and limits, which no code can do anything about.
THE_MACHINES = frozenset(
    getattr(errno, name)
    for name in (
        "EACCES",
        "EPERM",
        "EROFS",
        "ENOSPC",
        "EDQUOT",
        "EMFILE",
        "ENFILE",
        "EIO",
        "ENOMEM",
        "EAGAIN",
    )
)

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    invoke_without_command=True,
    epilog="Start with: matcha provision",
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)


@app.callback()
def matcha(
    context: typer.Context,
    project: Project = None,  # noqa: ARG001 - commands inherit these three
    target: Target = None,  # noqa: ARG001
    debug: Debug = False,  # noqa: ARG001
    version: bool = typer.Option(False, "--version", help="Show the version and end."),
) -> None:
    """A complete open-source MLOps stack in one step."""
    if version:
        print(f"matcha {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
    if version:
        raise typer.Exit


def run() -> None:
    """What the `matcha` command calls."""
    streams.settle()
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _terminated)
    sys.exit(main(sys.argv[1:]))


def _terminated(number: int, _: object) -> None:
    """Ends through every `finally`: locks are released, the cursor is shown again.

    A terminal that is closed says so more than once, by itself and by its shell.
    """
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def main(arguments: Sequence[str]) -> int:
    """The exit code of `matcha ARGUMENTS`. Never raises."""
    session: dict[str, Any] = {"debug": False}
    try:
        code = _invoke(arguments, session)
        sys.stdout.flush()
    except streams.Lost as problem:
        return _lost(problem)
    except MatchaError as problem:
        return _fail(problem, arguments, session)
    except (KeyboardInterrupt, EOFError):
        return 130
    except Exception as problem:  # noqa: BLE001 - the last resort, so that no one meets a traceback
        return _fail(_internal(problem), arguments, session, cause=problem)
    return code


def _invoke(arguments: Sequence[str], session: dict[str, Any]) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(list(arguments), prog_name="matcha", standalone_mode=False, obj=session)
    except UsageError as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":  # a group of commands alone
            from matcha.cli import screen

            screen.write(f"{problem.ctx.get_help()}\n")
            return 0
        raise _usage(problem) from problem
    except typer.Abort as problem:
        raise KeyboardInterrupt from problem
    return code if isinstance(code, int) else 0


def _usage(problem: Any) -> BadInput:
    path = problem.ctx.command_path if problem.ctx else "matcha"
    return BadInput(problem.format_message(), resolution=f"{path} --help")


def _internal(problem: Exception) -> MatchaError:
    if isinstance(problem, OSError) and problem.errno in THE_MACHINES:
        where = str(problem.filename or "")
        return MatchaError(
            f"The system refused: {problem.strerror}.", details=where, resolution="matcha doctor"
        )
    return MatchaError(
        f"Internal error: {type(problem).__name__}: {problem}",
        details="This is a mistake in Matcha, not in what you did.",
        resolution=f"Run it again with --debug, and send what it prints to {REPORT}",
    )


def _fail(
    problem: MatchaError,
    arguments: Sequence[str],
    session: dict[str, Any],
    cause: BaseException | None = None,
) -> int:
    if session["debug"]:
        import traceback

        traceback.print_exception(cause or problem)
    try:
        _report(problem, session.get("output") or _asked_output(arguments))
    except streams.Lost as lost:
        _lost(lost)
    return problem.exit_code


def _report(problem: MatchaError, output: str) -> None:
    if output == "json":
        from matcha.views import documents

        sys.stdout.write(documents.to_json(documents.error(problem)))
        sys.stdout.flush()
    else:
        from matcha.cli import screen
        from matcha.views.errors import error_lines

        screen.tell(error_lines(problem))


def _asked_output(arguments: Sequence[str]) -> str:
    """What `--output` says, for errors that come before options are read."""
    ours = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    asked = "--output=json" in ours or "--output json" in " ".join(ours)
    return "json" if asked and "run" not in ours else "text"


def _lost(problem: streams.Lost) -> int:
    """stdout is closed or full. A reader that went away is told nothing."""
    streams.drop_stdout()
    if not problem.hung_up:
        lost = MatchaError(
            "The output cannot be written.",
            details=str(problem),
            resolution=f"Write it to another place, {AGAIN}",
        )
        _report(lost, "text")
    return 1
