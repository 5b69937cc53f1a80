"""Whether what is in the cluster is what was asked for. Pure, on plain data.

Everything that a manifest says has to be there; what the cluster or others added beside it does not matter.
Lists whose entries have names are compared by name, as server-side apply merges them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_KEYS = ("name", "mountPath", "containerPort", "port", "type", "key")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_FACTORS = {
    **{"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    **{"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40},
}
# A merged list loses entries that are no longer wanted only by being applied again; these are whole.
_WHOLE = frozenset({"env", "volumes", "volumeMounts", "containers", "initContainers", "args", "command"})


def differences(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """Paths at which `found` is not as `wanted`."""
    if isinstance(wanted, Mapping):
        yield from _mapping(wanted, found, path)
    elif isinstance(wanted, list):
        yield from _list(wanted, found, path)
    elif not _same(wanted, found, path):
        yield path


def _mapping(wanted: Mapping[str, Any], found: Any, path: str) -> Iterator[str]:
    if not isinstance(found, Mapping):
        if any(wanted.values()):
            yield path
        return
    for name, value in wanted.items():
        yield from differences(value, found.get(name), f"{path}.{name}" if path else name)


def _list(wanted: list[Any], found: Any, path: str) -> Iterator[str]:
    found = found if isinstance(found, list) else []
    key = next((k for k in _KEYS if _names(wanted, k)), None)
    name = path.rpartition(".")[2]
    if len(found) < len(wanted) or (len(found) > len(wanted) and (key is None or name in _WHOLE)):
        yield path
        return
    by_key = {f.get(key): f for f in found if isinstance(f, Mapping)} if key else {}
    for number, each in enumerate(wanted):
        other = by_key.get(each[key]) if key else found[number]
        yield from differences(each, other, f"{path}[{each[key] if key else number}]")


def _names(entries: list[Any], key: str) -> bool:
    """Whether `key` tells the entries apart."""
    if not entries or not all(isinstance(e, Mapping) and key in e for e in entries):
        return False
    return len({str(e[key]) for e in entries}) == len(entries)


def _same(wanted: Any, found: Any, path: str) -> bool:
    if wanted == found or (wanted in (False, 0, "", None) and found is None):
        return True
    if re.search(r"(requests|limits)\.|sizeLimit", path):
        return amount(wanted) == amount(found)
    return False


def amount(quantity: Any) -> float | None:
    """A Kubernetes quantity as a number; None for what is none."""
    match = _QUANTITY.fullmatch(str(quantity))
    return float(match[1]) * _FACTORS.get(match[2] or "", 1) if match else None


def foreign_owners(found: Mapping[str, Any], manager: str) -> list[str]:
    """Others who applied fields of the object, by the record that the cluster keeps of it."""
    entries = found.get("metadata", {}).get("managedFields") or ()
    return sorted(
        {e["manager"] for e in entries if e.get("operation") == "Apply" and e.get("manager") != manager}
    )


def last_editor(found: Mapping[str, Any], manager: str) -> str:
    """Who changed the object last without being Matcha or one of the cluster's own controllers."""
    entries = found.get("metadata", {}).get("managedFields") or ()
    others = [e for e in entries if e.get("manager") != manager and not e.get("subresource")]
    others = [e for e in others if not str(e.get("manager")).startswith(("kube-", "k3s", "kubelet"))]
    newest = sorted(others, key=lambda e: str(e.get("time")))
    return str(newest[-1].get("manager", "")) if newest else ""
