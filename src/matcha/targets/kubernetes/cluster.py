"""One namespace of a cluster, as the rest of the target reads and writes it.

Calls are tried again where that may help (429, 5xx, a connection that died); everything else comes back as a
MatchaError that says what the cluster refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import msgspec
from lightkube import ApiError, Client, KubeConfig
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import NameValue, UserExec
from lightkube.core.decoders import decode_list, decode_object, decode_status
from lightkube.core.exceptions import ConfigError
from lightkube.core.resource import NamespacedResource
from lightkube.resources.core_v1 import Pod
from lightkube.types import CascadeType, PatchType

from matcha.errors import BadInput, MatchaError, suggest
from matcha.targets.kubernetes.names import MANAGER, MINE, selector
from matcha.targets.kubernetes.options import KubernetesOptions

TRIES = 5
_LEARNING = threading.Lock()
_LEARNT: set[type[Any]] = set()
TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
_EXEC_API = "client.authentication.k8s.io/"

R = TypeVar("R", bound=NamespacedResource)
T = TypeVar("T")


class ClusterError(MatchaError):
    """The cluster refused or did not answer. `status` is the HTTP status; 0 for no answer."""

    def __init__(self, message: str, *, status: int = 0, details: str = "", resolution: str = "") -> None:
        super().__init__(message, details=details, resolution=resolution or "matcha doctor")
        self.status = status


class Forbidden(ClusterError):
    """The user may not do this (403)."""


class Conflict(ClusterError):
    """Somebody else changed or owns what was to be written (409). `owners`: "manager: field" lines."""

    def __init__(self, message: str, *, owners: Sequence[str] = (), details: str = "") -> None:
        super().__init__(message, status=409, details=details, resolution="matcha plan")
        self.owners = tuple(owners)


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
        self._mutex = threading.RLock()

    @cached_property
    def config(self) -> SingleConfig:
        """Raises BadInput for a kubeconfig or context that does not exist."""
        return load_config(self._options)

    @property
    def client(self) -> Client:
        with self._mutex:
            if self._given is None:
                self._given = Client(
                    self.config, namespace=self.namespace, field_manager=MANAGER, timeout=TIMEOUT
                )
            return self._given

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
        """Objects of the namespace with these labels."""
        self._learn(kind)
        wanted: Any = dict(labels)
        return self.call(lambda: list(self.client.list(kind, labels=wanted)), f"list {kind.__name__}s")

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

    # -- writing ---------------------------------------------------------------------------------------

    def apply(self, obj: Any, *, force: bool = False) -> Any:
        """Server-side apply. Raises Conflict, naming the fields' owners."""
        self._learn(type(obj))
        return self.call(lambda: self.client.apply(obj, force=force), f"apply {_of(obj)}")

    def create(self, obj: Any) -> Any:
        """Raises Conflict where it exists."""
        self._learn(type(obj))
        return self.call(lambda: self.client.create(obj), f"create {_of(obj)}", again=False)

    def replace(self, obj: Any) -> Any:
        """By the resourceVersion it holds. Raises Conflict where it has another one by now."""
        self._learn(type(obj))
        return self.call(lambda: self.client.replace(obj), f"write {_of(obj)}", again=False)

    def patch(self, kind: type[R], name: str, change: dict[str, Any]) -> R:
        """A merge patch."""
        self._learn(kind)
        return self.call(
            lambda: self.client.patch(kind, name, change, patch_type=PatchType.MERGE),
            f"change {_named(kind, name)}",
        )

    def delete(self, kind: type[Any], name: str, *, wait_for_children: bool = False) -> None:
        """Nothing happens where there is none."""
        cascade = CascadeType.FOREGROUND if wait_for_children else CascadeType.BACKGROUND
        with contextlib.suppress(Gone):
            self.call(lambda: self.client.delete(kind, name, cascade=cascade), f"delete {_named(kind, name)}")

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

    def ask(self, path: str) -> Any:
        """JSON of an address that has no class here. Raises ClusterError."""
        http = client_adapter.Client(self.config, client_adapter.ConnectionParams(timeout=TIMEOUT))

        def get() -> Any:
            answer = http.get(path)
            if not answer.is_success:
                raise ClusterError(f"The cluster refused {path}.", status=answer.status_code)
            return answer.json()

        with http:
            return self.call(get, f"read {path}", again=False)

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

    def call(self, ask: Callable[[], T], doing: str, *, again: bool = True) -> T:
        """`ask`, tried again while the cluster is busy; where `again`, also when its answer was lost, so it
        must do no harm done twice.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return ask()
            except ApiError as error:
                if attempt == TRIES or not _passes(error):
                    raise _refused(error, doing) from error
                self._sleep(_pause(error, attempt))
            except (httpx2.HTTPError, OSError, ConfigError) as error:
                if attempt == TRIES or not again or isinstance(error, ConfigError):
                    raise self._unreachable(error, doing) from error
                self._sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _unreachable(self, error: Exception, doing: str) -> ClusterError:
        if isinstance(error, ConfigError):
            return ClusterError(f"The credentials for the cluster could not be had: {error}")
        server = self.config.cluster.server
        return ClusterError(
            f"The cluster does not answer ({server}).",
            details=f"Tried to {doing}: {str(error) or type(error).__name__}",
        )


class Gone(ClusterError):
    """No such object (404)."""


def load_config(options: KubernetesOptions) -> SingleConfig:
    """Raises BadInput for a kubeconfig or context that does not exist."""
    path = _kubeconfig(options)
    try:
        known = KubeConfig.from_file(path)
    except (ConfigError, OSError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise BadInput(
            f"There is no usable kubeconfig at {path}.",
            details=str(error),
            resolution="Set KUBECONFIG, or targets.kubernetes.kubeconfig in matcha.yaml.",
        ) from error
    context = options.context or known.current_context or ""
    if context not in known.contexts:
        raise BadInput(
            f'The kubeconfig has no context "{context}".' if context else "No context is the current one.",
            details=f"{path}: {suggest(context, known.contexts)}",
            resolution="Set targets.kubernetes.context in matcha.yaml.",
        )
    found = known.get(context)
    assert found is not None
    return _with_exec_info(found)


def _kubeconfig(options: KubernetesOptions) -> Path:
    named = options.kubeconfig or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0] or "~/.kube/config"
    return Path(named).expanduser()


def _with_exec_info(config: SingleConfig) -> SingleConfig:
    """Lightkube knows the v1beta1 of credential plugins and tells them nothing; v1 answers the same way."""
    user = config.user
    if user is None or user.exec is None or not user.exec.apiVersion.startswith(_EXEC_API):
        return config
    ca = config.cluster.certificate_auth_data
    known = {"server": config.cluster.server, **({"certificate-authority-data": ca} if ca else {})}
    spec = {"interactive": False, "cluster": known}
    info = {"kind": "ExecCredential", "apiVersion": user.exec.apiVersion, "spec": spec}
    env = [*(user.exec.env or ()), NameValue(name="KUBERNETES_EXEC_INFO", value=json.dumps(info))]
    plugin: UserExec = msgspec.structs.replace(user.exec, apiVersion=f"{_EXEC_API}v1beta1", env=env)
    return config._replace(user=msgspec.structs.replace(user, exec=plugin))


def _passes(error: ApiError) -> bool:
    """Whether the same call may work in a moment."""
    return error.status.code in (429, 500, 502, 503, 504)


def _pause(error: ApiError, attempt: int) -> float:
    """Seconds: what the server asks for, otherwise twice as long each time."""
    asked = str(error.response.headers.get("Retry-After", ""))
    return min(float(asked), 30.0) if asked.isdigit() else 0.2 * 2**attempt


def _refused(error: ApiError, doing: str) -> ClusterError:
    status = error.status
    said = status.message or str(error)
    if status.code == 409:
        causes = (status.details.causes if status.details else None) or ()
        return Conflict(
            f"The cluster refused to {doing}: somebody else changed it.",
            owners=[f"{c.message}: {c.field}" for c in causes],
            details=said,
        )
    if status.code == 403:
        return Forbidden(f"You may not {doing}.", status=403, details=said)
    if status.code == 404:
        return Gone(f"The cluster could not {doing}.", status=404, details=said)
    if status.code == 401:
        return ClusterError(
            "The cluster does not accept your credentials.",
            status=401,
            details=said,
            resolution="Sign in again (as kubectl would need it too), then repeat the command.",
        )
    return ClusterError(f"The cluster refused to {doing}.", status=status.code or 0, details=said)


def _of(obj: Any) -> str:
    return _named(type(obj), obj.metadata.name if obj.metadata else "")


def _named(kind: type[Any], name: str) -> str:
    return f"{kind.__name__} {name}".rstrip()
