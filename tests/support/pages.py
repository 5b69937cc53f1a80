"""Markdown pages as scripts: their fenced blocks, run in order, and their outputs compared.

What a block is follows from its language:

    bash            run by bash, as it stands, in the page's folder (`cd` holds for the blocks after it)
    python          run as a script
    with a title    written to the file that the title names, and not run
    text, json      the output of the block before it

HTML comments straight above a block say what differs:

    <!-- run: COMMAND -->       run this instead
    <!-- tested by: PATH -->    this test runs it
    <!-- fails: CODE -->        it ends with this exit code
    <!-- not output -->         text that no command printed

In outputs, numbers, paths and ids may differ, and `...` stands for any text or, alone, for any lines.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {"bash", "python", "text", "json", "yaml", "toml"}
MARKERS = {"run", "tested by", "fails", "not output", "starts"}
SECONDS = 400.0

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)(?: title=\"(?P<title>[^\"]+)\")? *$")
_COMMENT = re.compile(r"^ *<!-- (?P<name>[a-z ]+?)(?:: (?P<value>.+))? -->$")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    title: str = ""
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def kind(self) -> str:
        """What happens with it: write, run, elsewhere, output, or nothing."""
        if "tested by" in self.marks:
            return "elsewhere"
        if "not output" in self.marks:
            return "nothing"
        if self.title:
            return "write"
        return {"bash": "run", "python": "run", "text": "output", "json": "output"}.get(
            self.language, "nothing"
        )


def blocks(page: Path) -> list[Block]:
    """Raises ValueError for a fence that is not closed."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    marks: dict[str, str] = {}
    number = 0
    while number < len(lines):
        if comment := _COMMENT.match(lines[number]):
            marks[comment["name"]] = comment["value"] or ""
        elif fence := _FENCE.match(lines[number]):
            end = _end(lines, number, fence["indent"], page)
            inner = [line.removeprefix(fence["indent"]) for line in lines[number + 1 : end]]
            text = "\n".join(inner) + "\n"
            found.append(Block(page, number + 1, fence["language"], text, fence["title"] or "", marks))
            marks, number = {}, end
        elif lines[number].strip():
            marks = {}
        number += 1
    return found


def _end(lines: list[str], start: int, indent: str, page: Path) -> int:
    for number in range(start + 1, len(lines)):
        if lines[number] == f"{indent}```":
            return number
    raise ValueError(f"{page}:{start + 1}: a block that is not closed")


def start_of(page: Path) -> str:
    """What the page says that it starts from, `<!-- starts: ... -->`; otherwise nothing."""
    comments = map(_COMMENT.match, page.read_text(encoding="utf-8").splitlines())
    return next((c["value"] for c in comments if c and c["name"] == "starts"), "nothing")


class Reader:
    """Does what a page says, in `folder`, with the programs in `programs` first on PATH."""

    def __init__(self, folder: Path, programs: Path, home: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.home = home
        self.site = home / "site"
        self.last: str | None = ""  # None after a block that runs elsewhere
        for each in (folder, home, self.site):
            each.mkdir(parents=True, exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        dropped = ("MLFLOW_", "ZENML_", "MATCHA_PROJECT", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        return {
            **kept,
            "PATH": f"{self.programs}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": str(self.site),
            "XDG_DATA_HOME": str(self.home / "data"),
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }

    def read(self, page: Path) -> None:
        """The whole page; fails the test, naming the block, where it does not do what it says."""
        for block in blocks(page):
            self.do(block)

    def do(self, block: Block) -> None:
        if block.kind == "write":
            target = self.folder / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.kind == "run":
            self._run(block)
        elif block.kind == "elsewhere":
            self.last = None
        elif block.kind == "output" and self.last is not None:
            assert matches(block.text, self.last), (
                f"{block.place} is not the output:\n{differ(block.text, self.last)}"
            )

    def _run(self, block: Block) -> None:
        code, self.last = self.bash(_script(block))
        wanted = int(block.marks.get("fails", "0"))
        assert code == wanted, f"{block.place} ended with {code}, not {wanted}:\n{block.text}\n{self.last}"

    def bash(self, script: str) -> tuple[int, str]:
        """Exit code, and what was printed to stdout and stderr in the order in which it came."""
        where = self.home / "folder"
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"trap 'pwd >\"{where}\"' EXIT\n{script}"],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        self.folder = Path(where.read_text().rstrip("\n"))
        return process.returncode, printed


def _script(block: Block) -> str:
    if "run" in block.marks:
        return block.marks["run"]
    if block.language == "python":
        return f"python - <<'END_OF_PYTHON'\n{block.text}END_OF_PYTHON"
    return block.text


# Where the example found MovieLens depends on the machine's way to the internet.
_DROPPED = re.compile(r"^(MovieLens could not be downloaded|Going on with GENERATED ratings)")
_SAME = (
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), ""),
    (re.compile(r"\((?:generated|download|folder)\)"), "(data)"),
    (re.compile(r"(?<=\d  ).*(?= \(\d{4}\)$|Generated movie \d+$).*"), "TITLE"),
    (re.compile(r"(?<=would give \").*(?=\")"), "TITLE"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b[0-9a-f]{16,64}\b"), "ID"),
    (re.compile(r"\b(?:\d+h )?(?:\d+m )?\d+(?:\.\d+)?s\b"), "0s"),
    (re.compile(r"\b\d+(?:\.\d+)? [kMG]B\b"), "0 MB"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?Z?"), "WHEN"),
    (re.compile(r"(?<![\w:/.}])~?/[\w.%@+~/-]*[\w/]"), "PATH"),
    (re.compile(r"[█▏▎▍▌▋▊▉│]+"), " "),
    (re.compile(r"(?<![A-Za-z])-?\d[\d,]*(?:\.\d+)*(?:e-?\d+)?"), "0"),
    (re.compile(r"[ \t]+"), " "),
)


def normal(text: str) -> list[str]:
    """The lines of an output without what differs from run to run."""
    return [_line(line) for line in text.strip("\n").split("\n") if not _DROPPED.match(line)]


def _line(line: str) -> str:
    for pattern, replacement in _SAME:
        line = pattern.sub(replacement, line)
    return line.strip()


def matches(shown: str, printed: str) -> bool:
    pattern = "".join(_patterns(normal(shown)))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in normal(printed))) is not None


def _patterns(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line == "...":
            yield r"(?:.*\n)*?"
        else:
            yield ".*?".join(re.escape(part) for part in line.split("...")) + r"\n"


def differ(shown: str, printed: str) -> str:
    lines = difflib.unified_diff(normal(shown), normal(printed), "the page", "the run", lineterm="", n=2)
    return "\n".join([*lines, "", "In full:", printed])


def python_folder() -> Path:
    """The folder of the interpreter that runs the tests, with `matcha`, `python` and `uv` in it."""
    return Path(sys.executable).parent
