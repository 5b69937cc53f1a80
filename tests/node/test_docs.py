"""docs/kubernetes.md does what it says: its commands run in order on a real node, and print what it shows."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from support.cluster import AUTHORITIES, ClusterMatcha
from support.pages import ROOT, Block, Reader, blocks, marked, python_folder

pytestmark = pytest.mark.turn(0)

PAGE = ROOT / "docs" / "kubernetes.md"
CODE = ROOT / "docs" / "your-code.md"  # whose script and rows the page has its reader take


class ClusterReader(Reader):
    """A reader with a cluster, whose pods trust what this machine trusts: the package index of a closed
    network is behind a certificate of its own.
    """

    def __init__(self, folder: Path, home: Path, kubeconfig: Path) -> None:
        super().__init__(folder, python_folder(), home)
        self._kubeconfig = kubeconfig

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, "KUBECONFIG": str(self._kubeconfig)}

    def do(self, block: Block) -> None:
        super().do(block)
        if block.title == "matcha.yaml":
            self._prepare(self.folder / block.title)

    def _prepare(self, file: Path) -> None:
        for other in blocks(CODE):
            if other.title in ("train.py", "rows.csv"):
                (file.parent / other.title).write_text(other.text)
        if AUTHORITIES.exists():
            loaded = YAML(typ="safe").load(file)
            loaded["targets"]["kubernetes"]["ca-bundle"] = str(AUTHORITIES)
            YAML().dump(loaded, file)


@pytest.fixture
def reader(kubeconfig: Path, tmp_path: Path) -> Iterator[ClusterReader]:
    made = ClusterReader(tmp_path / "page", tmp_path / "home", kubeconfig)
    yield made
    for file in (tmp_path / "page").rglob("matcha.yaml"):
        made.folder = file.parent
        code, printed = made.bash("matcha destroy --yes --delete-data")
        assert code == 0, printed


def test_the_page(reader: ClusterReader) -> None:
    reader.read(PAGE)


def test_the_role_on_the_page_is_made_and_bound(kubeconfig: Path, tmp_path: Path) -> None:
    """By the commands on the page, and then it allows what its table says."""
    [commands] = marked(__file__)
    [role] = [b for b in blocks(PAGE) if b.title == "role.yaml"]
    namespace = f"matcha-team-{secrets.token_hex(3)}"
    (tmp_path / "project").mkdir()
    admin = ClusterMatcha(tmp_path / "project", tmp_path / "home", kubeconfig, namespace)
    (tmp_path / "role.yaml").write_text(role.text)
    try:
        admin.shell(commands.text.replace("matcha-team", namespace), where=tmp_path)
        assert admin.kubectl("auth", "can-i", "create", "deployments", "--as=ada").strip() == "yes"
        assert admin.kubectl("auth", "can-i", "create", "roles", "--as=ada", code=1).strip() == "no"
    finally:
        admin.kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found", code=None)
