"""What the kubernetes target would apply: golden manifests, and what must hold of all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import ConfigMap
from ruamel.yaml import YAML

from matcha import __version__, planning, registry
from matcha.component import Component, Deployment
from matcha.errors import BadInput
from matcha.targets.kubernetes import (
    KubernetesOptions,
    archives,
    desired,
    doctor,
    foundations,
    look,
    opening,
    outside,
)
from matcha.targets.kubernetes.compare import amount
from matcha.targets.kubernetes.inside.matcha_pod.ending import Code
from matcha.targets.kubernetes.names import NOTES
from matcha.targets.kubernetes.pod import FINAL
from matcha.targets.kubernetes.setting import Setting, setting
from matcha.targets.kubernetes.target import KubernetesTarget
from matcha.views.documents import to_yaml_stream

CASES = Path(__file__).parent / "cases" / "kubernetes"
VERSION, INSTANCE = "app.kubernetes.io/version", "app.kubernetes.io/instance"
VERSIONS = ("1.30", "1.33", "1.35")
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "outside": {
        "storage": "s3://company/ml?endpoint=https://s3.example.org&region=eu-west-9",
        "storage-secret": "bucket-keys",
        "database": "mysql://db.example.org:3307?tls=true",
        "database-secret": "db-login",
        "run-as": "cluster",
    },
    "air-gapped": {
        "namespace": "ml",
        "registry-mirror": "mirror.example.org/hub",
        "pull-secret": "mirror-login",
        "index-url": "https://index.example.org/simple",
        "ca-bundle": str(CASES / "ca.pem"),
        "storage-class": "fast",
        "image": "team/python:3.12",
    },
    "exposed": {
        "expose": {
            "models": "models.example.org",
            "gateway-class": "envoy",
            "cluster-issuer": "letsencrypt",
            "gateway-namespace": "envoy-gateway-system",
            "gateway-addresses": ["10.8.0.0/16"],
        },
    },
}
OTHERS = (
    "Gateway",
    "HTTPRoute",
    "Certificate",
)  # whose schemas are not Kubernetes' own: tests/cluster has them


def components() -> list[Component]:
    return [cls(cls.Options()) for fs in registry.component_catalogue().values() for cls in fs.values()]


def options(name: str) -> KubernetesOptions:
    return msgspec.convert(OPTIONS[name], KubernetesOptions)


def stack(name: str = "defaults", deployments: tuple[Deployment, ...] = ()) -> Setting:
    wanted = planning.want(components(), deployments)
    return setting(options(name), wanted.services, wanted.environments, lent=planning.lent(components()))


def documents(name: str) -> list[dict[str, Any]]:
    wanted = planning.want(components(), ())
    target = KubernetesTarget(Path("/nowhere"), options(name))
    target.lend(planning.lent(components()))
    return list(target.manifests(wanted.services, wanted.environments))


def pods(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Pod templates anywhere in the document."""
    found = []
    if isinstance(document, dict):
        if "containers" in document:
            found.append(document)
        for value in document.values():
            found += pods(value)
    return found


def settled(document: dict[str, Any]) -> dict[str, Any]:
    """Without what changes with every edit of a component's code."""
    text = msgspec.json.encode(document).decode()
    text = text.replace(msgspec.json.encode(opening.program()).decode(), '"PROGRAM"')
    text = re.sub(r"code-[0-9a-f]{16}", "code-DIGEST", text)
    text = re.sub(r'"(matcha-ml/(?:digest|files))":"[0-9a-f]{16}"', r'"\1":"DIGEST"', text)
    text = re.sub(r"-[0-9a-f]{16}-{machine}\.tar\.gz", "-DIGEST-{machine}.tar.gz", text)
    text = text.replace(
        f'"app.kubernetes.io/version":"{__version__}"', '"app.kubernetes.io/version":"MATCHA"'
    )
    text = re.sub(r'"(build-[a-z-]+)-[0-9a-f]{8}"', r'"\1-DIGEST"', text)
    found: dict[str, Any] = msgspec.json.decode(text)
    if found["kind"] == "ConfigMap" and found["metadata"]["name"] == "code-DIGEST":
        found["data"] = "DATA"
    if found["kind"] == "ConfigMap" and "requirements.lock" in found["data"]:
        found["data"]["requirements.lock"] = "LOCK"
    for pod in pods(found):
        for volume in pod.get("volumes", ()):
            if volume.get("configMap", {}).get("name") == "code-DIGEST":
                volume["configMap"]["items"] = "ITEMS"
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_manifests_are_the_golden_ones(name: str) -> None:
    """`GOLDEN=write` writes them anew, to be read before they are committed."""
    path = CASES / f"{name}.yaml"
    found = [settled(document) for document in documents(name)]
    yaml = YAML()
    yaml.width = 4096  # ruamel.yaml breaks texts with backslashes when it folds them
    if os.environ.get("GOLDEN") == "write":
        with path.open("w") as file:
            yaml.dump_all(found, file)
    assert found == list(YAML(typ="safe").load_all(path.read_text()))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_manifests_as_shown_are_the_manifests(name: str) -> None:
    found = documents(name)
    assert list(YAML(typ="safe").load_all(to_yaml_stream(found))) == found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_manifests_fit_the_schemas_of_kubernetes(name: str, version: str) -> None:
    for document in documents(name):
        if document["kind"] not in OTHERS:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_pod_is_locked_down(name: str) -> None:
    found = [pod for document in documents(name) for pod in pods(document)]
    assert len(found) >= 6
    for pod in found:
        assert pod["automountServiceAccountToken"] is False
        assert pod["nodeSelector"]["kubernetes.io/os"] == "linux"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            resources = container["resources"]
            assert resources["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
            assert resources["limits"].keys() == {"memory", "ephemeral-storage"}
            for what, limit in resources["limits"].items():
                assert (amount(resources["requests"][what]) or 0) < (amount(limit) or 0)
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"  # its last words


@pytest.mark.parametrize("name", OPTIONS)
def test_images_are_pinned_and_come_from_the_mirror(name: str) -> None:
    mirror = OPTIONS[name].get("registry-mirror", "")
    for pod in (pod for document in documents(name) for pod in pods(document)):
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            image = container["image"]
            assert image.startswith(mirror)
            tag = image.rpartition(":")[2]
            assert image.endswith(OPTIONS[name].get("image", "-")) or re.match(r"v?\d+\.\d+\.\d+", tag)


def test_no_secret_stands_in_a_manifest() -> None:
    for name in OPTIONS:
        for document in documents(name):
            if document["kind"] == "Secret":
                assert "data" not in document
                assert set(document["stringData"].values()) == {desired.GENERATED}
            for pod in pods(document):
                for container in pod["containers"]:
                    for variable in container.get("env", ()):
                        secret = re.search("PASSWORD|SECRET_|TOKEN|_KEY$", variable["name"])
                        assert not secret or "value" not in variable, variable["name"]


def templates(document: dict[str, Any]) -> list[dict[str, Any]]:
    """With their metadata; of Deployments, StatefulSets, Jobs and CronJobs."""
    spec = document.get("spec") or {}
    found = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    return [found] if found else []


@pytest.mark.parametrize("name", OPTIONS)
def test_the_manifests_are_whole(name: str) -> None:
    """Whoever applies them has what the pods wait for: databases, environments, and values to fill in."""
    found = documents(name)
    jobs = {d["metadata"]["labels"]["app.kubernetes.io/name"] for d in found if d["kind"] == "Job"}
    others = {"mysql-setup"} if "database" not in OPTIONS[name] else set()
    others |= {"bucket-check"} if "storage" in OPTIONS[name] else set()
    assert jobs == {"environment-builder"} | others
    there = {(d["kind"], d["metadata"]["name"]) for d in found}
    assert len(there) == len(found)
    given = {d["metadata"]["name"]: set(d["stringData"]) for d in found if d["kind"] == "Secret"}
    asked: dict[str, set[str]] = {}
    for pod in (t["spec"] for document in found for t in templates(document)):
        assert ("ServiceAccount", pod["serviceAccountName"]) in there
        maps = {v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v}
        assert {("ConfigMap", m) for m in maps} <= there
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            for variable in container.get("env", ()):
                if ref := variable.get("valueFrom", {}).get("secretKeyRef"):
                    asked.setdefault(ref["name"], set()).add(ref["key"])
    own = {n: keys for n, keys in asked.items() if n not in OPTIONS[name].values()}
    assert given == own and own


@pytest.mark.parametrize("name", OPTIONS)
def test_no_service_mesh_puts_anything_into_a_pod(name: str) -> None:
    found = [t["metadata"] for document in documents(name) for t in templates(document)]
    assert len(found) >= 6
    for metadata in found:
        assert metadata["labels"]["sidecar.istio.io/inject"] == "false"
        assert metadata["labels"]["istio.io/dataplane-mode"] == "none"
        assert metadata["annotations"]["sidecar.istio.io/inject"] == "false"
        assert metadata["annotations"]["linkerd.io/inject"] == "disabled"


def test_pods_ask_for_the_disk_that_environments_take() -> None:
    archived = {
        "environment-builder": "4Gi",
        "mlserver": "3Gi",
        "monitoring": "3Gi",
        "monitoring-work": "3Gi",
    }
    for document in documents("defaults"):
        for template in templates(document):
            name = template["metadata"]["labels"]["app.kubernetes.io/name"]
            [container] = template["spec"]["containers"]
            asked = container["resources"]["requests"]["ephemeral-storage"]
            assert asked == archived.get(name, "128Mi"), name
            sizes = [v["emptyDir"] for v in template["spec"]["volumes"] if v["name"] == "environment"]
            assert sizes == ([{"sizeLimit": "10Gi"}] if name in archived else [])


@pytest.mark.parametrize(("size", "limit"), [("5Gi", "10Gi"), ("50Gi", "102400Mi"), ("100M", "10Gi")])
def test_a_dump_may_be_larger_than_its_database(size: str, limit: str) -> None:
    wanted = planning.want(components(), ())
    found = setting(KubernetesOptions(database_size=size), wanted.services, wanted.environments)
    pod = list(foundations.database_dump(found))[-1].spec.jobTemplate.spec.template.spec
    for container in (*pod.containers, *pod.initContainers):
        assert container.resources.limits["ephemeral-storage"] == limit


@pytest.mark.parametrize("name", OPTIONS)
def test_who_pods_run_as_is_left_to_a_cluster_that_assigns_users(name: str) -> None:
    kept = {"runAsUser", "runAsGroup", "fsGroup"}
    for pod in (pod for document in documents(name) for pod in pods(document)):
        named = kept & pod["securityContext"].keys()
        assert named == (set() if OPTIONS[name].get("run-as") == "cluster" else kept)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_runs_is_labelled_with_its_version_and_never_picked_by_it(name: str) -> None:
    found = {}
    for document in documents(name):
        spec = document.get("spec") or {}
        if template := spec.get("jobTemplate", {}).get("spec", spec).get("template"):
            version = document["metadata"]["labels"][VERSION]
            assert template["metadata"]["labels"][VERSION] == version
            found[document["metadata"]["name"].partition("-")[0]] = version
    for tool in ("mlflow", "zenml", "mlserver"):
        lock = next(e.lock for c in components() for e in c.environments() if e.name == tool)
        pin = re.search(rf"^{tool}(\[[a-z,]+\])?==(\S+)", lock.read_text(), re.M)
        assert pin and found.pop(tool) == pin[2]
    assert found.pop("monitoring") == __version__
    if name == "outside":
        assert found.pop("bucket") == __version__
    else:
        assert re.fullmatch(r"8\.4\.\d+", found.pop("mysql"))
        assert re.fullmatch(r"\d+\.\d+\.\d+", found.pop("object"))
    assert found.keys() == {"build"}


@pytest.mark.parametrize("name", OPTIONS)
def test_everything_is_labelled_with_the_stack_that_it_is_of(name: str) -> None:
    """Templates of pods too; no selector has it, for selectors cannot be changed."""
    namespace = options(name).namespace
    for document in documents(name):
        assert all(marks.get(INSTANCE) == namespace for marks in marked(document)), document
        assert not [each for each in selectors(document) if each.keys() & {INSTANCE, VERSION}]


def marked(node: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The labels of an object and of the templates in it."""
    yield node["metadata"].get("labels", {})
    for key in ("template", "jobTemplate"):
        if inner := (node.get("spec") or {}).get(key):
            yield from marked(inner)


def selectors(node: Any) -> Iterator[dict[str, str]]:
    """Labels by which anything anywhere in the document picks others."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("selector", "podSelector", "matchLabels") and isinstance(value, dict):
                yield dict.fromkeys(value, "")
            yield from selectors(value)
    if isinstance(node, list):
        for value in node:
            yield from selectors(value)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("ghcr.io/mlflow/mlflow:v3.17.2-full", "3.17.2"),
        ("host:5000/team/tool", ""),
        ("tool@sha256:" + 64 * "a", ""),
        ("tool:" + 64 * "1", ""),
    ],
)
def test_a_version_is_one_that_a_label_can_hold(image: str, version: str) -> None:
    assert archives.image_version(image) == version


@pytest.mark.parametrize("name", OPTIONS)
def test_every_claim_is_mounted_by_one_workload_only(name: str) -> None:
    """A volume is on one node at a time: a Job beside a server would wait for it, or the server for it."""
    found = documents(name)
    mounted: dict[str, list[tuple[str, str]]] = {}
    for document in found:
        for pod in pods(document):
            for volume in pod.get("volumes", ()):
                if claim := volume.get("persistentVolumeClaim", {}).get("claimName"):
                    mounted.setdefault(claim, []).append((document["kind"], document["metadata"]["name"]))
    assert {kind for users in mounted.values() for kind, _ in users} == {"StatefulSet"}
    assert all(len(users) == 1 for users in mounted.values())
    claims = {d["metadata"]["name"] for d in found if d["kind"] == "PersistentVolumeClaim"}
    assert claims == mounted.keys()
    assert not any("volumeClaimTemplates" in (d.get("spec") or {}) for d in found)


def test_the_official_images_are_of_the_locked_versions() -> None:
    for component in components():
        for environment in component.environments():
            if environment.image:
                version = environment.image.rpartition(":")[2].removeprefix("v").removesuffix("-full")
                pin = re.search(
                    rf"^{environment.name}(\[[a-z,]+\])?==(\S+)", environment.lock.read_text(), re.M
                )
                assert pin and pin[2] == version


def test_a_bucket_is_tried_as_pods_will_use_it() -> None:
    """By the same keys, and trusting the same certificates; once for each place, with or without archives."""
    given = options("outside")
    plain = [s for s in stack("outside").services if stack("outside").environment(s.environment).image]
    images = [stack("outside").environment(s.environment) for s in plain]
    found = setting(given, plain, images, "PEM")
    [job] = [d for d in desired.whole(found) if isinstance(d, Job)]
    pod = job.spec.template.spec  # type: ignore[union-attr]
    [container], used = pod.containers, archives.variables(found)  # type: ignore[union-attr]
    assert container.env == used and {"SSL_CERT_FILE", "AWS_ENDPOINT_URL"} <= {v.name for v in used}
    assert archives.trust_mounts(found)[0] in (container.volumeMounts or ())
    assert archives.trust_volumes(found)[0] in (pod.volumes or ())  # type: ignore[union-attr]
    names = {outside.digest(found)}
    for changed in ("s3://other/ml?endpoint=https://s3.example.org", "s3://company/ml"):
        names.add(outside.digest(setting(msgspec.structs.replace(given, storage=changed), plain, images)))
    assert len(names) == 3


# -- options ------------------------------------------------------------------------------------------------


def test_steps_name_each_object_once() -> None:
    found = [desired.ref(o) for objects in desired.steps(stack()).values() for o in desired.unique(objects)]
    shared = {ref for ref in found if found.count(ref) > 1}
    assert all(kind == "ConfigMap" and name.startswith("code-") for kind, name in shared)


@pytest.mark.parametrize(
    ("key", "said"),
    [("mlfow", 'Did you mean "mlflow"?'), ("mlflow/htp", 'Did you mean "mlflow/http"?'), ("", "Known: ")],
)
def test_an_option_for_a_port_of_no_service_is_refused(tmp_path: Path, key: str, said: str) -> None:
    wanted = planning.want(components(), ())
    target = KubernetesTarget(tmp_path, KubernetesOptions(ports={"mlserver": 9000, key: 5000}))
    for ask in (target.manifests, target.foundations):
        with pytest.raises(BadInput, match=r"targets\.kubernetes\.ports names no service") as refused:
            ask(wanted.services, wanted.environments)
        assert refused.value.details.startswith(said)


def test_an_archive_is_of_one_kind_of_machine() -> None:
    found = stack()
    environment = found.environment("monitoring")
    address = archives.address(found, environment)
    assert address.endswith("-{machine}.tar.gz")
    jobs = [archives.builder(found, environment, kind)[-1] for kind in ("", "amd64", "arm64")]
    assert len({job.metadata.name for job in jobs}) == 3
    selectors = [job.spec.template.spec.nodeSelector for job in jobs]
    assert [s.pop("kubernetes.io/os") for s in selectors] == 3 * ["linux"]
    assert selectors == [{}, {"kubernetes.io/arch": "amd64"}, {"kubernetes.io/arch": "arm64"}]
    for job in jobs:
        assert address in job.spec.template.spec.containers[0].args
    assert address in archives.unpacker(found, environment).args


def test_a_kind_of_node_that_an_environment_was_not_built_on_has_it_built() -> None:
    found = stack()
    names = [e.name for e in found.environments]
    data = {f"environment.{n}": "digest " for n in names} | {f"machines.{n}": "amd64" for n in names}
    notes = ConfigMap(metadata=ObjectMeta(name=NOTES), data=data)
    there = look.Found({desired.ref(notes): notes})

    def seen(*machines: str) -> dict[str, str]:
        shown = look.snapshot(there, found, frozenset(machines)).resources
        return {n: shown[f"environment/{n}"].digest for n in names}

    assert set(seen().values()) == set(seen("amd64").values()) == {"digest"}
    built = {e.name for e in found.environments if not e.image}
    assert built
    assert {n for n, digest in seen("amd64", "arm64").items() if not digest} == built


# -- what the cluster has to offer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "ok", "said"),
    [
        ({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]}, True, "IPv4"),
        ({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}, False, "IPv6"),
        ({"clusterIP": "fd00::1"}, False, "IPv6"),
        (None, True, "cannot be seen"),
    ],
)
def test_a_cluster_of_ipv6_is_told_by_its_own_service(
    spec: dict[str, Any] | None, ok: bool, said: str
) -> None:
    found = doctor.addresses(spec and {"spec": spec})
    assert (found.ok, said in found.message) == (ok, True)
    assert found.ok or found.fix


def test_exit_codes_that_end_a_job_are_those_of_what_runs_in_its_pods() -> None:
    last_words = {code for code in Code if Code.REFUSED <= code < Code.STOPPED}
    assert set(FINAL) == last_words
    assert outside.MISSING == Code.MISSING
