"""No command of the documentation goes untested, and no page shows what nothing printed. Needs no stack."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from support.pages import (
    LANGUAGES,
    MARKERS,
    ROOT,
    Block,
    Reader,
    blocks,
    contains,
    is_excerpt,
    is_tested,
    matches,
    pages,
    start_of,
)

PAGES = pages()
RUN = {page for page in PAGES if page.parent in (ROOT, ROOT / "docs") or page.parts[-3:-2] == ("examples",)}
ALL = [block for page in PAGES for block in blocks(page)]
STARTS = ("nothing", "a clone", "the example, served", "a cluster")


def place(block: Block) -> str:
    return block.place


def test_there_is_something_to_check() -> None:
    assert len([b for b in ALL if b.kind == "run"]) > 30


@pytest.mark.parametrize("block", ALL, ids=place)
def test_every_block_is_accounted_for(block: Block) -> None:
    assert block.language in LANGUAGES
    assert set(block.marks) <= MARKERS
    if block.kind == "run":
        assert block.page in RUN, "commands stand in pages that the tests run"
        assert _words(block.text) <= _words(block.marks.get("run", block.text)), "another command is run"
    if block.kind == "elsewhere":
        assert is_tested(block), f"{block.marks['tested by']} neither has this block nor runs it"
    if block.language == "bash":
        assert not re.search(r"^\$ ", block.text, re.MULTILINE), "no prompt before a command"


def _words(text: str) -> set[str]:
    return set(text.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_stand_in_blocks_that_are_found(page: Path) -> None:
    """An indented block, a fence with tildes or a prompt would be shown and never run."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not re.search(
        r"^ {4,}(\$ |matcha |pip |uv |\./|\.?[a-z]+/run\b|python |curl )", text, re.MULTILINE
    )
    assert "~~~" not in text
    assert start_of(page) in STARTS


def test_outputs_follow_what_prints_them() -> None:
    for page in PAGES:
        kinds = [b.kind for b in blocks(page)]
        for before, kind, block in zip(["", *kinds], kinds, blocks(page), strict=False):
            assert kind != "output" or before in ("run", "elsewhere"), f"{block.place}: output of what?"
            assert kind != "output" or page in RUN, f"{block.place}: nobody reads this page and compares"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_page_names_a_machine(page: Path) -> None:
    """Addresses stand for the reader's own machine, or for the stack's own server in a cluster; anything else
    would be somebody's.
    """
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:root|work|tmp)/", text)
    for host in re.findall(r"http://([\w.-]+)", text):
        assert host in ("127.0.0.1", "localhost") or re.fullmatch(r"mlserver\.[\w-]+", host), host


@pytest.mark.parametrize("picture", sorted(ROOT.glob("docs/img/*.svg")), ids=lambda p: p.name)
def test_pictures_load_nothing(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    links = re.findall(r"(?:href=|url\(|@import)\s*[\"']?([^\"')\s]+)", text)
    assert all(link.startswith("#") for link in links)


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference"), "--check"],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("Ready in 6.3s.\n", "Ready in 1m 12s.\n"),
        ("a\n...\nz\n", "a\nb\nc\nz\n"),
        ("a\n...\n", "a\n"),
        ("Wrote ~/recommendation\n", "Wrote /tmp/x y/recommendation\n".replace(" y", "")),
        (
            '{"id": "52cd9b5a-372e-42a6-925f-59a34a16a834"}\n',
            '{"id": "00000000-372e-42a6-925f-59a34a16a834"}\n',
        ),
        ("error ... denied\n", "error 13: access denied\n"),
        ("http://127.0.0.1:5001/v2/x\n", "http://127.0.0.1:49152/v2/x\n"),
    ],
)
def test_what_may_differ_in_an_output(shown: str, printed: str) -> None:
    assert matches(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("Ready in 6.3s.\n", "Failed in 6.3s.\n"),
        ("a\nz\n", "a\nb\nz\n"),
        ("a\n", "a\nb\n"),
        ("a\n...\nz\n", "a\nb\n"),
        ("movie version 1\n", "films version 1\n"),
        ("http://127.0.0.1:5001/v2/x\n", "http://127.0.0.1:5001/v2/y\n"),
    ],
)
def test_what_may_not(shown: str, printed: str) -> None:
    assert not matches(shown, printed)


PAGE = """
<!-- tested by: {by} -->
```{language}
{text}
```
"""


@pytest.mark.parametrize(
    ("by", "text", "tested"),
    [
        (".ci/run", "./test", True),
        (".ci/run", ".ci/run", True),
        ("quickstart", "cd recommendation\nmatcha provision --yes", True),
        ("tests/docs/test_pages.py", "anything, which that test then runs", True),
        (".ci/run", "./test nonsense", False),
        (".ci/run", "est", False),
        ("quickstart", "cd recommendation\nmatcha status", False),
        ("quickstart", "nonsense", False),
        ("tests/unit/test_spec.py", "a test that runs no block", False),
    ],
)
def test_a_mark_is_held_to_what_it_says(tmp_path: Path, by: str, text: str, tested: bool) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(by=by, language="bash", text=text))
    [block] = blocks(page)
    assert is_tested(block) is tested


def test_an_excerpt_may_be_indented_and_nothing_else() -> None:
    code = "def f():\n    a = 1\n\n    if a:\n        return a\n"
    assert is_excerpt("a = 1\n\nif a:\n    return a\n", code)
    assert not is_excerpt("a = 1\nif a:\n    return a\n", code)
    assert not is_excerpt("a = 1\n\nif a:\n        return a\n", code)
    assert not is_excerpt("a = 1\n\nif a:\n    return b\n", code)


def test_an_output_that_is_a_part_of_what_a_script_printed() -> None:
    printed = "before\nrmse 0.913\nModel: movie version 1\nafter\n"
    assert contains("rmse 0.901\nModel: movie version 2\n", printed)
    assert contains("rmse 0.901\n...\nafter\n", printed)
    assert not contains("rmse 0.901\nafter\n", printed)
    assert not contains("se 0.901\n", printed)
    assert not contains("mae 0.901\n", printed)


def test_an_output_whose_command_left_none_to_compare_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(by="quickstart", language="bash", text="x") + "\n```text\nrmse 0.9\n```\n")
    reader = Reader(tmp_path / "folder", Path("/bin"), tmp_path / "home")
    with pytest.raises(AssertionError):
        reader.read(page)
    reader.printed["quickstart"] = "first\nrmse 0.8\n"
    reader.read(page)
    reader.printed["quickstart"] = "first\nmae 0.8\n"
    with pytest.raises(AssertionError):
        reader.read(page)


def test_a_block_that_is_not_closed_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nmatcha status\n")
    with pytest.raises(ValueError, match=r"page.md:1"):
        blocks(page)
