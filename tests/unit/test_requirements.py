"""What a project asks for: read from its files, refused with the file and the line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from matcha import requirements
from matcha.errors import BadInput
from matcha.requirements import Required


def lines(folder: Path) -> list[str]:
    return list(requirements.of_project(folder).lines)


def test_without_files_a_project_asks_for_nothing(tmp_path: Path) -> None:
    assert lines(tmp_path) == []


def test_requirements_with_comments_options_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("b>=2\n")
    (tmp_path / "requirements.txt").write_text(
        "\ufeff# mine\na==1  # why\n\n-r more.txt\n-rmore.txt\n--pre\n"
        "c \\\n  >=3\nd==1 --hash=sha256:00\ne @ https://host/e.whl#sha256=00\ngit+https://host/f@v1\n${G}\n"
    )
    assert lines(tmp_path) == [
        *("a==1", "b>=2", "b>=2", "--pre", "c    >=3", "d==1 --hash=sha256:00"),
        *("e @ https://host/e.whl#sha256=00", "git+https://host/f@v1", "${G}"),
    ]


def test_constraints_limit_and_ask_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "nested").mkdir()
    (tmp_path / "more.txt").write_text("b\n-c nested/limits.txt\n")
    (tmp_path / "nested" / "limits.txt").write_text(
        "# tested\na==1\n--constraint deeper.txt\n-r deeper.txt\n"
    )
    (tmp_path / "nested" / "deeper.txt").write_text("c<3\n")
    (tmp_path / "requirements.txt").write_text("a\n-r more.txt\n")
    found = requirements.of_project(tmp_path)
    assert (found.lines, found.limits) == (("a", "b"), ("a==1", "c<3", "c<3"))


def test_the_project_table_comes_before_requirements(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("a\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["b>=1", "c"]\n')
    assert lines(tmp_path) == ["b>=1", "c"]


def test_a_project_table_without_dependencies_leaves_requirements(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("a\n")
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    assert lines(tmp_path) == ["a"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project in `a lib`, a wheel beside it, and a requirements file in a folder of its own."""
    (tmp_path / "a lib").mkdir()
    (tmp_path / "a lib" / "pyproject.toml").write_text('[project]\nname = "lib"\nversion = "1"\n')
    (tmp_path / "w-1-py3-none-any.whl").write_bytes(b"")
    (tmp_path / "nested").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("written", "rest"),
    [
        ("../a lib", ""),
        ("-e ../a lib", ""),
        ("--editable=../a lib[extra]", "[extra]"),
        ("../a lib ; python_version > '3'", " ; python_version > '3'"),
        ("file:../a%20lib", ""),
        ("{here}/a lib", ""),
        ("{uri}", ""),
    ],
)
def test_a_folder_is_found_from_the_file_that_names_it(tree: Path, written: str, rest: str) -> None:
    lib = tree / "a lib"
    (tree / "nested" / "more.txt").write_text(written.format(here=tree, uri=lib.as_uri()) + "\n")
    (tree / "requirements.txt").write_text("-r nested/more.txt\n")
    assert requirements.of_project(tree)[:2] == ((f"{lib.as_uri()}{rest}",), (lib,))


@pytest.mark.parametrize("option", ["-f ", "-f", "--find-links ", "--find-links=", "--extra-index-url "])
@pytest.mark.parametrize("written", ["../a lib", "{here}/a lib", "{uri}"])
def test_a_folder_of_packages_is_found_from_the_file_that_names_it(
    tree: Path, option: str, written: str
) -> None:
    folder = tree / "a lib"
    text = option + written.format(here=tree, uri=folder.as_uri())
    (tree / "nested" / "more.txt").write_text(f"{text}\n")
    (tree / "requirements.txt").write_text("-r nested/more.txt\n")
    found = requirements.of_project(tree)
    assert found == Required((f"{option.strip(' =')} {folder.as_uri()}",), shelves=(folder,))


@pytest.mark.parametrize(
    "line", ["-f https://host/wheels", "-i ${INDEX}", "--extra-index-url=http://h/simple"]
)
def test_addresses_of_packages_stay_as_they_are(tree: Path, line: str) -> None:
    (tree / "requirements.txt").write_text(f"{line}\n")
    assert lines(tree) == [line]


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_passed_over(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    with pytest.raises(BadInput, match=rf"{name} is no file\."):
        requirements.of_project(tmp_path)


def test_a_link_to_nothing_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").symlink_to("nothere")
    with pytest.raises(BadInput, match=r"requirements\.txt cannot be read: No such file"):
        requirements.of_project(tmp_path)


def test_a_package_that_was_built_again_is_another(tree: Path) -> None:
    (tree / "requirements.txt").write_text("w\n-f .\n")
    before = list(requirements.described(requirements.of_project(tree)))
    (tree / "results.csv").write_text("1\n")
    assert list(requirements.described(requirements.of_project(tree))) == before
    (tree / "w-1-py3-none-any.whl").write_bytes(b"another")
    assert list(requirements.described(requirements.of_project(tree))) != before


def test_names_before_paths_and_archives(tree: Path) -> None:
    (tree / "requirements.txt").write_text("lib @ ./a lib\nw-1-py3-none-any.whl\n")
    lib, archive = (tree / "a lib"), (tree / "w-1-py3-none-any.whl")
    assert requirements.of_project(tree)[:2] == ((f"lib @ {lib.as_uri()}", archive.as_uri()), (lib,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numpy\n\n-r nothere.txt\n", "requirements.txt:3: there is no file nothere.txt"),
        ("numpy\n-c nothere.txt\n", "requirements.txt:2: there is no file nothere.txt"),
        ("-c wrong.txt\n", "wrong.txt:1: not a requirement: a b"),
        (
            "-c paths.txt\n",
            "requirements.txt:1: a constraint in paths.txt does not begin with a package's name",
        ),
        ("-r requirements.txt\n", "requirements.txt:1: requirements.txt includes itself"),
        ("-r more.txt\n", "more.txt:2: ./requirements.txt includes itself"),
        ("numpy\na b c\n", "requirements.txt:2: not a requirement: a b c"),
        ("a \\\n  b\n", "requirements.txt:1: not a requirement: a    b"),
        ("numpy=1\n", "requirements.txt:1: not a requirement: numpy=1"),
        ("--nonsense x\n", "requirements.txt:1: unknown option --nonsense"),
        ("a\n-f ./nothere\n", "requirements.txt:2: there is no folder ./nothere"),
        ("--find-links w-1-py3-none-any.whl\n", "requirements.txt:1: there is no folder w-1-py3"),
        ("--find-links\n", "requirements.txt:1: there is no folder"),
        ("-e\n", "requirements.txt:1: not a requirement: "),
        ("./nothere\n", "requirements.txt:1: there is no file or folder ./nothere"),
        ("./nested\n", "requirements.txt:1: ./nested is no Python project"),
    ],
)
def test_what_is_no_requirement_is_named_by_its_line(tree: Path, text: str, message: str) -> None:
    (tree / "wrong.txt").write_text("a b\n")
    (tree / "paths.txt").write_text("-e ./a lib\n")
    (tree / "more.txt").write_text("six\n-r ./requirements.txt\n")
    (tree / "requirements.txt").write_text(text)
    with pytest.raises(BadInput) as refused:
        requirements.of_project(tree)
    assert refused.value.message.startswith(message)
    place = message.partition(": ")[0]
    assert refused.value.resolution == f"Correct {place}, then run the same command again"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project\n", "pyproject.toml is not valid TOML"),
        ("project = 3\n", "pyproject.toml: project: expected a table, found 3"),
        ('[project]\ndependencies = "numpy"\n', "pyproject.toml: project.dependencies: expected a list"),
        ("[project]\ndependencies = [1]\n", "pyproject.toml: project.dependencies: expected a list"),
        ('[project]\ndependencies = ["a b"]\n', "pyproject.toml: project.dependencies: not a requirement"),
    ],
)
def test_a_broken_project_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(BadInput) as refused:
        requirements.of_project(tmp_path)
    assert refused.value.message.startswith(message)
    assert refused.value.resolution.startswith("Correct pyproject.toml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"requirements\.txt is not UTF-8 text\.") as refused:
        requirements.of_project(tmp_path)
    assert refused.value.resolution == "Save requirements.txt as UTF-8, then run the same command again"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=some.text(alphabet="abr-@[]<>=!~;,.:/ \\#\n'\"${}*0fileht", max_size=40))
def test_whatever_stands_there_it_is_read_or_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "requirements.txt").write_text(text)
    try:
        requirements.of_project(tmp_path)
    except BadInput as error:
        assert error.message.startswith("requirements.txt:")
