"""Why pods do not come up, in the words of a real scheduler, kubelet, container runtime and provisioner."""

from __future__ import annotations

import io
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from matcha.errors import ComponentFailed
from matcha.service import Resources
from matcha.targets.kubernetes import raising
from matcha.targets.kubernetes.secrets import Secrets
from matcha.views.live import Plain
from support.cluster import ClusterMatcha
from support.plain import web
from support.small_stack import SmallStack, with_env
from support.stores import cluster

pytestmark = pytest.mark.turn(1)

NOWHERE = "localhost:1/nobody/has:this"  # no registry listens there


@pytest.fixture
def hopeless(kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallStack]:
    """Waits a moment only for what hardly ever mends itself."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(raising, "HARDLY", 3.0)
    monkeypatch.setattr(raising, "EVENTS", 0.5)
    namespace = f"matcha-test-{secrets.token_hex(3)}"
    admin = ClusterMatcha(tmp_path / "admin", tmp_path / "home", kubeconfig, namespace)
    admin.kubectl("create", "namespace", namespace)
    yield SmallStack(tmp_path, kubeconfig, namespace)
    admin.kubectl("delete", "namespace", namespace, "--wait=false")


def shown(stack: SmallStack) -> str:
    """What `matcha status` has to say of it: of several services of a component, the worst."""
    return "\n".join(stack.details().values())


def waited(display: str, title: str) -> str:
    """What the display says of it before its end."""
    before, failed, _ = display.partition(f"] {title}: failed: ")
    assert failed, display
    return "\n".join(re.findall(rf"\] {title}: (.*)", before))


def test_no_node_and_no_image_are_named_side_by_side(hopeless: SmallStack) -> None:
    """While they are waited for, and when they are given up."""
    hopeless.images = {"missing": NOWHERE}
    hopeless.services = (
        web("large", preferred=8081, resources=Resources(cpu=500, memory=64)),
        web("missing", preferred=8082, environment="missing"),
    )
    display = io.StringIO()
    with pytest.raises(ComponentFailed) as told:
        hopeless.provision(emit=Plain(display, {}).emit)
    large, missing = (waited(display.getvalue(), title) for title in ("Large", "Missing"))
    assert re.search(r"^no node takes it: .*Insufficient cpu.* \(\d+ s\)$", large, re.MULTILINE), large
    assert re.search(rf"^its image cannot be had: .* \({NOWHERE}\) \(\d+ s\)$", missing, re.MULTILINE), (
        missing
    )
    said = f"{told.value.message}\n{told.value.details}"
    assert "large did not come up: no node takes it: " in said and "Insufficient cpu" in said
    assert "missing did not come up: its image cannot be had: " in said and NOWHERE in said
    assert "Insufficient cpu" in shown(hopeless)


def test_a_crash_is_told_with_its_last_lines(hopeless: SmallStack) -> None:
    mended = web("broken", preferred=8081, secrets={"TOKEN": "broken-token"})  # which it prints
    hopeless.services = (with_env(mended, FAIL="no luck today"),)
    with pytest.raises(ComponentFailed) as told:
        hopeless.provision()
    assert told.value.message == "broken did not come up: broken ended with exit code 3."
    assert told.value.details.endswith("cannot go on: no luck today")
    assert told.value.resolution == "matcha logs broken"
    assert "broken ended with exit code 3" in shown(hopeless)
    logs = hopeless.logs("broken")
    assert ("broken", "cannot go on: no luck today") in logs
    token = Secrets(cluster(hopeless.kubeconfig, hopeless.namespace)).get("broken-token")
    assert token and token not in f"{told.value.details}{logs}"
    hopeless.services = (mended,)
    hopeless.provision()
    assert hopeless.status().healthy


def test_a_volume_that_nobody_makes_is_named(hopeless: SmallStack) -> None:
    hopeless.options = {"storage_class": "there-is-none"}
    with pytest.raises(ComponentFailed) as told:
        hopeless.provision()
    assert "its volume object-store is not there yet: " in told.value.message
    assert '"there-is-none" not found' in told.value.message
    assert told.value.resolution == "Mend what it names, then: matcha provision"
