"""Destroying a stack: what goes, what stays, what is said of it; killed ones are finished by another."""

from __future__ import annotations

import functools
import os
import random
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lightkube import Client
from lightkube.models.core_v1 import ResourceQuotaSpec
from lightkube.models.meta_v1 import ObjectMeta, OwnerReference
from lightkube.resources.core_v1 import ConfigMap, Namespace, PersistentVolumeClaim, ResourceQuota, Secret

from matcha.errors import MatchaError, NotProvisioned
from matcha.events import Event
from matcha.host.files import private_folder, write_changed
from matcha.targets.kubernetes import proof, removal
from matcha.targets.kubernetes.forward.config import Config
from matcha.targets.kubernetes.kubeconfig import load_config
from matcha.targets.kubernetes.links import Links
from matcha.targets.kubernetes.names import KEEPS, MANAGED_BY, MINE, SECRETS, STATE
from matcha.targets.kubernetes.store import CONTENT
from support.faults import Fault, FaultyProxy, faulty
from support.kubelet import kubelet
from support.small_stack import SmallStack, namespace_is_gone, there, usual, with_database
from support.stores import cluster, elsewhere, take

RUN = """
import sys
from pathlib import Path
from support.small_stack import SmallStack
folder, kubeconfig, namespace, verb = sys.argv[1:]
getattr(SmallStack(Path(folder), Path(kubeconfig), namespace), verb)()
"""
POINTS = 3


@pytest.fixture
def own(api_server: Path, tmp_path: Path, name: str) -> Iterator[SmallStack]:
    """In a namespace that Matcha makes."""
    with kubelet(api_server, name):
        yield SmallStack(tmp_path, api_server, name)
    cluster(api_server, name).delete(Namespace, name)


def test_everything_goes_and_the_namespace_that_matcha_made(api_server: Path, own: SmallStack) -> None:
    own.services = (with_database(usual()[0]), usual()[1])
    own.archive = True
    made = own.provision()
    assert made.changed
    before = there(api_server, own.namespace)
    assert {n.partition("/")[0] for n in before} >= {
        "Job",
        "CronJob",
        "Pod",
        "PersistentVolumeClaim",
        "Secret",
    }
    destroyed = own.destroy()
    assert "PersistentVolumeClaim mysql" in destroyed.removed
    assert there(api_server, own.namespace) == set()
    assert namespace_is_gone(api_server, own.namespace)
    assert own.destroy().nothing


def forwarding(stack: SmallStack, stack_id: str, namespace: str) -> Links:
    """What an earlier stack left on this machine."""
    options = stack.target()._options
    links = Links(stack_id, options)
    config = Config(
        kubeconfig=options.kubeconfig,
        context=load_config(options).context_name,
        namespace=namespace,
        health=0,
        environment="",
        forwards=(),
    )
    write_changed(private_folder(links.home) / "forward.json", msgspec.json.encode(config))
    return links


def test_forwards_to_a_stack_that_somebody_else_destroyed_go_too(own: SmallStack) -> None:
    """As they stand on a colleague's machine: no record tells of them any more."""
    links = forwarding(own, "0123456789abcdef", own.namespace)
    other = forwarding(own, "fedcba9876543210", "another")
    [finding] = [f for f in own.target().examine(None, [], fix=False) if f.check == "forwards"]
    assert not finding.ok and finding.fixable and str(links.home) in finding.message
    [said] = own.destroy().removed
    assert str(links.home) in said
    assert links.leftovers() == [] and other.home.exists()
    assert own.destroy().nothing


def test_the_doctor_says_of_such_forwards_that_they_were_taken_away(own: SmallStack) -> None:
    links = forwarding(own, "0123456789abcdef", own.namespace)
    [mended] = [f for f in own.target().examine(None, [], fix=True) if f.check == "forwards"]
    assert mended.fixed and links.leftovers() == []
    assert mended.message == f"The forwards to a stack that was destroyed were taken away ({links.home})."


def test_forwards_to_a_stack_whose_record_was_lost_make_room(api_server: Path, own: SmallStack) -> None:
    links = forwarding(own, "0123456789abcdef", own.namespace)
    own.provision()
    assert links.leftovers() == []
    again = forwarding(own, "fedcba9876543210", own.namespace)
    own.destroy()
    assert again.leftovers() == []


def test_a_record_that_cannot_be_read_condemns_no_forwards(api_server: Path, stack: SmallStack) -> None:
    forwarding(stack, "0123456789abcdef", stack.namespace)
    cluster(api_server, stack.namespace).create(
        ConfigMap(metadata=ObjectMeta(name=STATE), data={CONTENT: "{"})
    )
    assert [f for f in stack.target().examine(None, [], fix=True) if f.check == "forwards"] == []


def test_a_namespace_that_matcha_did_not_make_stays(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    stack.destroy()
    assert there(api_server, stack.namespace) == set()
    assert not namespace_is_gone(api_server, stack.namespace)


def test_what_others_keep_in_a_namespace_of_matchas_is_not_lost_with_it(
    api_server: Path, own: SmallStack
) -> None:
    own.provision()
    admin = cluster(api_server, own.namespace)
    others = Client(admin.config, namespace=own.namespace, field_manager="kubectl-create")
    others.create(Secret(metadata=ObjectMeta(name="bucket-keys")))
    others.close()
    events: list[Event] = []
    own.destroy(emit=events.append)
    [note] = [e.message for e in events if e.phase == "note"]
    assert "stays" in note and "Secret bucket-keys" in note
    assert admin.get(Secret, "bucket-keys")
    admin.delete(Secret, "bucket-keys")


def test_what_belongs_to_something_of_another_kind_is_not_lost(api_server: Path, own: SmallStack) -> None:
    """An operator's database: all that is seen of it is what it owns."""
    own.provision()
    admin = cluster(api_server, own.namespace)
    owner = OwnerReference(apiVersion="db.example.org/v1", kind="Postgres", name="crm", uid="1-2-3")
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    volume = PersistentVolumeClaim.from_dict({"metadata": {"name": "crm"}, "spec": claim})
    volume.metadata.ownerReferences = [owner]
    admin.client.create(volume)
    events: list[Event] = []
    own.destroy(emit=events.append)
    [note] = [e.message for e in events if e.phase == "note"]
    assert note.endswith("it holds what has not Matcha's label: PersistentVolumeClaim crm.")
    found = admin.get(PersistentVolumeClaim, "crm")
    assert found and found.metadata and found.metadata.deletionTimestamp is None


def test_who_waits_for_the_lock_does_not_lose_its_stack_with_the_namespace(
    api_server: Path, own: SmallStack, through: tuple[FaultyProxy, Path]
) -> None:
    proxy, own.kubeconfig = through
    own.provision()
    waiting = elsewhere(api_server, own.namespace)
    seen: list[str] = []

    def tried() -> None:
        try:
            take(waiting)
        except MatchaError as error:
            seen.append(type(error).__name__)
        else:
            seen.append("taken")

    proxy.add(Fault("DELETE", f"/api/v1/namespaces/{own.namespace}?", strike=tried, status=503))
    own.destroy()
    assert seen == ["Locked"]
    assert namespace_is_gone(api_server, own.namespace)


def test_a_namespace_that_another_has_taken_over_stays(
    api_server: Path, own: SmallStack, through: tuple[FaultyProxy, Path]
) -> None:
    """The lock is lost after the record is gone: whoever holds it now is about to make a stack."""
    proxy, own.kubeconfig = through
    own.provision()
    other = elsewhere(api_server, own.namespace)

    def overtaken() -> None:
        other.break_lock()
        take(other)

    looking = Fault("GET", "/cronjobs", strike=overtaken, status=503)
    proxy.add(Fault("DELETE", "/configmaps/matcha-state", strike=lambda: proxy.add(looking) and None))
    own.destroy()
    assert looking.came.is_set()
    assert proxy.count("DELETE", f"/api/v1/namespaces/{own.namespace}?") == 0
    assert not namespace_is_gone(api_server, own.namespace)
    assert other.lock()


def test_the_proof_lists_every_kind(
    api_server: Path, stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also kinds that Matcha itself makes none of, but something in its stack may."""
    monkeypatch.setattr(proof, "DERIVED_SECONDS", 3.0)
    stack.provision()
    admin = cluster(api_server, stack.namespace)
    made = ObjectMeta(name="small", labels=dict(MINE))
    admin.create(ResourceQuota(metadata=made, spec=ResourceQuotaSpec(hard={"pods": "100"})))
    with pytest.raises(MatchaError, match="Not everything could be removed") as told:
        stack.destroy()
    assert told.value.details == "ResourceQuota small"
    admin.delete(ResourceQuota, "small")
    assert stack.destroy().nothing


ALWAYS = 10**6  # times


def with_quota(api_server: Path, stack: SmallStack) -> None:
    """Something that bears Matcha's label, and is of no kind that it makes."""
    stack.provision()
    made = ObjectMeta(name="small", labels=dict(MINE))
    quota = ResourceQuota(metadata=made, spec=ResourceQuotaSpec(hard={"pods": "100"}))
    cluster(api_server, stack.namespace).create(quota)


@pytest.mark.sweep(sample=("500", "dead"))
@pytest.mark.parametrize("status", [500, 503, 0], ids=["500", "503", "dead"])
def test_a_kind_that_cannot_be_listed_is_not_said_to_be_gone(
    api_server: Path, stack: SmallStack, proxy: FaultyProxy, status: int
) -> None:
    with_quota(api_server, stack)
    proxy.add(Fault("GET", "/resourcequotas?", status=status, times=ALWAYS))
    events: list[Event] = []
    destroyed = stack.destroy(emit=events.append)
    [note] = [e.message for e in events if e.phase == "note"]
    assert destroyed.unproved == (note,)
    why = "a fault of the test" if status else "Tried to list "
    assert note.startswith(f"ResourceQuota could not be listed ({why}")
    assert note.endswith(
        "of these it was not checked that nothing is left. To look later: "
        f"kubectl get resourcequotas -n {stack.namespace} -l app.kubernetes.io/managed-by=matcha"
    )


@pytest.mark.parametrize(("part", "status"), [("/apis", 503), ("/api/v1", 0), ("/resourcequotas?", 500)])
def test_what_the_proof_asks_is_asked_again(
    api_server: Path,
    stack: SmallStack,
    proxy: FaultyProxy,
    part: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proof, "DERIVED_SECONDS", 0.0)
    with_quota(api_server, stack)
    fault = proxy.add(Fault("GET", part, status=status, times=2, whole="?" not in part))
    with pytest.raises(MatchaError, match="Not everything could be removed") as told:
        stack.destroy()
    assert fault.times == 0
    assert "ResourceQuota small" in told.value.details.splitlines()


@pytest.mark.parametrize("part", ["/apis", "/api/v1"])
def test_a_part_of_the_api_that_does_not_answer_is_said(
    api_server: Path, stack: SmallStack, proxy: FaultyProxy, part: str
) -> None:
    """Of the kinds that Matcha makes itself nothing is left, whatever does not answer."""
    with_quota(api_server, stack)
    proxy.add(Fault("GET", part, status=503, times=ALWAYS, whole=True))
    proxy.requests.clear()
    if part == "/apis":
        cluster(api_server, stack.namespace).delete(ResourceQuota, "small")
    destroyed = stack.destroy()
    [said] = destroyed.unproved
    assert said.startswith(
        f"{part} does not say which kinds it has (a fault of the test): of these it was not"
    )
    listed = {path.partition("?")[0].rpartition("/")[2] for _, path in proxy.requests if "managed-by" in path}
    assert {"pods", "deployments", "leases"} <= listed


def test_the_proof_does_without_what_does_not_answer(
    api_server: Path, stack: SmallStack, proxy: FaultyProxy
) -> None:
    """Such as an API of an extension whose server is down; it is said."""
    stack.provision()
    proxy.add(Fault("GET", "/apis/resource.k8s.io/v1", status=503, times=ALWAYS))
    proxy.add(Fault("GET", "/limitranges?", status=403, times=ALWAYS))
    proxy.requests.clear()
    events: list[Event] = []
    destroyed = stack.destroy(emit=events.append)
    notes = [e.message for e in events if e.phase == "note"]
    assert notes == [*destroyed.unproved]
    silent, closed = notes
    assert silent.startswith("/apis/resource.k8s.io/v1 does not say which kinds it has (a fault of the test)")
    assert closed == (
        "You may not list LimitRange: of these it was not checked that nothing is left. An administrator "
        f"can: kubectl get limitranges -n {stack.namespace} -l app.kubernetes.io/managed-by=matcha"
    )
    kinds = {path.partition("?")[0].rpartition("/")[2] for _, path in proxy.requests if "managed-by" in path}
    assert {"endpointslices", "ingresses", "endpoints", "resourcequotas"} <= kinds
    assert not {"events", "resourceclaims"} & kinds


def test_data_stays_whoever_took_off_the_label_that_says_so(api_server: Path, stack: SmallStack) -> None:
    """A volume, and what opens what is in it."""
    stack.provision()
    admin, off = cluster(api_server, stack.namespace), {"metadata": {"labels": {KEEPS: None}}}
    admin.patch(PersistentVolumeClaim, "back-data", off)
    admin.patch(Secret, SECRETS, off)
    kept = {"PersistentVolumeClaim back-data", "PersistentVolumeClaim object-store", f"Secret {SECRETS}"}
    assert not kept & {*stack.target().belongings(delete_data=False)}
    destroyed = stack.destroy(delete_data=False)
    assert set(destroyed.kept) == kept
    assert there(api_server, stack.namespace) == {name.replace(" ", "/") for name in kept}
    stack.destroy()
    assert there(api_server, stack.namespace) == set()


@pytest.mark.parametrize("delete_data", [True, False], ids=["all", "not the data"])
def test_what_bears_matchas_label_no_more_is_left_and_named(
    api_server: Path, own: SmallStack, delete_data: bool
) -> None:
    """Somebody took it off; a claim holds data."""
    own.provision()
    admin, off = cluster(api_server, own.namespace), {"metadata": {"labels": {MANAGED_BY: None}}}
    admin.patch(PersistentVolumeClaim, "back-data", off)
    admin.patch(ConfigMap, "front-files", off)
    events: list[Event] = []
    destroyed = own.destroy(delete_data=delete_data, emit=events.append)
    [said] = destroyed.unproved
    assert said == (
        "Left, for Matcha made it but its label app.kubernetes.io/managed-by is off: ConfigMap/front-files, "
        "PersistentVolumeClaim/back-data. Where it may go, data included: "
        f"kubectl delete -n {own.namespace} configmap/front-files persistentvolumeclaim/back-data"
    )
    assert said in [e.message for e in events if e.phase == "note"]
    found = admin.get(PersistentVolumeClaim, "back-data")
    assert found and found.metadata and found.metadata.deletionTimestamp is None
    assert not namespace_is_gone(api_server, own.namespace)


def test_data_stays_until_it_is_to_go(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    admin = cluster(api_server, stack.namespace)
    secret = admin.get(Secret, SECRETS)
    destroyed = stack.destroy(delete_data=False)
    kept = {"PersistentVolumeClaim/back-data", "PersistentVolumeClaim/object-store", f"Secret/{SECRETS}"}
    assert there(api_server, stack.namespace) == kept
    assert {name.replace(" ", "/") for name in destroyed.kept} == kept
    with pytest.raises(NotProvisioned) as told:
        stack.status()
    assert told.value.message == "The stack was destroyed, and its data kept."
    assert set(told.value.details.splitlines()[:-1]) == {name.replace("/", " ") for name in kept}
    assert "matcha destroy --delete-data removes it" in told.value.details
    assert told.value.resolution == "matcha provision"
    again = stack.destroy(delete_data=False)
    assert again.nothing and set(again.kept) == set(destroyed.kept)
    used = "Data of an earlier stack is here and is used again: back-data, object-store. "
    assert any(note.startswith(used) for note in stack.plan().notes), stack.plan().notes
    stack.provision()
    assert not any("earlier stack" in note for note in stack.plan().notes)
    reread = admin.get(Secret, SECRETS)
    assert secret and reread and reread.data == secret.data
    stack.destroy()
    assert there(api_server, stack.namespace) == set()


@pytest.mark.parametrize("delete_data", [True, False], ids=["all", "not the data"])
def test_nothing_of_a_stack_stays_in_the_project_folder(stack: SmallStack, delete_data: bool) -> None:
    """What is not of the stack does: the files of the user, and matcha.yaml."""
    stack.provision()
    state = stack.target().store().read()
    assert state
    made = stack.target().access(state).folder("client")
    assert made.stat().st_mode & 0o777 == 0o700
    assert (stack.folder / ".matcha" / ".gitignore").read_text() == "*\n"
    (made / "login").write_text("secret")
    for name in ("matcha.yaml", "train.py"):
        (stack.folder / name).touch()
    stack.destroy(delete_data=delete_data)
    assert {path.name for path in stack.folder.iterdir()} == {"matcha.yaml", "train.py", "plain.lock"}


def test_what_a_local_stack_has_in_the_project_folder_stays(stack: SmallStack) -> None:
    stack.provision()
    state = stack.target().store().read()
    assert state
    stack.target().access(state).folder("client")
    local = private_folder(stack.folder / ".matcha" / "stack" / "folders" / "zenml-client")
    stack.destroy()
    assert local.is_dir()
    assert {path.name for path in (stack.folder / ".matcha").iterdir()} == {".gitignore", "stack"}


def test_the_folder_of_a_stack_that_went_elsewhere_goes_with_the_next_destroy(
    tmp_path: Path, stack: SmallStack
) -> None:
    stack.provision()
    other = SmallStack(private_folder(tmp_path / "teammate"), stack.kubeconfig, stack.namespace)
    state = other.target().store().read()
    assert state
    other.target().access(state).folder("client")
    stack.destroy()
    other.destroy()
    assert not (other.folder / ".matcha").exists()


def test_a_stack_whose_record_is_lost_is_named_in_few_lines(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    cluster(api_server, stack.namespace).delete(ConfigMap, STATE)
    with pytest.raises(NotProvisioned, match="The record of this project's stack is gone") as told:
        stack.status()
    lines = told.value.details.splitlines()
    then = lines.index("matcha provision takes them over; matcha destroy removes them.")
    assert then == 13
    assert re.fullmatch(r"and \d+ more", lines[12])
    *kept, last = lines[then + 1 :]
    assert last == "matcha destroy --delete-data removes it."
    assert kept
    assert kept == list(stack.target().kept())
    assert not {*kept} & {*stack.target().belongings(delete_data=False)}


def test_a_finalizer_that_hangs_is_named(
    api_server: Path, stack: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.provision()
    admin = cluster(api_server, stack.namespace)
    held = {"metadata": {"finalizers": ["example.org/backup"]}}
    admin.patch(ConfigMap, "front-files", held)
    monkeypatch.setattr(removal, "GONE_SECONDS", 5.0)
    with pytest.raises(MatchaError) as told:
        stack.destroy()
    assert told.value.details == "ConfigMap front-files (waits for example.org/backup)"
    assert told.value.resolution == "matcha destroy"
    admin.patch(ConfigMap, "front-files", {"metadata": {"finalizers": None}})
    stack.destroy()
    assert there(api_server, stack.namespace) == set()


def test_what_hangs_in_the_namespace_is_named(
    api_server: Path, own: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.provision()
    admin = cluster(api_server, own.namespace)
    admin.create(ConfigMap(metadata=ObjectMeta(name="theirs", finalizers=["example.org/theirs"])))
    monkeypatch.setattr(removal, "GONE_SECONDS", 15.0)
    with pytest.raises(MatchaError) as told:
        own.destroy()
    assert f"Namespace {own.namespace}: " in told.value.details
    assert "example.org/theirs" in told.value.details
    with pytest.raises(MatchaError) as told:  # also of one that finds nothing of the stack itself any more
        own.destroy()
    assert "example.org/theirs" in told.value.details
    admin.patch(ConfigMap, "theirs", {"metadata": {"finalizers": None}})


# -- killed -------------------------------------------------------------------------------------------------


def run(stack: SmallStack, verb: str, proxy: FaultyProxy, at: int = 0, *, after: bool = False) -> int:
    """The exit status of a process that does it, which the request of that number, if any, ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(stack.folder.parent), str(stack.kubeconfig), stack.namespace, verb],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    if at:
        strike = functools.partial(os.kill, process.pid, signal.SIGKILL)
        proxy.add(Fault("", skip=at - 1, strike=strike, after=after))
    try:
        return process.wait(120)
    finally:
        process.kill()
        process.wait()
        proxy.heal()


@pytest.fixture(scope="module")
def whole(api_server: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How many requests each takes that nobody cuts off, in a namespace that Matcha makes."""
    folder, name = tmp_path_factory.mktemp("whole"), f"test-{secrets.token_hex(4)}"
    found = {}
    with faulty(api_server, folder) as (counting, kubeconfig), kubelet(api_server, name):
        made = SmallStack(folder, kubeconfig, name)
        for verb in ("provision", "destroy"):
            before = len(counting.requests)
            assert run(made, verb, counting) == 0
            found[verb] = len(counting.requests) - before
    print("requests:", found)
    return found


@pytest.mark.sweep(sample=("1",))
@pytest.mark.parametrize("point", range(POINTS))
def test_a_killed_run_is_finished_by_another(
    api_server: Path,
    through: tuple[FaultyProxy, Path],
    tmp_path: Path,
    name: str,
    whole: dict[str, int],
    point: int,
) -> None:
    """A third of the way at a time, and within it anywhere. The namespace is Matcha's, and goes as well."""
    proxy, kubeconfig = through
    chosen = random.Random()
    after = chosen.random() < 0.5

    def cut(verb: str) -> None:
        at = 1 + int(whole[verb] * (point + chosen.random()) / POINTS)
        print(verb, "killed at", at, "of", whole[verb], "after" if after else "before")
        before = len(proxy.requests)
        killed = run(stack, verb, proxy, at, after=after)
        took = len(proxy.requests) - before  # of waits: a few more or less than the time before
        assert killed == -signal.SIGKILL or (killed == 0 and took < at), (verb, killed, took, at)

    with kubelet(api_server, name):
        stack = SmallStack(tmp_path, kubeconfig, name)
        cut("provision")
        stack.provision()
        assert stack.plan().steps == ()
        cut("destroy")
        stack.destroy()
        assert there(api_server, name) == set()
        assert namespace_is_gone(api_server, name)


def test_a_half_made_stack_is_destroyed(api_server: Path, stack: SmallStack, proxy: FaultyProxy) -> None:
    assert run(stack, "provision", proxy, 50) == -signal.SIGKILL
    assert there(api_server, stack.namespace) != set()
    stack.destroy()
    assert there(api_server, stack.namespace) == set()
