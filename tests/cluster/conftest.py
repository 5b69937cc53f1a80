"""Everyday tests against a real API server, without a node: nothing here waits for a pod."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace

from support.apiserver import api_server
from support.stores import close_all, cluster

__all__ = ["api_server"]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture
def name() -> str:
    """Of a namespace that does not exist."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def namespace(api_server: Path, name: str) -> Iterator[str]:
    """An empty namespace that Matcha did not make."""
    admin = cluster(api_server, name)
    admin.create(Namespace(metadata=ObjectMeta(name=name)))
    yield name
    admin.delete(Namespace, name)
