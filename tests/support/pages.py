"""Markdown pages as scripts: their fenced blocks, run in order, and their outputs compared.

What a block is follows from its language:

    bash            run by bash, as it stands, in the page's folder (`cd` holds for the blocks after it)
    python          run as a script
    with a title    written to the file that the title names, and not run
    text, json      the output of the block before it

HTML comments straight above a block say what differs:

    <!-- run: COMMAND -->       run this, which has every word of the block, instead
    <!-- tested by: PATH -->    this file has it word for word, is what it calls, or runs it (see `marked`)
    <!-- fails: CODE -->        it ends with this exit code
    <!-- not output -->         text that no command printed

In outputs, numbers, paths and ids may differ, and `...` stands for any text or, alone, for any lines. An
output after a block that is tested by a script is a part of what the script printed.
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
LANGUAGES = {"bash", "python", "text", "json", "yaml", "toml", "sql"}
PATTERNS = (
    "*.md",
    "benchmarks/README.md",
    "docs/*.md",
    "docs/decisions/*.md",
    "examples/*/README.md",
    "src/**/README.md",
)
MARKERS = {"run", "tested by", "fails", "not output", "starts"}
SECONDS = 900.0

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
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"

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


def pages() -> list[Path]:
    """Every page whose blocks are to be tested."""
    return sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))


def marked(file: str) -> list[Block]:
    """The blocks to be tested by `file`: a test calls this with its own `__file__`, and runs them."""
    name = str(Path(file).relative_to(ROOT))
    return [b for page in pages() for b in blocks(page) if b.marks.get("tested by") == name]


def is_tested(block: Block) -> bool:
    """Whether the file that is to test this block runs its blocks, is what it calls, or has its very text."""
    name = block.marks["tested by"]
    code = (ROOT / name).read_text(encoding="utf-8")
    if name.startswith("tests/") and "marked(__file__)" in code:
        return True
    return block.text.strip() == name or is_excerpt(block.text, code)


def is_excerpt(text: str, code: str) -> bool:
    """Whether `text` is whole lines of `code`, but for indentation and words in front of the first."""
    wanted, lines = text.rstrip("\n").split("\n"), code.split("\n")
    starts = range(len(lines) - len(wanted) + 1)
    return any(_stands(wanted, lines[start : start + len(wanted)]) for start in starts)


def _stands(wanted: list[str], lines: list[str]) -> bool:
    before = lines[0].removesuffix(wanted[0])
    indent = re.match(r"\s*", lines[0])[0]  # type: ignore[index]
    rest = [indent + line if line else "" for line in wanted[1:]]
    return lines[0].endswith(wanted[0]) and before[-1:] in ("", " ", "\t", '"', "'") and lines[1:] == rest


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
    """Does what a page says, in `folder`, with the programs in `programs` first on PATH.

    Folder and PATH are kept from block to block. `printed` is what scripts printed that stand in for blocks.
    """

    def __init__(self, folder: Path, programs: Path, home: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.home = home
        self.site = home / "site"
        self.path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.more: dict[str, str] = {}  # variables
        self.printed: dict[str, str] = {}
        self.last: str | None = ""  # None after a block that runs elsewhere
        self.whole: str | None = None  # what ran elsewhere printed, with what came before and after
        for each in (folder, home, self.site):
            each.mkdir(parents=True, exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        dropped = ("MLFLOW_", "ZENML_", "MATCHA_PROJECT", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        return {
            **kept,
            "PATH": self.path,
            "PYTHONPATH": str(self.site),
            "XDG_DATA_HOME": str(self.home / "data"),
            "NO_COLOR": "1",
            "COLUMNS": "100",
            **self.more,
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
            self.run(block)
        elif block.kind == "elsewhere":
            self.last, self.whole = None, self.printed.get(block.marks["tested by"])
        elif block.kind == "output":
            self._compare(block)

    def _compare(self, block: Block) -> None:
        if self.last is None:
            assert self.whole is not None, f"{block.place}: nothing is known of what printed this"
            assert contains(block.text, self.whole), f"{block.place} is not in the output:\n{self.whole}"
        else:
            assert matches(block.text, self.last), (
                f"{block.place} is not the output:\n{differ(block.text, self.last)}"
            )

    def run(self, block: Block) -> None:
        """Also a block that is marked as tested elsewhere."""
        code, self.last = self.bash(_script(block))
        wanted = int(block.marks.get("fails", "0"))
        assert code == wanted, f"{block.place} ended with {code}, not {wanted}:\n{block.text}\n{self.last}"

    def bash(self, script: str) -> tuple[int, str]:
        """Exit code, and what was printed to stdout and stderr in the order in which it came."""
        where, path = self.home / "folder", self.home / "path"
        process = subprocess.Popen(
            [
                "bash",
                "-euo",
                "pipefail",
                "-c",
                f'trap \'pwd >"{where}"; echo "$PATH" >"{path}"\' EXIT\n{script}',
            ],
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
        self.folder, self.path = Path(where.read_text().rstrip("\n")), path.read_text().rstrip("\n")
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
    return re.fullmatch(_pattern(shown), _normal_text(printed)) is not None


def contains(shown: str, printed: str) -> bool:
    """Whether lines of `printed` that follow each other match."""
    return re.search(f"(?m:^){_pattern(shown)}", _normal_text(printed)) is not None


def _pattern(shown: str) -> str:
    return "".join(_patterns(normal(shown)))


def _normal_text(text: str) -> str:
    return "".join(f"{line}\n" for line in normal(text))


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
