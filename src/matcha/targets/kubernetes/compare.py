"""Whether what is in the cluster is what was asked for. Pure, on plain data.

Everything that a manifest says has to be there; what the cluster or others added beside it does not matter.
Lists whose entries have names are compared by name, as server-side apply merges them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from matcha.targets.kubernetes.owners import is_other

_KEYS = ("mountPath", "name", "containerPort", "port", "type", "key")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_FACTORS = {
    **{"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    **{"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40},
}
# What stands in these besides what is wanted changes what a pod does.
_WHOLE = frozenset({"env", "volumes", "volumeMounts", "containers", "initContainers", "args", "command"})
_PICKING = frozenset({"selector", "matchLabels", "nodeSelector"})  # of which one more picks others
_TRUE_UNLESS_SAID = frozenset({"automountServiceAccountToken", "allowPrivilegeEscalation"})
_POLICY = ("spec.ingress", "spec.egress")  # every entry of a network policy, at any depth, opens something


class Difference(NamedTuple):
    """`found` is what stands at `path` instead of `wanted`; None where nothing does."""

    path: str
    wanted: Any
    found: Any

    @property
    def mark(self) -> str:
        """Tells this difference from any other there, without saying what it is."""
        content = msgspec.json.encode((self.wanted, self.found), order="deterministic", enc_hook=str)
        return hashlib.sha256(content).hexdigest()[:16]


class Extra(NamedTuple):
    """An entry at `path`, which is the one that has `value` at `mark`. Both are JSON pointers."""

    path: str
    mark: str
    value: Any


def differences(wanted: Any, found: Any, path: str = "") -> Iterator[Difference]:
    """Where `found` is not as `wanted`."""
    if isinstance(wanted, Mapping):
        yield from _mapping(wanted, found, path)
    elif isinstance(wanted, list):
        yield from _list(wanted, found, path)
    elif not _same(wanted, found, path):
        yield Difference(path, wanted, found)


def _mapping(wanted: Mapping[str, Any], found: Any, path: str) -> Iterator[Difference]:
    if not isinstance(found, Mapping):
        if any(wanted.values()):
            yield Difference(path, wanted, found)
        return
    if path.rpartition(".")[2] in _PICKING and found.keys() - wanted.keys():
        yield Difference(path, wanted, found)
        return
    for name, value in wanted.items():
        yield from differences(value, found.get(name), f"{path}.{name}" if path else name)


def _list(wanted: list[Any], found: Any, path: str) -> Iterator[Difference]:
    found = found if isinstance(found, list) else []
    key = next((k for k in _KEYS if _names(wanted, k)), None)
    name = path.rpartition(".")[2]
    whole = key is None or name in _WHOLE or path.startswith(_POLICY)
    if len(found) < len(wanted) or (len(found) > len(wanted) and whole):
        yield Difference(path, wanted, found)
        return
    by_key = {f.get(key): f for f in found if isinstance(f, Mapping)} if key else {}
    for number, each in enumerate(wanted):
        other = by_key.get(each[key]) if key else found[number]
        yield from differences(each, other, f"{path}[{each[key] if key else number}]")


def extras(wanted: Any, found: Any, path: str = "") -> Iterator[Extra]:
    """Entries that make a list of `found` longer than `wanted`, in an order in which they can be removed.

    Applying again leaves them where they are: they belong to whoever added them.
    """
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for name, value in wanted.items():
            yield from extras(value, found.get(name), f"{path}/{_escaped(name)}")
    elif isinstance(wanted, list) and isinstance(found, list):
        key = next((k for k in _KEYS if _names(wanted, k)), None)
        if key:
            yield from _extra_entries(wanted, found, key, path)


def _extra_entries(wanted: list[Any], found: list[Any], key: str, path: str) -> Iterator[Extra]:
    """What is inside of entries first, then entries, the last of them first: others keep their places."""
    by_key = {each[key]: each for each in wanted}
    for number, each in enumerate(found):
        if each.get(key) in by_key:
            yield from extras(by_key[each[key]], each, f"{path}/{number}")
    if path.rpartition("/")[2] in _WHOLE:
        for number, each in reversed(list(enumerate(found))):
            if each.get(key) not in by_key:
                yield Extra(f"{path}/{number}", f"{path}/{number}/{key}", each.get(key))


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _names(entries: list[Any], key: str) -> bool:
    """Whether `key` tells the entries apart."""
    if not entries or not all(isinstance(e, Mapping) and key in e for e in entries):
        return False
    return len({str(e[key]) for e in entries}) == len(entries)


def _same(wanted: Any, found: Any, path: str) -> bool:
    if wanted == found:
        return True
    if wanted in (False, 0, "", None) and found is None:
        return path.rpartition(".")[2] not in _TRUE_UNLESS_SAID
    if re.search(r"(requests|limits)\.|sizeLimit", path):
        return amount(wanted) == amount(found)
    return False


def amount(quantity: Any) -> float | None:
    """A Kubernetes quantity as a number; None for what is none."""
    match = _QUANTITY.fullmatch(str(quantity))
    return float(match[1]) * _FACTORS.get(match[2] or "", 1) if match else None


def last_editor(found: Mapping[str, Any], manager: str) -> str:
    """Who changed the object last without being Matcha or one of the cluster's own controllers."""
    newest = sorted(_edits(found, manager), key=lambda e: str(e.get("time")))
    return str(newest[-1].get("manager", "")) if newest else ""


def _edits(found: Mapping[str, Any], manager: str) -> list[Mapping[str, Any]]:
    entries = found.get("metadata", {}).get("managedFields") or ()
    others = [e for e in entries if e.get("manager") != manager and e.get("subresource") != "status"]
    return [e for e in others if is_other(e)]
