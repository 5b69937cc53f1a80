"""What can be done with a stack in a cluster whose stack file is not understood."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightkube.resources.core_v1 import Pod

from matcha import api, spec
from matcha.api import _whereabouts
from matcha.api._project import Project
from matcha.errors import StackFileError
from matcha.events import Event
from matcha.targets.kubernetes import KubernetesOptions, KubernetesTarget
from support.faults import Fault, FaultyProxy
from support.small_stack import SmallStack, there
from support.stores import RECORD, cluster, store, take

HEAD = "target: kubernetes\n"
NOWHERE = "targets: {kubernetes: {kubeconfig: %s, namespace: elsewhere, storage-size: 12Q}}\n"
# What stands in the file, where `%s` stands for the options that lead to the stack.
BROKEN = (
    "components: [\n",
    HEAD + "nonsense: 1\ntargets: {kubernetes: {%s}}\n",
    HEAD + "targts: {kubernetes: {%s}}\n",
    HEAD + "targets: {kubernets: {%s}}\n",
    HEAD + "targets: 3\n",
    HEAD + "targets: {kubernetes: {%s, storage-size: 12Q}}\n",
    HEAD + "targets: {kubernetes: {%s, ca-bundle: none.pem}}\n",
    "taget: kubernetes\ntargets: {kubernetes: {%s}}\n",
)


def broken(stack: SmallStack, text: str) -> str:
    """What is said of it."""
    leads = f"kubeconfig: {stack.kubeconfig}, namespace: {stack.namespace}"
    (stack.folder / "matcha.yaml").write_text(text.replace("%s", leads))
    with pytest.raises(StackFileError) as refused:
        api.plan(stack.folder)
    return refused.value.message


@pytest.fixture
def provisioned(stack: SmallStack) -> SmallStack:
    stack.provision()
    return stack


def test_a_broken_file_is_in_the_way_of_neither_status_nor_stop_nor_destroy(
    provisioned: SmallStack, api_server: Path
) -> None:
    stack = provisioned
    for text in BROKEN:
        wrong = broken(stack, text)
        found = api.status(stack.folder)
        assert (found.target, found.phase, found.healthy) == ("kubernetes", "ready", True), text
        assert found.notes[0].startswith(f"{wrong}. Going by what is recorded of the stack"), text
    broken(stack, BROKEN[0])
    assert f"(kubeconfig {stack.kubeconfig}, namespace {stack.namespace}, context " in found_note(stack)
    api.stop(stack.folder)
    assert names(api_server, stack.namespace) == []
    held = store(api_server, stack.namespace)
    take(held, "provision")
    unlocked = api.force_unlock(stack.folder)
    assert unlocked
    assert unlocked.operation == "provision"
    assert api.destroy(stack.folder, delete_data=True).removed
    assert there(api_server, stack.namespace) == set()
    assert not (stack.folder / ".matcha" / "whereabouts.json").exists()
    with pytest.raises(StackFileError):
        api.status(stack.folder)


def names(api_server: Path, namespace: str) -> list[str]:
    """Of pods."""
    return [p.metadata.name for p in cluster(api_server, namespace).client.list(Pod)]


def found_note(stack: SmallStack) -> str:
    said: list[Event] = []
    api.force_unlock(stack.folder, emit=said.append)
    return said[0].message


def test_a_file_that_leads_elsewhere_is_not_overruled_by_the_note(
    provisioned: SmallStack, api_server: Path
) -> None:
    stack = provisioned
    pods = set(names(api_server, stack.namespace))
    for text in (HEAD + NOWHERE, HEAD + "targets: {kubernetes: {storage-size: 12Q}}\n"):
        broken(stack, text.replace("%s", str(stack.kubeconfig)))
        for act in (api.status, api.stop, api.force_unlock, api.destroy):
            with pytest.raises(StackFileError):
                act(stack.folder)
    assert set(names(api_server, stack.namespace)) == pods


def test_a_default_is_not_taken_for_what_cannot_be_read(
    api_server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack in the default namespace of the current context must not go for a brace missing elsewhere."""
    monkeypatch.setenv("KUBECONFIG", str(api_server))
    another = store(api_server, "matcha")
    token = take(another)
    another.write(RECORD, token)
    another.release(token)
    for text in BROKEN[:5]:
        (tmp_path / "matcha.yaml").write_text(text.replace("%s", "namespace: mine"))
        for act in (api.status, api.stop, api.force_unlock, api.destroy):
            with pytest.raises(StackFileError):
                act(tmp_path, target="kubernetes")
    assert another.read()
    (tmp_path / "matcha.yaml").write_text(HEAD + "components: {nonsense: 1}\n")
    assert api.status(tmp_path).notes
    token = take(another)
    another.delete(token)
    another.release(token)


def test_a_note_stays_whatever_is_done_with_another_stack(provisioned: SmallStack) -> None:
    stack, said = provisioned, list[Event]()
    note = stack.folder / ".matcha" / "whereabouts.json"
    before = note.read_bytes()
    another = HEAD + f"targets: {{kubernetes: {{kubeconfig: {stack.kubeconfig}, namespace: another}}}}\n"
    (stack.folder / "matcha.yaml").write_text(another)
    assert api.destroy(stack.folder, emit=said.append).nothing
    place = f"target kubernetes, kubeconfig {stack.kubeconfig}, namespace {stack.namespace}, context "
    assert place in said[-1].message
    local(stack.folder)
    assert api.destroy(stack.folder, target="local", delete_data=True).removed
    assert api.destroy(stack.folder, target="local", emit=said.append).nothing
    assert place in said[-1].message
    assert note.read_bytes() == before
    broken(stack, BROKEN[0])
    assert api.destroy(stack.folder, delete_data=True).removed
    assert not note.exists()


def local(folder: Path) -> None:
    """A stack with nothing in it, provisioned in the project's folder."""
    roles = ("pipeline", "model-deployer", "monitoring", "experiment-tracker", "data-version-control")
    (folder / "matcha.yaml").write_text(f"components: {{{', '.join(f'{r}: null' for r in roles)}}}\n")
    api.provision(folder, target="local")


def test_of_two_stacks_a_broken_file_has_to_say_which_one(provisioned: SmallStack) -> None:
    stack = provisioned
    local(stack.folder)
    broken(stack, BROKEN[0])
    for act in (api.status, api.stop, api.force_unlock, api.destroy):
        with pytest.raises(StackFileError):
            act(stack.folder)
    assert api.status(stack.folder, target="kubernetes").target == "kubernetes"
    assert api.status(stack.folder, target="local").target == "local"
    api.destroy(stack.folder, target="local", delete_data=True)
    assert api.status(stack.folder).target == "kubernetes"


def test_the_note_leads_there_whatever_kubeconfig_is_the_usual_one(
    provisioned: SmallStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stack = provisioned
    monkeypatch.setenv("KUBECONFIG", str(stack.kubeconfig))
    state = stack.target().store().read()
    assert state
    target = KubernetesTarget(stack.folder, KubernetesOptions(namespace=stack.namespace))
    opened = Project(
        stack.folder,
        spec.Stack(
            name="small", target="kubernetes", target_is_written=True, components={}, targets={}, models={}
        ),
        target,
    )
    _whereabouts.keep(opened, state)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "another"))
    (stack.folder / "matcha.yaml").write_text(BROKEN[0])
    assert api.status(stack.folder).phase == "ready"


def test_a_cluster_that_cannot_be_asked_does_not_hide_what_is_wrong_with_the_file(
    provisioned: SmallStack, proxy: FaultyProxy, tmp_path: Path
) -> None:
    stack = provisioned
    wrong = broken(stack, BROKEN[0])
    proxy.add(Fault("GET", "/configmaps/matcha-state", status=401, times=1000))
    with pytest.raises(StackFileError) as told:
        api.status(stack.folder)
    assert told.value.message == wrong
    assert "What is recorded of the stack could not be asked for: The cluster" in told.value.details
    lost = f"targets: {{kubernetes: {{kubeconfig: {tmp_path}/lost}}}}\nnonsense: 1\n"
    (stack.folder / "matcha.yaml").write_text(HEAD + lost)
    with pytest.raises(StackFileError, match="unknown key") as told:
        api.destroy(stack.folder)
    assert f"{tmp_path}/lost" in told.value.details


def test_a_gitignore_of_the_user_s_stays(stack: SmallStack) -> None:
    ignore = stack.folder / ".matcha" / ".gitignore"
    ignore.parent.mkdir()
    ignore.write_text("*\n!kept\n")
    stack.provision()
    assert (stack.folder / ".matcha" / "whereabouts.json").exists()
    assert ignore.read_text() == "*\n!kept\n"


def test_a_note_of_a_stack_that_is_gone_leads_nowhere(provisioned: SmallStack) -> None:
    stack = provisioned
    note = (stack.folder / ".matcha" / "whereabouts.json").read_bytes()
    stack.destroy()
    stack.provision()
    (stack.folder / ".matcha" / "whereabouts.json").write_bytes(note)
    broken(stack, BROKEN[0])
    with pytest.raises(StackFileError):
        api.stop(stack.folder)
