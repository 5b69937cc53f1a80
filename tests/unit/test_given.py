"""Whether the drift reference that `models:` names is the one a deployment was made with."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import pytest

from matcha import engine
from matcha.api import _given
from matcha.api._project import open_project
from matcha.component import Deployment, GivenReference
from matcha.errors import StackFileError
from matcha.state import State

ROWS = "age\n31\n"
URI = "models:/movie/1"
PLAIN = Deployment(name="movie", asked=URI, uri=URI, deployed_at=engine.now())


def given(project: Path, source: str = "mine.csv") -> Deployment:
    """As deployed with the file as it is now."""
    reference = GivenReference(source=source, digest=_given.digest(project / source))
    return msgspec.structs.replace(PLAIN, given=reference)


def pending(project: Path, deployment: Deployment, setting: str = "") -> list[str]:
    text = f"models:\n  movie: {{reference: {setting}}}\n" if setting else "stack: default\n"
    (project / "matcha.yaml").write_text(text)
    state = State(stack_id="s", stack="default", target="local", matcha_version="0")
    return list(_given.pending(open_project(project, None), state.with_deployment(deployment)))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "mine.csv").write_text(ROWS)
    return tmp_path


def test_what_is_as_it_was_deployed_is_not_worth_a_word(project: Path) -> None:
    assert pending(project, PLAIN) == []
    assert pending(project, given(project), "mine.csv") == []


def test_another_setting_waits_for_the_next_deploy(project: Path) -> None:
    take = "To take what matcha.yaml says now: matcha deploy models:/movie/1 --name movie"
    used = ("the training data", "mine.csv")
    training, mine = (f"movie: drift is still measured against {each}. {take}" for each in used)
    assert pending(project, PLAIN, "mine.csv") == [training]
    assert pending(project, given(project), "other.csv") == [mine]
    assert pending(project, given(project)) == [mine]


def test_a_file_with_other_rows_waits_for_the_next_deploy(project: Path) -> None:
    deployed = given(project)
    (project / "mine.csv").write_text(ROWS.replace("31", "47"))
    [said] = pending(project, deployed, "mine.csv")
    assert said.startswith("movie: mine.csv changed since it was deployed;")


def test_a_file_that_is_gone_takes_nothing_away(project: Path) -> None:
    deployed = given(project)
    (project / "mine.csv").unlink()
    assert pending(project, deployed, "mine.csv") == []


def test_a_file_written_long_before_the_deploy_is_not_read_again(project: Path) -> None:
    """It may be gigabytes, and `plan` is asked often."""
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    deployed = msgspec.structs.replace(given(project), deployed_at=later.strftime(engine.TIME))
    (project / "mine.csv").write_text(ROWS.replace("31", "47"))
    assert pending(project, deployed, "mine.csv") == []


def test_an_empty_reference_is_refused_at_its_line(project: Path) -> None:
    with pytest.raises(StackFileError, match=r"matcha.yaml:2: .*length >= 1"):
        pending(project, PLAIN, '""')
