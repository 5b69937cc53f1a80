"""What is kept of tokens: one Secret, which the pods of exposed services have as a file.

It is one value, written whole, so that whatever ends a write, the list is what it was or what it should be.
"""

from __future__ import annotations

import msgspec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from matcha.component import Tokens
from matcha.errors import MatchaError
from matcha.target import Changed
from matcha.targets.kubernetes import ownership
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Conflict
from matcha.targets.kubernetes.exposed.mounted import KEY, NAME
from matcha.targets.kubernetes.names import MANAGER, labels, put_instance
from matcha.targets.kubernetes.secrets import encoded, values
from matcha.targets.kubernetes.versions import is_unsettled

LARGEST = 900_000  # bytes; a Secret ends at 1 MiB


def read(cluster: Cluster) -> Tokens:
    return _tokens(cluster.get(Secret, NAME))


def _tokens(found: Secret | None) -> Tokens:
    """Raises MatchaError for what cannot be read."""
    text = values(found).get(KEY, "")
    try:
        return msgspec.json.decode(text, type=Tokens) if text else Tokens()
    except msgspec.MsgspecError as error:
        raise MatchaError(
            f"What is kept of tokens cannot be read (Secret {NAME}).",
            details=str(error),
            resolution=f"kubectl delete secret {NAME}, which ends all tokens, then: matcha tokens create",
        ) from error


def keep(cluster: Cluster, tokens: Tokens, before: int) -> None:
    """In the place of the list of serial `before`. Raises Changed where there is another by now."""
    text = msgspec.json.encode(tokens).decode()
    if len(text) > LARGEST:
        raise MatchaError(
            "The stack holds no more tokens.", resolution="matcha tokens revoke, of one that is in no use"
        )
    found = cluster.get(Secret, NAME)
    ownership.refuse(cluster, found)
    if _tokens(found).serial != before:
        raise _changed()
    try:
        _write(cluster, found, {KEY: encoded(text)})
    except ClusterError as error:
        # An answer may be lost: then what is there tells.
        if is_unsettled(error) and values(cluster.get(Secret, NAME)).get(KEY) == text:
            return
        raise _changed() if isinstance(error, Conflict) else error from error


def _changed() -> Changed:
    return Changed("Somebody else changed the tokens meanwhile.", resolution="matcha tokens list")


def _write(cluster: Cluster, found: Secret | None, data: dict[str, str]) -> None:
    if found is None:
        made = Secret(metadata=ObjectMeta(name=NAME, labels=labels("tokens", MANAGER)), data=data)
        cluster.create(*put_instance([made], cluster.namespace))
    else:
        found.data = {**(found.data or {}), **data}
        cluster.replace(found)
