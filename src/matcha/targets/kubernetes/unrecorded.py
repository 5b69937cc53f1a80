"""A stack whose record is gone: what it serves is told by what its servers read. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

import msgspec
from lightkube.resources.core_v1 import ConfigMap

from matcha.target import Seen
from matcha.targets.kubernetes.look import Found

GONE = "what it should hold stood in the stack's record, which is gone"
_LIVE = re.compile(r"ConfigMap \S+-live was changed(?: by .+)?: data\..+")


class _Served(msgspec.Struct):
    name: str
    uri: str


class _Body(msgspec.Struct):
    deployments: list[_Served]


def again(found: Found) -> str:
    """What has to be done of the models; empty where nothing is served."""
    known = {model.name: model.uri for text in _texts(found) for model in _models(text)}
    if not known:
        return ""
    commands = [f"matcha deploy {shlex.quote(uri)} --name {name}" for name, uri in sorted(known.items())]
    return (
        "Which models are deployed stood in the stack's record, which is gone: after matcha provision they "
        f"have to be deployed again: {'; '.join(commands)}"
    )


def seen(shown: Mapping[str, Seen]) -> dict[str, Seen]:
    """Without the word that somebody changed what provision takes out for want of a record."""
    return {
        key: Seen(each.condition, each.digest, GONE) if _LIVE.fullmatch(each.detail) else each
        for key, each in shown.items()
    }


def _texts(found: Found) -> Iterator[str]:
    for each in found.of(ConfigMap):
        if str(each.metadata.name).endswith("-live"):
            yield (each.data or {}).get("deployments.json", "")


def _models(text: str) -> list[_Served]:
    """None where it says something else: then nothing is known."""
    try:
        return msgspec.json.decode(text, type=_Body).deployments
    except msgspec.MsgspecError:
        return []
