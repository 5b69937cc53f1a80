"""What the kubernetes target would apply: golden manifests, and what must hold of all of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap
from ruamel.yaml import YAML

from matcha import planning, registry
from matcha.component import Component, Deployment, ModelServer
from matcha.errors import BadInput
from matcha.targets.kubernetes import KubernetesOptions, archives, desired, look, network
from matcha.targets.kubernetes.names import NOTES
from matcha.targets.kubernetes.setting import Setting, setting
from matcha.targets.kubernetes.target import KubernetesTarget

LOCK = Path(registry.__file__).parent / "components" / "dvc" / "requirements.lock"
CASES = Path(__file__).parent / "cases" / "kubernetes"
VERSIONS = ("1.30", "1.33", "1.35")
OWN_ENVIRONMENT = Deployment(
    name="m", asked="models:/m/1", uri="models:/m/1", environment="0123456789abcdef", python="3.11"
)
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "outside": {
        "storage": "s3://company/ml?endpoint=https://s3.example.org&region=eu-west-9",
        "storage-secret": "bucket-keys",
        "database": "mysql://db.example.org:3307?tls=true",
        "database-secret": "db-login",
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
}


def components() -> list[Component]:
    return [cls(cls.Options()) for fs in registry.component_catalogue().values() for cls in fs.values()]


def options(name: str) -> KubernetesOptions:
    return msgspec.convert(OPTIONS[name], KubernetesOptions)


def stack(name: str = "defaults", deployments: tuple[Deployment, ...] = ()) -> Setting:
    wanted = planning.want(components(), deployments)
    return setting(options(name), wanted.services, wanted.environments)


def documents(name: str) -> list[dict[str, Any]]:
    wanted = planning.want(components(), ())
    target = KubernetesTarget(Path("/nowhere"), options(name))
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
    text = re.sub(r"code-[0-9a-f]{16}", "code-DIGEST", text)
    text = re.sub(r'"(matcha-ml/(?:digest|files))":"[0-9a-f]{16}"', r'"\1":"DIGEST"', text)
    text = re.sub(r"-[0-9a-f]{16}-{machine}\.tar\.gz", "-DIGEST-{machine}.tar.gz", text)
    found: dict[str, Any] = msgspec.json.decode(text)
    if found["kind"] == "ConfigMap" and found["metadata"]["name"] == "code-DIGEST":
        found["data"] = "DATA"
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
    if os.environ.get("GOLDEN") == "write":
        with path.open("w") as file:
            yaml.dump_all(found, file)
    assert found == list(YAML(typ="safe").load_all(path.read_text()))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_manifests_fit_the_schemas_of_kubernetes(name: str, version: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_pod_is_locked_down(name: str) -> None:
    found = [pod for document in documents(name) for pod in pods(document)]
    assert len(found) >= 4
    for pod in found:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", OPTIONS)
def test_images_are_pinned_and_come_from_the_mirror(name: str) -> None:
    mirror = OPTIONS[name].get("registry-mirror", "")
    for pod in (pod for document in documents(name) for pod in pods(document)):
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            image = container["image"]
            assert image.startswith(mirror)
            tag = image.rpartition(":")[2]
            assert "/" not in tag and tag not in ("", "latest")


def test_no_secret_stands_in_a_manifest() -> None:
    for name in OPTIONS:
        for document in documents(name):
            assert document["kind"] != "Secret"
            for pod in pods(document):
                for container in pod["containers"]:
                    for variable in container.get("env", ()):
                        secret = re.search("PASSWORD|SECRET_|TOKEN|_KEY$", variable["name"])
                        assert not secret or "value" not in variable, variable["name"]


def test_every_claim_is_mounted_by_one_workload_only() -> None:
    mounted: dict[str, list[str]] = {}
    for document in documents("defaults"):
        if document["kind"] in ("Deployment", "StatefulSet"):
            for pod in pods(document):
                for volume in pod["volumes"]:
                    claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                    if claim:
                        mounted.setdefault(claim, []).append(document["metadata"]["name"])
    assert mounted and all(len(users) == 1 for users in mounted.values())


def test_the_official_images_are_of_the_locked_versions() -> None:
    for component in components():
        for environment in component.environments():
            if environment.image:
                version = environment.image.rpartition(":")[2].removeprefix("v").removesuffix("-full")
                pin = re.search(
                    rf"^{environment.name}(\[[a-z,]+\])?==(\S+)", environment.lock.read_text(), re.M
                )
                assert pin and pin[2] == version


# -- who may talk to whom ---------------------------------------------------------------------------------


@pytest.mark.parametrize("deployments", [(), (OWN_ENVIRONMENT,)], ids=["plain", "own environment"])
def test_flows_are_those_of_the_services_needs(deployments: tuple[Deployment, ...]) -> None:
    models = [
        c.model_environment("0123456789abcdef", LOCK, "3.11")
        for c in components()
        if isinstance(c, ModelServer) and deployments
    ]
    wanted = planning.want(components(), deployments, models)
    found = setting(KubernetesOptions(), wanted.services, wanted.environments)
    by_role = {s.role: s.name for s in wanted.services}
    graph = {
        (s.name, by_role[role])
        for s in wanted.services
        for role in (*s.needs, *s.talks_to)
        if role in by_role
    }
    graph |= {(by_role[role], s.name) for s in wanted.services for role in s.called_by if role in by_role}
    graph |= {(s.name, "mysql") for s in wanted.services if s.databases}
    archived = {e.name for e in found.environments if not e.image}
    graph |= {(s.name, "object-store") for s in wanted.services if s.stores or s.environment in archived}
    own = {(f.client, f.server) for f in network.flows(found) if f.client in by_role.values()}
    assert own == graph


def test_what_a_service_refers_to_it_may_reach() -> None:
    """An address in a service's strings without a flow would be a timeout in a cluster with policies."""
    wanted = planning.want(components(), ())
    for service in wanted.services:
        texts = (*service.command, *service.env.values(), *service.files.values())
        roles = set(re.findall(r"\{(?:url|address):([a-z-]+)", " ".join(texts)))
        assert roles <= {*service.needs, *service.talks_to}, service.name


def test_everything_else_is_denied() -> None:
    policies = [d for d in documents("defaults") if d["kind"] == "NetworkPolicy"]
    [deny] = [p for p in policies if p["metadata"]["name"] == "matcha-default"]
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert deny["spec"]["ingress"] == []
    assert [rule["ports"] for rule in deny["spec"]["egress"]] == [
        [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    ]


# -- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"storage": "gs://bucket"}, "targets.kubernetes.storage"),
        ({"storage": "s3://bucket"}, "targets.kubernetes.storage-secret"),
        ({"database": "postgres://host"}, "targets.kubernetes.database "),
        ({"database": "mysql://host"}, "targets.kubernetes.database-secret"),
        ({"database": "mysql://me:pass@host", "database-secret": "x"}, "without credentials"),
        ({"database": "mysql://host:many", "database-secret": "x"}, "a MySQL server"),
        ({"database": "mysql://host/mlflow", "database-secret": "x"}, "without a database"),
        ({"database": "mysql://host?tls=maybe", "database-secret": "x"}, "tls=true or tls=false"),
        ({"database": "mysql://host?ssl=true", "database-secret": "x"}, 'database: "ssl" means nothing'),
        ({"storage": "s3://b?regoin=x", "storage-secret": "x"}, 'storage: "regoin" means nothing'),
        ({"storage": "s3://b?region=", "storage-secret": "x"}, "says region once"),
        ({"storage": "s3://b?region=a&region=b", "storage-secret": "x"}, "says region once"),
        ({"storage": "s3://b?endpoint=s3.example.org", "storage-secret": "x"}, "endpoint=https://host"),
        ({"storage": "s3://key:secret@b", "storage-secret": "x"}, "without keys"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        setting(msgspec.convert(given, KubernetesOptions), (), ())


@pytest.mark.parametrize("given", [{"namespace": "Team A"}, {"storage-size": "12Q"}, {"nodes": 3}])
def test_options_that_no_cluster_would_take_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, KubernetesOptions)


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
    assert selectors == [None, {"kubernetes.io/arch": "amd64"}, {"kubernetes.io/arch": "arm64"}]
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
