"""Every page does what it says: its commands run in order, on the real stack, and print what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.pages import ROOT, Block, Reader, blocks, marked, start_of

PAGES = sorted(
    page
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md"))
    if any(block.kind == "run" for block in blocks(page))
)
FRESH = [page for page in PAGES if start_of(page) == "nothing"]
CLONE = [page for page in PAGES if start_of(page) == "a clone"]
SERVED = [page for page in PAGES if start_of(page) == "the example, served"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", FRESH, ids=name)
def test_page_from_nothing(page: Path, reader: Reader) -> None:
    reader.read(page)


@pytest.mark.parametrize("page", CLONE, ids=name)
def test_page_from_a_clone(page: Path, newcomer: Reader) -> None:
    newcomer.read(page)


def test_quickstart_ends_with_a_served_model(served: tuple[Reader, str]) -> None:
    """The first command of the README, in a clean clone."""
    reader, printed = served
    last = printed.rstrip().splitlines()[-1]
    assert last.startswith("To type matcha commands yourself: ")
    code, typed = reader.bash(f"(PATH=/usr/bin:/bin; {last.partition(': ')[2]}; pwd; command -v matcha)")
    assert (code, typed) == (0, f"{reader.folder}\n{reader.programs / 'matcha'}\n"), typed
    assert "For user 42, the best of" in printed
    assert "Stack default on local: healthy" in printed
    assert "base-url" in printed


@pytest.mark.parametrize("page", SERVED, ids=name)
def test_page_from_the_served_example(page: Path, served: tuple[Reader, str]) -> None:
    reader, _ = served
    folder = reader.folder
    before = (folder / "matcha.yaml").read_text()
    try:
        reader.read(page)
    finally:
        reader.folder = folder
        if (folder / "matcha.yaml").read_text() != before:
            (folder / "matcha.yaml").write_text(before)
            reader.bash("matcha provision --yes")


@pytest.mark.parametrize("block", marked(__file__), ids=lambda block: block.place)
def test_block_in_a_clone_after_quickstart(block: Block, served: tuple[Reader, str], clone: Path) -> None:
    """What runs tests collects them and no more."""
    reader, _ = served
    before, reader.folder = reader.folder, clone
    reader.more = {"PYTEST_ADDOPTS": "--collect-only -q"}
    try:
        reader.run(block)
    finally:
        reader.folder, reader.more = before, {}
