"""The services of a stack as its record has them, for who only looks. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from matcha.service import Database, Environment, Service

DESCRIPTION = "services"  # the key in the state's facts
LENT = "lent"  # the key of areas of the object store that jobs use
NO_LOCK = Path(os.devnull)  # of an environment that is known by its name only


class _Kept(msgspec.Struct):
    """`images` of the environments by name; empty for those that are archives."""

    services: tuple[Service, ...] = ()
    images: dict[str, str] = {}


def described(
    services: Sequence[Service], environments: Sequence[Environment], lent: Sequence[str] = ()
) -> dict[str, str]:
    """The facts that `recorded` and `lent` read."""
    kept = _Kept(tuple(map(_remember, services)), {e.name: e.image for e in environments})
    return {DESCRIPTION: msgspec.json.encode(kept, enc_hook=str).decode(), LENT: " ".join(lent)}


def recorded(facts: Mapping[str, str]) -> tuple[Sequence[Service], Sequence[Environment]] | None:
    """None where nothing was described yet."""
    if DESCRIPTION not in facts:
        return None
    kept = msgspec.json.decode(facts[DESCRIPTION], type=_Kept, dec_hook=lambda kind, value: kind(value))
    return kept.services, [Environment(name=n, lock=NO_LOCK, image=i) for n, i in kept.images.items()]


def lent(facts: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(facts.get(LENT, "").split())


def _remember(service: Service) -> Service:
    """As much of a service as what others reach it by, and it reaches others."""
    databases = tuple(Database(d.name) for d in service.databases)
    return msgspec.structs.replace(
        service, command=(), env={}, files={}, live={}, code=(), databases=databases
    )
