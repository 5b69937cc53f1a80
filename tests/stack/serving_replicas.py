"""Replicas of the real server as local processes, and the access to them as a target has it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from serving_bench import TOKEN, Bench

from matcha.component import Deployment
from matcha.components.mlserver import publishing
from support.access import FolderAccess


class Spread(FolderAccess):
    """A `ReplicatedAccess` to processes that were started. `balanced`: the address of each role's service."""

    def __init__(self, root: Path, balanced: Mapping[str, str], **benches: list[Bench]) -> None:
        super().__init__(root, dict(balanced))
        self.benches = {role.replace("_", "-"): found for role, found in benches.items()}
        self.keep_secret(publishing.TOKEN, TOKEN)

    @contextlib.contextmanager
    def replicas(self, role: str) -> Iterator[Mapping[str, str]]:
        """Of processes that run."""
        found = [b for b in self.benches[role] if b.process is not None and b.process.poll() is None]
        yield {bench.root.name: bench.url for bench in found}

    def write_live(self, *deployments: Deployment) -> None:
        text = self.inside(publishing.body(deployments))
        for bench in (b for found in self.benches.values() for b in found):
            bench.live.write_text(text)

    def inside(self, template: str) -> str:
        for role, url in self.urls.items():
            template = template.replace(f"{{url:{role}}}", url)
        return template


def deployment(version: int, **more: Any) -> Deployment:
    uri = f"models:/credit/{version}"
    known = {"name": "credit", "asked": uri, "uri": uri, "model": "credit", "version": str(version)}
    return Deployment(**{**known, **more})


def versions_of(*benches: Bench) -> list[str]:
    """What each serves as `credit`."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    found = []
    for bench in benches:
        shown = httpx.get(f"{bench.url}/matcha/deployments", headers=headers, timeout=30).json()
        found.append(next((e["version"] for e in shown if e["name"] == "credit"), ""))
    return found
