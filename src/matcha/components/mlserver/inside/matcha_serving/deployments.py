"""Makes this process serve exactly a list of deployments, one change of the list at a time.

A change loads first and swaps then: MLServer replaces a model under its name only once the new one is
loaded, as long as both have the same version label. So models have no label here; the real version stands in
every response. A model that fails to load leaves the one before it answering.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserver.errors import ModelNotFound
from mlserver.model import MLModel
from mlserver.registry import MultiModelRegistry
from mlserver.settings import ModelParameters, ModelSettings

from . import code, plain
from .copies import Copies
from .deployment import Deployment, Malformed, key, parse
from .forward import ForwardRuntime, Peers
from .runtime import ModelRuntime, Shared

DOWNLOADS = 4
NOTHING: Mapping[str, str] = {}
GOES_ON = "goes on answering"
logger = logging.getLogger("mlserver.matcha")


@dataclass(frozen=True)
class Result:
    """`error` is empty when the deployment answers as wanted; `away`: the tracker did not. `changed`: another
    model answers than before.
    """

    name: str
    error: str = ""
    away: bool = False
    changed: bool = False


class Registry(MultiModelRegistry):
    """`/versions/<v>/` of a path is the real version, though models are kept without one."""

    async def get_model(self, name: str, version: str | None = None) -> MLModel:
        model = await super().get_model(name)
        if version and version != model.deployment.version:
            raise ModelNotFound(name, version)
        return model


class Deployments:
    """`process` is the name of this one; empty for the main server, which forwards for the others."""

    def __init__(self, copies: Copies, shared: Shared, peers: Peers, process: str) -> None:
        self.registry = Registry(model_initialiser=self._make)
        self._copies = copies
        self._shared = shared
        self._peers = peers
        self._process = process
        self._changing = asyncio.Lock()
        self._downloading = asyncio.Semaphore(DOWNLOADS)
        self._wanted: dict[str, Deployment] = {}
        self._serving: dict[str, tuple[Deployment, str]] = {}
        self._before: dict[str, Deployment | None] = {}  # what the last change of a name replaced
        self._errors: dict[str, str] = {}

    async def apply(
        self,
        entries: Sequence[Any],
        *,
        unload: bool = True,
        failed: Mapping[str, str] = NOTHING,
        back: Mapping[str, str] = NOTHING,
    ) -> list[Result]:
        """Results in the order of `entries`. `unload=False` leaves models that are not in the list alone.

        `failed` are names that another process could not load, and why: they stay as they are here. Those of
        `back` are served as before their last change.
        """
        async with self._changing:
            wanted, results = self._parsed(entries)
            results.update({n: self._kept(n, failed[n]) for n in results if n in failed})
            results.update({n: await self._put_back(n, back[n]) for n in results if n in back})
            trying = [d for d in wanted if d.name not in failed and d.name not in back]
            results.update({r.name: r for r in await asyncio.gather(*(self._ensure(d) for d in trying))})
            if unload:
                await self._unload(set(results))
            self._errors = {r.name: r.error for r in results.values() if r.error}
            return list(results.values())

    def read(self, path: Path) -> list[Any] | None:
        """The list as a file holds it; None where there is none."""
        try:
            return entries_of(json.loads(path.read_bytes())) if path.exists() else None
        except (OSError, ValueError, Malformed) as error:
            logger.error("The list of deployments cannot be read: %s", plain.error(error))
            return None

    async def take(self, entries: Sequence[Any]) -> list[Result]:
        """`apply`, where nobody waits for the results."""
        results = await self.apply(entries)
        for result in results:
            if result.error:
                logger.error("%s is not served: %s", result.name, result.error)
        return results

    async def show(self) -> list[dict[str, str]]:
        """Everything served or wanted here, for Matcha and for MLServer's repository index.

        `uri` and `version` are of what is served (empty: nothing), `error` says why it does not answer, and
        `refused` why what was asked for last is not what is served.
        """
        names = sorted({*self._serving, *self._errors})
        return list(await asyncio.gather(*(self._shown(name) for name in names)))

    async def _shown(self, name: str) -> dict[str, str]:
        refused = self._errors.get(name, "")
        if name not in self._serving:
            return {"name": name, "uri": "", "version": "", "error": refused, "refused": refused}
        served, _ = self._serving[name]
        known = {"name": name, "uri": served.uri, "version": served.version, "refused": refused}
        return {**known, "error": await self._trouble(name)}

    async def _trouble(self, name: str) -> str:
        """Why what is served under a name does not answer: only another process can be the reason."""
        try:
            model = await self.registry.get_model(name)
        except ModelNotFound:
            return ""  # unloaded at this moment
        return await model.trouble() if isinstance(model, ForwardRuntime) else ""

    def _parsed(self, entries: Sequence[Any]) -> tuple[list[Deployment], dict[str, Result]]:
        """What this process is to serve, and a place for the result of each, in the order of the list."""
        wanted: dict[str, Deployment] = {}
        results: dict[str, Result] = {}
        for entry in entries:
            name = _name(entry)
            try:
                if name in results:
                    raise Malformed("named twice")
                found = parse(entry)
                if self._process in ("", found.process):
                    results[name] = Result(name)
                    wanted[name] = found
            except Malformed as error:
                wanted.pop(name, None)
                results[name] = Result(name, str(error))
        return list(wanted.values()), results

    async def _ensure(self, deployment: Deployment) -> Result:
        name = deployment.name
        before = self._serving.get(name)
        try:
            await self._load(deployment)
        except Malformed as error:
            return Result(name, str(error))
        except Exception as error:  # noqa: BLE001 - whatever a model raises is its own failure
            logger.error("%s could not be loaded:\n%s", name, plain.trace(error))
            return self._kept(name, plain.error(error), away=isinstance(error, ConnectionError))
        return Result(name, changed=self._serving[name] != before)

    async def _put_back(self, name: str, why: str) -> Result:
        before = self._before.get(name)
        if before is not None:
            again = await self._ensure(before)
            return self._kept(name, f"{why} ({again.error})" if again.error else why)
        if name in self._serving:
            await self.registry.unload(name)
            del self._serving[name]
        return Result(name, why)

    def _kept(self, name: str, error: str, *, away: bool = False) -> Result:
        """Says what goes on answering. Only the main server does: it is the one that people ask."""
        if name in self._serving and not self._process and GOES_ON not in error:
            error = f"{error} (version {self._serving[name][0].version} {GOES_ON})"
        return Result(name, error, away)

    async def _load(self, deployment: Deployment) -> None:
        forwarded = self._forwarded(deployment)
        stamp = "" if forwarded else key(deployment)
        if self._serving.get(deployment.name) == (deployment, stamp):
            return
        self._wanted[deployment.name] = deployment
        if forwarded:
            await self._swap(deployment, Path())
            await self._discard(self._copies.root / deployment.name)
        else:
            folder = await self._fetch(deployment)
            await self._swap(deployment, folder)
            await self._discard(*self._copies.others(folder))
        self._before[deployment.name] = self._serving.get(deployment.name, (None, ""))[0]
        self._serving[deployment.name] = (deployment, stamp)
        self._errors.pop(deployment.name, None)

    async def _discard(self, *folders: Path) -> None:
        for folder in folders:
            await asyncio.to_thread(self._copies.remove, folder)
            code.drop_path(folder)

    def _forwarded(self, deployment: Deployment) -> bool:
        return deployment.process != self._process

    async def _fetch(self, deployment: Deployment) -> Path:
        async with self._downloading:
            return await asyncio.to_thread(self._copies.fetch, deployment)

    async def _swap(self, deployment: Deployment, folder: Path) -> None:
        try:
            await self.registry.load(_settings(deployment, folder))
        except Exception:
            await self._forget_empty(deployment.name)
            raise

    async def _forget_empty(self, name: str) -> None:
        """MLServer keeps the name of a model that never loaded."""
        if name not in self._serving:
            self.registry._models.pop(name, None)

    def _make(self, settings: ModelSettings) -> MLModel:
        deployment = self._wanted[settings.name]
        if not self._forwarded(deployment):
            return ModelRuntime(settings, deployment, self._shared)
        if not deployment.forward:
            raise Malformed(f"there is no process {deployment.process}")
        return ForwardRuntime(settings, deployment, self._shared, self._peers)

    async def _unload(self, listed: set[str]) -> None:
        mine = {d.name for d, _ in self._serving.values()}
        for name in sorted(mine - listed):
            await self.registry.unload(name)
            del self._serving[name]
        for name in await asyncio.to_thread(self._copies.names):
            if name not in listed:
                await self._discard(self._copies.root / name)


def entries_of(body: Any) -> list[Any]:
    """Raises Malformed for what is not {"deployments": [...]}."""
    entries = body.get("deployments") if isinstance(body, dict) else None
    if not isinstance(entries, list):
        raise Malformed('expected {"deployments": [...]}')
    return entries


def reasons_of(body: Any, key: str) -> dict[str, str]:
    """Raises Malformed for what is not a table of text."""
    reasons = body.get(key, {})
    if not isinstance(reasons, dict) or not all(isinstance(why, str) and why for why in reasons.values()):
        raise Malformed(f'expected "{key}": {{name: why}}')
    return reasons


def _name(entry: Any) -> str:
    return str(entry.get("name", "")) if isinstance(entry, dict) else ""


def _settings(deployment: Deployment, folder: Path) -> ModelSettings:
    """`_env_file`: MLServer would read `.env` of the working folder otherwise."""
    return ModelSettings(
        _env_file=None,
        name=deployment.name,
        implementation="matcha_serving.runtime.ModelRuntime",  # ours are made by `_make`
        platform="mlflow",
        versions=[deployment.version] if deployment.version else [],
        max_batch_size=deployment.max_batch_size,
        max_batch_time=deployment.max_batch_time,
        parameters=ModelParameters(_env_file=None, uri=str(folder)),
    )
