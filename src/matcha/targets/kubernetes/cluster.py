"""One namespace of a cluster, as the rest of the target reads and writes it.

Calls are tried again where that may help (429, 5xx, a connection that died); everything else comes back as a
MatchaError that says what the cluster refused.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, TypeVar

import httpx2
import msgspec
from lightkube import Client
from lightkube.config.kubeconfig import SingleConfig
from lightkube.core.decoders import decode_list, decode_object, decode_status
from lightkube.core.exceptions import ConfigError
from lightkube.core.resource import NamespacedResource, api_info
from lightkube.resources.core_v1 import Pod
from lightkube.types import CascadeType, PatchType

from matcha.targets.kubernetes.compare import Extra
from matcha.targets.kubernetes.exposed.kinds import OPTIONAL
from matcha.targets.kubernetes.kubeconfig import load_config, unfit, way
from matcha.targets.kubernetes.names import MANAGER, MINE, selector
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.refusals import (
    ClusterError,
    Conflict,
    Forbidden,
    Gone,
    behind,
    is_busy,
    is_collision,
    pause,
    refused,
    status_of,
)
from matcha.targets.kubernetes.signing import Malformed, signed
from matcha.targets.kubernetes.trusting import untrusted, unverified

__all__ = ["Cluster", "ClusterError", "Conflict", "Forbidden", "Gone", "load_config"]

TRIES = 5
_LEARNING = threading.Lock()
_LEARNT: set[type[Any]] = set()
TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

R = TypeVar("R", bound=NamespacedResource)
T = TypeVar("T")


class Cluster:
    """Connects at the first call. `sleep` and `client` are for tests."""

    def __init__(
        self,
        options: KubernetesOptions,
        *,
        client: Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.namespace = options.namespace
        self._options = options
        self._sleep = sleep
        self._given = client
        self._former: list[Client] = []
        self._mutex = threading.RLock()

    @cached_property
    def config(self) -> SingleConfig:
        """Raises BadInput for a kubeconfig or context that does not exist."""
        return load_config(self._options)

    @property
    def named(self) -> str:
        """Two clusters may bear the same context's name on two machines."""
        return f"Context {self.config.context_name} ({self.config.cluster.server})"

    @property
    def client(self) -> Client:
        with self._mutex:
            if self._given is None:
                self._given = self._connected()
                signed(self._given._client._client, self.config)
                # a notebook's stack closes its connections when nobody holds it any more
                weakref.finalize(self, self._given.close).atexit = False
            return self._given

    def _connected(self) -> Client:
        """Raises BadInput where the kubeconfig's certificates and keys are of no use."""
        proxy = way(self.config).proxy or None
        try:
            return Client(
                self.config, namespace=self.namespace, field_manager=MANAGER, timeout=TIMEOUT, proxy=proxy
            )
        except OSError as error:
            raise unfit(self._options, self.config, error) from error

    # -- reading ---------------------------------------------------------------------------------------

    def get(self, kind: type[R], name: str) -> R | None:
        self._learn(kind)
        try:
            return self.call(lambda: self.client.get(kind, name), f"read {_named(kind, name)}")
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def found(self, kind: type[Any], labels: Mapping[str, str] = MINE) -> list[Any]:
        """Objects of the namespace with these labels. Of kinds that not every cluster has, and not every
        user may see, none where that is so.
        """
        self._learn(kind)
        wanted: Any = dict(labels)
        try:
            return self.call(lambda: list(self.client.list(kind, labels=wanted)), f"list {kind.__name__}s")
        except (Gone, Forbidden):
            if kind not in OPTIONAL:
                raise
            return []

    def get_global(self, kind: type[Any], name: str) -> Any:
        """An object of no namespace; None where there is none."""
        try:
            return self.call(lambda: self.client.get(kind, name), f"read {_named(kind, name)}")
        except Gone:
            return None

    def found_global(self, kind: type[Any]) -> list[Any]:
        self._learn(kind)
        return self.call(lambda: list(self.client.list(kind)), f"list {kind.__name__}s")

    def owned(self, kinds: Sequence[type[Any]]) -> dict[type[Any], list[Any]]:
        """Everything of these kinds that Matcha made in the namespace, one call a kind, side by side."""
        with ThreadPoolExecutor(8) as pool:
            return dict(zip(kinds, pool.map(self.found, kinds), strict=True))

    def address(self, kind: type[Any]) -> str:
        """Of all objects of this kind in the namespace."""
        info = api_info(kind)
        group = f"/apis/{info.resource.group}" if info.resource.group else "/api"
        return f"{group}/{info.resource.version}/namespaces/{self.namespace}/{info.plural}"

    def metadata(self, address: str, labels: str) -> list[dict[str, Any]]:
        """Of the objects there, of whatever kind, that this label selector picks; never what they hold."""
        asked = {"labelSelector": labels, "limit": "500"}
        found: list[dict[str, Any]] = []
        while True:
            page = self.call(partial(self._page, address, asked), f"list {address}")
            found += [each["metadata"] for each in page.get("items") or ()]
            if not (more := (page.get("metadata") or {}).get("continue")):
                return found
            asked = {**asked, "continue": more}

    def _page(self, address: str, asked: Mapping[str, str]) -> dict[str, Any]:
        client = self.client._client
        answer = client._client.get(address, params=dict(asked), headers={"Accept": _METADATA})
        client.raise_for_status(answer)  # type: ignore[no-untyped-call]
        page: dict[str, Any] = answer.json()
        return page

    # -- writing ---------------------------------------------------------------------------------------

    def apply(self, obj: Any, *, force: bool = False) -> Any:
        """Server-side apply. Raises Conflict, naming the fields' owners."""
        self._learn(type(obj))
        return self._write(
            lambda: self.client.apply(obj, force=force), f"apply {_of(obj)}", passing=is_collision
        )

    def strip(self, found: Any, entries: Sequence[Extra]) -> Any:
        """Take these out of the object, in this order; what it is then. Raises ClusterError where one has
        moved, or where the answer was lost: then only another look tells.
        """
        kind, name = type(found), found.metadata.name
        change: Any = [
            step
            for entry in entries
            for step in (
                {"op": "test", "path": entry.mark, "value": entry.value},
                {"op": "remove", "path": entry.path},
            )
        ]
        return self._write(
            lambda: self.client.patch(kind, name, change, patch_type=PatchType.JSON),
            f"change {_of(found)}",
            again=False,
        )

    def own(self, found: Any, fields: list[dict[str, Any]]) -> None:
        """Change who owns what of the object. Raises ClusterError where it has changed since, or where the
        answer was lost.
        """
        kind, name = type(found), found.metadata.name
        change: Any = [
            {"op": "replace", "path": "/metadata/managedFields", "value": fields},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": found.metadata.resourceVersion},
        ]
        self._write(
            lambda: self.client.patch(kind, name, change, patch_type=PatchType.JSON),
            f"change {_of(found)}",
            again=False,
        )

    def create(self, obj: Any, *, again: bool = False) -> Any:
        """Raises Conflict where it exists. `again`: for who takes that for done, as an answer may be lost."""
        self._learn(type(obj))
        return self._write(lambda: self.client.create(obj), f"create {_of(obj)}", again=again)

    def replace(self, obj: Any) -> Any:
        """By the resourceVersion it holds. Raises Conflict where it has another one by now."""
        self._learn(type(obj))
        return self._write(lambda: self.client.replace(obj), f"write {_of(obj)}", again=False)

    def patch(self, kind: type[R], name: str, change: dict[str, Any]) -> R:
        """A merge patch."""
        self._learn(kind)
        return self._write(
            lambda: self.client.patch(kind, name, change, patch_type=PatchType.MERGE),
            f"change {_named(kind, name)}",
        )

    def delete(self, kind: type[Any], name: str, *, wait_for_children: bool = False) -> None:
        """Nothing happens where there is none."""
        cascade = CascadeType.FOREGROUND if wait_for_children else CascadeType.BACKGROUND
        with contextlib.suppress(Gone):
            self._write(
                lambda: self.client.delete(kind, name, cascade=cascade), f"delete {_named(kind, name)}"
            )

    def touch(self, service: str, annotation: str) -> None:
        """Change every pod of the service without restarting it."""
        for pod in self.found(Pod, selector(service)):
            with contextlib.suppress(Gone):
                change = {"metadata": {"annotations": {annotation: f"{time.time():.3f}"}}}
                self.patch(Pod, pod.metadata.name, change)

    def raw(self, path: str) -> Any:
        """JSON of an address that has no class here; None where there is none or it may not be read."""
        with contextlib.suppress(ClusterError):
            return self.ask(path)
        return None

    def ask(self, path: str, *, again: bool = False) -> Any:
        """JSON of an address that has no class here. Raises ClusterError; at once, unless `again`."""

        def get() -> Any:
            client = self.client._client
            answer = client._client.get(path)
            try:
                client.raise_for_status(answer)  # type: ignore[no-untyped-call]
            except httpx2.HTTPStatusError as error:
                if again or status_of(error) == 401:
                    raise
                raise refused(error, doing) from error  # whatever it says: who asks here does not wait for it
            return answer.json()

        doing = f"read {path}"
        return self.call(get, doing, again=again)

    # -- how calls are made ----------------------------------------------------------------------------

    def _learn(self, kind: type[Any]) -> None:
        """Have msgspec prepare to read objects of this kind: two threads that do so at once crash it."""
        with _LEARNING:
            if kind not in _LEARNT:
                decode_list(b'{"items": []}', kind)
                with contextlib.suppress(msgspec.ValidationError):  # it is the preparing that counts
                    decode_object(b"{}", kind)
                decode_status(b"{}")
                _LEARNT.add(kind)

    def _write(self, ask: Callable[[], T], doing: str, **how: Any) -> T:
        """As `call`."""
        return self.call(ask, doing, **how)

    def call(
        self,
        ask: Callable[[], T],
        doing: str,
        *,
        again: bool = True,
        passing: Callable[[httpx2.HTTPStatusError], bool] = lambda _: False,
    ) -> T:
        """`ask`, tried again while the cluster is busy or refuses it with what is `passing`; where `again`,
        also when its answer was lost, so it must do no harm done twice.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return self._asked(ask, doing)
            except httpx2.HTTPStatusError as error:
                if status_of(error) == 401 and self._has_other_credentials():
                    continue
                if attempt == TRIES or not (is_busy(error) or passing(error)):
                    raise refused(error, doing) from error
                self._sleep(pause(error, attempt))
            except ConfigError as error:
                raise _not_signed_in(error) from error
            except (httpx2.HTTPError, OSError) as error:
                if attempt == TRIES or not again or unverified(error):
                    raise self._unreachable(error, doing) from error
                self._sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _asked(self, ask: Callable[[], T], doing: str) -> T:
        """What lightkube makes of answers that do not come from an API server is a refusal, too."""
        try:
            return ask()
        except (msgspec.MsgspecError, ValueError, KeyError) as error:
            if found := behind(error):
                raise found from error
            if isinstance(error, KeyError):
                raise
            raise ClusterError(
                f"What answers at {self.config.cluster.server} is not a cluster, or its answer was damaged.",
                details=f"Tried to {doing}: {error}",
            ) from error

    def _has_other_credentials(self) -> bool:
        """Whether the kubeconfig was written anew since this process read it, as signing in does."""
        with self._mutex:
            found = load_config(self._options)
            if found == self.config:
                return False
            self.__dict__["config"] = found
            if self._given:
                self._former.append(self._given)  # other threads may be in the middle of a call
            self._given = None
            return True

    def _unreachable(self, error: Exception, doing: str) -> ClusterError:
        server = self.config.cluster.server
        if found := unverified(error):
            return untrusted(self._options, self.config, found)
        return ClusterError(
            f"The cluster does not answer ({server}).",
            details=f"Tried to {doing}: {_said(error)}",
        )


def _said(error: Exception) -> str:
    """Without what it quotes of a request: its headers hold credentials."""
    quotes = isinstance(error, (httpx2.LocalProtocolError, httpx2.InvalidURL))
    return type(error).__name__ if quotes else str(error) or type(error).__name__


def _not_signed_in(error: ConfigError) -> ClusterError:
    if isinstance(error, Malformed):
        return ClusterError(
            str(error),
            details="A token is one word of letters, digits and signs: there is a line break or another "
            "character in it.",
            resolution="Mend it in the kubeconfig, or in the file or program that it names, then repeat the "
            "command.",
        )
    return ClusterError(
        "The credentials for the cluster could not be had.",
        details=str(error),
        resolution="Sign in again (as kubectl would need it too), then repeat the command.",
    )


def _of(obj: Any) -> str:
    return _named(type(obj), obj.metadata.name if obj.metadata else "")


def _named(kind: type[Any], name: str) -> str:
    return f"{kind.__name__} {name}".rstrip()
