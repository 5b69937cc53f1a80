"""DVC as a component: a remote in the object store."""

from __future__ import annotations

import re
from pathlib import Path

from matcha.access import Output
from matcha.components.dvc import COMPONENT
from support.access import FolderAccess

DVC = COMPONENT(COMPONENT.Options())


class ElsewhereAccess(FolderAccess):
    """Of a stack whose object store is on the network."""

    def store(self, area: str) -> str:
        return f"s3://bucket/{area}"


def held(access: FolderAccess) -> list[tuple[int, str]]:
    return [(h.count, h.what) for h in DVC.holdings(access)]


def test_it_needs_an_area_and_no_process() -> None:
    assert DVC.services(()) == ()
    assert DVC.stores() == ("datasets",)
    assert DVC.setup_digest() == ""


def test_its_version_is_the_locked_one() -> None:
    (environment,) = DVC.environments()
    assert re.search(rf"^dvc=={re.escape(DVC.version)} ", environment.lock.read_text(), re.MULTILINE)


def test_outputs_and_client_variables(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path)
    assert DVC.outputs(access) == {"flavor": Output("dvc"), "remote-url": Output(access.store("datasets"))}
    assert DVC.client_env(access)["MATCHA_DVC_REMOTE"].value == access.store("datasets")


def test_pushed_objects_are_counted(tmp_path: Path) -> None:
    access = FolderAccess(tmp_path)
    assert held(access) == []
    for name in ("26/ab", "12/cd.dir", "12/ef.part.tmp"):
        place = Path(access.store("datasets")) / "files" / "md5" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    assert held(access) == [(2, "dataset objects")]


def test_what_cannot_be_counted_is_not_zero(tmp_path: Path) -> None:
    assert held(ElsewhereAccess(tmp_path)) == [(-1, "dataset objects")]
    access = FolderAccess(tmp_path)
    (Path(access.store("datasets")) / "files").touch()
    assert held(access) == [(-1, "dataset objects")]
