"""Generated passwords and keys: one Secret of the namespace. Pods get only the values they name."""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Callable, Iterable

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from matcha.errors import NotProvisioned
from matcha.host.masking import masked
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Conflict
from matcha.targets.kubernetes.names import KEEPS, MANAGER, SECRETS, labels, put_instance
from matcha.targets.kubernetes.ownership import is_mine, refusal
from matcha.targets.kubernetes.versions import is_unsettled

TRIES = 8


class Secrets:
    """Values never leave through an error. They open the data, so they are kept as long as it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._read: dict[str, str] | None = None
        self.refuse: Callable[[Iterable[str]], None] = lambda _: None  # raises for what is not made anew

    def get(self, name: str) -> str:
        if self._read is None or name not in self._read:
            self._read = values(self._cluster.get(Secret, SECRETS))
        try:
            return self._read[name]
        except KeyError:
            error = NotProvisioned(f'The stack has no secret "{name}".')
            error.resolution = "matcha plan"  # of one that is lost, which a provision may refuse to make
            raise error from None

    def of(self, secret: str, key: str) -> str:
        """Of a Secret that the user made. Raises NotProvisioned where it lacks it."""
        try:
            return values(self._cluster.get(Secret, secret))[key]
        except KeyError:
            raise NotProvisioned(f'The Secret {secret} has no "{key}".') from None

    def ensure(self, names: Iterable[str]) -> None:
        """Generates those that do not exist; one that does is never changed. Raises what `refuse` does."""
        wanted = list(names)
        for _ in range(TRIES):
            found = self._own()
            missing = {n: secrets.token_urlsafe(32) for n in wanted if n not in values(found)}
            self.refuse(missing)
            if not missing or self._added(found, missing):
                return
        raise Conflict("The stack's secrets are changed by somebody else all the time.")

    def keep(self, name: str, value: str) -> None:
        is_new = self._own() is None and self._added(None, {name: value})
        if not is_new:
            self._cluster.patch(Secret, SECRETS, {"data": {name: encoded(value)}})
        self._read = None

    def redact(self, lines: Iterable[str]) -> list[str]:
        """`lines` with every value masked, as far as they may be read."""
        if self._read is None:
            with contextlib.suppress(ClusterError):
                self._read = values(self._cluster.get(Secret, SECRETS))
        return masked(lines, (self._read or {}).values())

    def _own(self) -> Secret | None:
        """Raises Conflict for one that somebody else made."""
        found = self._cluster.get(Secret, SECRETS)
        if found is not None and found.metadata and not is_mine(metadata := found.metadata.to_dict()):
            raise refusal(Secret, metadata, self._cluster.namespace)
        return found

    def _added(self, found: Secret | None, missing: dict[str, str]) -> bool:
        """By the version that was read, so that two who generate at once end with the same values."""
        self._read = None
        data = {name: encoded(value) for name, value in missing.items()}
        try:
            if found is None:
                marks = {**labels("secrets", MANAGER), KEEPS: "true"}
                made = Secret(metadata=ObjectMeta(name=SECRETS, labels=marks), data=data)
                self._cluster.create(*put_instance([made], self._cluster.namespace))
            else:
                found.data = {**(found.data or {}), **data}
                self._cluster.replace(found)
        except ClusterError as error:
            if not is_unsettled(error):
                raise
            return False
        return True


def values(found: Secret | None) -> dict[str, str]:
    data = (found.data if found else None) or {}
    return {name: base64.b64decode(raw).decode(errors="replace") for name, raw in data.items()}


def encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
