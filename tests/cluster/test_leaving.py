"""A project whose matcha.yaml names another namespace than the one that its stack is in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace

from matcha.host.runtime import user_data
from support.small_stack import SmallStack
from support.stores import cluster


@pytest.fixture
def another(api_server: Path, name: str) -> Iterator[str]:
    admin, other = cluster(api_server, "default"), f"{name}-other"
    admin.create(Namespace(metadata=ObjectMeta(name=other)))
    yield other
    admin.delete(Namespace, other)


def behind(stack: SmallStack) -> list[str]:
    return [note for note in stack.plan().notes if "is still in the namespace" in note]


def test_a_stack_that_is_left_behind_is_told_until_it_is_gone(
    stack: SmallStack, tmp_path: Path, another: str
) -> None:
    first = stack.namespace
    stack.provision()
    assert behind(stack) == []
    target = stack.target()
    state = target.store().read()
    assert state
    target.access(state).url("role-of-front")  # as what sets up a stack does
    stack.namespace = another
    [told] = behind(stack)
    assert first in told and told.endswith("matcha destroy")
    (tmp_path / "theirs").mkdir()
    assert behind(SmallStack(tmp_path / "theirs", stack.kubeconfig, another)) == []
    stack.namespace = first
    stack.destroy()
    stack.namespace = another
    assert behind(stack) == []


def test_a_stack_is_told_whatever_went_before_it_in_its_namespace(stack: SmallStack, another: str) -> None:
    """What this machine has of stacks that somebody destroyed elsewhere, whose ids come before and after."""
    first = stack.namespace
    stack.provision()
    target = stack.target()
    state = target.store().read()
    assert state
    target.access(state).url("role-of-front")
    home = user_data() / "links" / state.stack_id
    for dead in ("0" * 12, "f" * 12):
        shutil.copytree(home, home.with_name(dead), ignore=shutil.ignore_patterns("supervisor", "note.json"))
    stack.namespace = another
    assert len(behind(stack)) == 1
    stack.namespace = first
    stack.destroy()
