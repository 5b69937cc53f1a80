"""DVC as a component: no service, a remote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import msgspec

from matcha.access import Access, Output
from matcha.component import Component, Holding
from matcha.service import Environment

HERE = Path(__file__).resolve().parent
VERSION = "3.67.1"
AREA = "datasets"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """DVC has none."""


class DVC(Component):
    """An area of the stack's object store that DVC pushes to and pulls from."""

    role = "data-version-control"
    flavor = "dvc"
    clients = ("dvc",)
    title = "DVC"
    version = VERSION
    Options: ClassVar[type[msgspec.Struct]] = Options

    def environments(self) -> tuple[Environment, ...]:
        return (Environment(name="dvc", lock=HERE / "requirements.lock"),)

    def stores(self) -> tuple[str, ...]:
        return (AREA,)

    def outputs(self, access: Access) -> Mapping[str, Output]:
        return {"flavor": Output(self.flavor), "remote-url": Output(access.store(AREA))}

    def client_env(self, access: Access) -> Mapping[str, Output]:
        return {"MATCHA_DVC_REMOTE": Output(access.store(AREA)), "DVC_NO_ANALYTICS": Output("true")}

    def holdings(self, access: Access) -> tuple[Holding, ...]:
        remote = access.store(AREA)
        count = -1 if "://" in remote else _objects(remote)
        return (Holding(count, "dataset objects"),) if count else ()


def _objects(remote: str) -> int:
    """Files that DVC pushed; -1 where the folder cannot be read."""

    def give_up(error: OSError) -> None:
        raise error

    try:
        walk = os.walk(Path(remote) / "files", onerror=give_up)
        # What DVC is still writing has another ending; a killed push leaves it.
        return sum(1 for _, _, names in walk for name in names if not name.endswith(".tmp"))
    except FileNotFoundError:
        return 0
    except OSError:
        return -1
