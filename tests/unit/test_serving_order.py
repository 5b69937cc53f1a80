"""Which list is newer, the one that was told or the file's, whatever comes when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from matcha.component import Deployment
from matcha.components.mlserver import publishing
from matcha.components.mlserver.inside.matcha_serving import following as module
from matcha.components.mlserver.inside.matcha_serving.following import Following, Order, digest


def entries(version: int, at: str = "") -> list[dict[str, Any]]:
    return [{"name": "movie", "version": str(version), "deployed_at": at}]


# What happens, in order: lists that are told ("t") or looked at in the file ("f"), and what the file is then.
CASES: dict[str, Sequence[tuple[str, list[Any], str]]] = {
    "nobody told anything": [("f", entries(1), "newer"), ("f", entries(2), "newer")],
    "a deploy": [
        ("t", entries(2), ""),
        ("f", entries(1), "older"),
        ("f", entries(2), "same"),
        ("f", entries(3), "newer"),
    ],
    "two deploys, the first one's file late": [
        ("t", entries(2), ""),
        ("t", entries(3), ""),
        ("f", entries(1), "older"),
        ("f", entries(2), "older"),
        ("f", entries(3), "same"),
    ],
    "back to the first version, its old file still there": [
        ("t", entries(2, "t2"), ""),
        ("t", entries(1, "t3"), ""),
        ("f", entries(1, "t1"), "older"),
        ("f", entries(2, "t2"), "older"),
        ("f", entries(1, "t3"), "same"),
    ],
    "a deploy that is taken back": [
        ("t", entries(2), ""),
        ("t", entries(1), ""),
        ("f", entries(1), "same"),
        ("f", entries(1), "newer"),
    ],
    "everything is undeployed": [("t", [], ""), ("f", entries(1), "older"), ("f", [], "same")],
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_order(case: Sequence[tuple[str, list[Any], str]]) -> None:
    order = Order(clock=lambda: 0.0)
    for how, listed, is_ in case:
        if how == "t":
            order.told(listed)
        else:
            assert order.of_file(listed) == is_


def test_a_told_list_that_never_comes_to_the_file_is_given_up() -> None:
    now = [0.0]
    order = Order(100.0, lambda: now[0])
    order.told(entries(2))
    now[0] = 99.0
    assert order.of_file(entries(1)) == "older"
    now[0] = 100.0
    assert order.of_file(entries(1)) == "newer"


class Models:
    """What is served; `meanwhile` happens in the middle of a load."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.served: list[Any] = []
        self.meanwhile = meanwhile

    def read(self, path: Path) -> list[Any]:
        found: list[Any] = json.loads(path.read_text())
        return found

    async def take(self, listed: Sequence[Any]) -> list[Any]:
        self.meanwhile()
        self.served.append(listed)
        return []


def followed(following: Following, until: Callable[[], bool]) -> None:
    async def scene() -> None:
        task = asyncio.create_task(following.run())
        for _ in range(1000):
            if until() or task.done():
                break
            await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(scene())
    assert until()


def test_a_list_that_was_told_during_a_load_is_given_up_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever told it was killed: the replica goes back to what stands in its file."""
    monkeypatch.setattr(module, "POLL", 0.01)
    (file := tmp_path / "list").write_text(json.dumps(entries(1)))
    models = Models()
    following = Following(file, models, hold=0.1)

    def telling() -> None:
        models.meanwhile = lambda: None
        following.told(entries(2))

    models.meanwhile = telling
    followed(following, lambda: len(models.served) == 2)
    assert models.served == [entries(1), entries(1)]


def test_what_fails_in_an_unforeseen_way_is_tried_again_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL", 0.01)
    monkeypatch.setattr(module, "RETRIES", (0.0, 0.0, 0.0))
    (file := tmp_path / "list").write_text(json.dumps(entries(1)))
    models = Models()

    def failing() -> None:
        models.meanwhile = lambda: None
        raise OSError("no space left")

    models.meanwhile = failing
    following = Following(file, models)
    followed(following, lambda: following.ready)
    assert models.served == [entries(1)]


def test_the_moment_of_a_deployment_tells_lists_apart_and_addresses_do_not() -> None:
    """The same model deployed again is another list: an older file may say the same otherwise."""
    movie = Deployment(name="movie", asked="m", uri="models:/m/1", environment="0123456789", deployed_at="1")
    again = Deployment(name="movie", asked="m", uri="models:/m/1", environment="0123456789", deployed_at="2")
    first, second = (listed(d, "http://a:1") for d in (movie, again))
    assert digest(first) == digest(listed(movie, "http://b:2")) != digest(second)


def listed(deployment: Deployment, address: str) -> list[Any]:
    text = publishing.body([deployment]).replace("{url:serving-01234567}", address)
    assert address in text
    return list(json.loads(text)["deployments"])
