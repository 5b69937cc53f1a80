"""Which deployments have a process of their own: by the record, or by what `models:` says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from matcha import spec
from matcha.api import _relayed, serving
from matcha.api._project import Project, open_project
from matcha.component import Deployment
from matcha.state import State, decode, encode

MOVIE = Deployment(name="movie", asked="models:/movie/1", uri="models:/movie/1", version="1")
EMPTY = State(stack_id="s", stack="default", target="fake")


def opened(folder: Path, text: str) -> Project:
    (folder / spec.FILE).write_text(f"target: fake\n{text}")
    return open_project(folder, None)


def test_sizes_of_a_model_without_a_process_of_its_own_are_told() -> None:
    sized = msgspec.structs.replace(MOVIE, settings={"min_replicas": 2, "cpu": 1.5, "sample": 0.5})
    assert serving._apart(sized) == (
        "Without dedicated: true its min-replicas, cpu in matcha.yaml change nothing.",
    )
    assert len(serving._apart(msgspec.structs.replace(sized, dedicated=True))) == 1
    assert serving._apart(MOVIE) == ()


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("written", [True, False])
def test_a_deployment_is_dedicated_where_the_record_or_the_file_says_so(
    tmp_path: Path, recorded: bool, written: bool
) -> None:
    text = "models: {movie: {dedicated: true, memory-mb: 900}}\n" if written else ""
    state = EMPTY.with_deployment(msgspec.structs.replace(MOVIE, dedicated=recorded))
    project = opened(tmp_path, text)
    (found,) = project.deployments(state)
    assert found.dedicated is (recorded or written)
    services = {s.name: s for s in project.wanted(state).services}
    assert ("dedicated-movie" in services) is (recorded or written)
    if written:
        assert services["dedicated-movie"].resources.memory == 900
    needs = next(r.needs for r in project.wanted(state).resources if r.key == "deployments")
    assert ("service/dedicated-movie" in needs) is (recorded or written)


def test_a_record_from_before_reads_as_shared() -> None:
    raw = msgspec.json.decode(encode(EMPTY.with_deployment(MOVIE)))
    del raw["deployments"]["movie"]["dedicated"]
    assert decode(msgspec.json.encode(raw)).deployments["movie"] == MOVIE


def test_a_job_asks_for_it_too() -> None:
    wish = _relayed.Wish(model="models:/movie/1", dedicated=True)
    assert msgspec.json.decode(msgspec.json.encode(wish), type=_relayed.Wish) == wish
    older = msgspec.json.decode(b'{"model": "models:/movie/1"}', type=_relayed.Wish)
    assert not older.dedicated, "of an older Matcha in the job's environment"


def test_a_process_that_is_left_stays_until_nobody_is_sent_there(tmp_path: Path) -> None:
    """The list of the record, which servers keep until they are told, has its address."""
    project = opened(tmp_path, "")
    before = project.wanted(EMPTY.with_deployment(msgspec.structs.replace(MOVIE, dedicated=True)))
    after = EMPTY.with_deployment(MOVIE)
    assert not any(s.name == "dedicated-movie" for s in project.wanted(after).services)
    both = project.wanted(after, before)
    assert both.service("dedicated-movie") == before.service("dedicated-movie")
    assert both.service("mlserver").live == project.wanted(after).service("mlserver").live
    keys = [r.key for r in both.resources]
    assert "service/dedicated-movie" in keys and len(keys) == len(set(keys))
    assert [e.name for e in both.environments] == [e.name for e in project.wanted(after).environments]
