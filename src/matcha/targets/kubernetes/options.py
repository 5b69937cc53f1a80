"""`targets.kubernetes` of matcha.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from matcha.targets.kubernetes import checks
from matcha.targets.kubernetes.exposed.options import Expose

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_WORD = r"[A-Za-z0-9-]+"
# Without a dot or a port it would be a folder of the public registry.
_HOST = rf"({_WORD}(\.{_WORD})+(:[0-9]{{1,5}})?|({_WORD}|\[[0-9a-fA-F:]+\]):[0-9]{{1,5}}|localhost)"
_TAG = r"(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"

_Namespace = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^{_LABEL}\Z",
        max_length=63,
        description="a name of lower-case letters, digits and dashes, at most 63, no dash at either end",
    ),
]
_Namespaces = Annotated[
    tuple[_Namespace, ...], msgspec.Meta(description="a list of namespaces, as in [shop, web]")
]
_NAMED = "of lower-case letters, digits, dashes and dots, a letter or digit at either end"
_SUBDOMAIN = rf"^({_LABEL}(\.{_LABEL})*)?\Z"
_Class = Annotated[
    str,
    msgspec.Meta(pattern=_SUBDOMAIN, max_length=253, description=f"the name of a storage class, {_NAMED}"),
]
_Secret = Annotated[  # `secret`: who takes its content for its name sees it nowhere
    str,
    msgspec.Meta(
        pattern=_SUBDOMAIN,
        max_length=253,
        description=f"the name of a Secret of the namespace, {_NAMED}",
        extra={"secret": True},
    ),
]
_Size = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?\Z",
        description="a Kubernetes quantity, a number and its unit, as in 20Gi or 500Mi",
    ),
]
Image = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^({_HOST}/)?({_PART}/)*{_PART}{_TAG}\Z",
        max_length=500,
        description="an image's name, as in python:3.12-slim or registry.example.com/team/base:7",
    ),
]
_Mirror = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^(({_HOST}|{_PART})(/{_PART})*/?)?\Z",
        max_length=500,
        description="a registry's host, and a path where it has one, without http:// or https://, "
        "as in registry.example.com/mirror",
    ),
]
_Python = Annotated[
    str,
    msgspec.Meta(pattern=r"^(3\.1[0-3])?\Z", description='a Python in quotes, from "3.10" to "3.13"'),
]
_Port = Annotated[
    int,
    msgspec.Meta(ge=1024, le=65535, description="a port from 1024 to 65535; lower ones are the system's"),
]
_Ports = Annotated[
    dict[str, _Port], msgspec.Meta(description="ports by service, as in {mlflow: 5001, mlserver/grpc: 8081}")
]


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each node of it has for pods: CPU cores, memory, NVIDIA GPUs."""

    cpu: Annotated[float, msgspec.Meta(gt=0, description="a number of CPU cores")]
    memory: _Size
    gpu: Annotated[int, msgspec.Meta(ge=0, description="a number of GPUs")] = 0


_Pools = Annotated[
    dict[str, Pool],
    msgspec.Meta(description="pools by name, as in {gpu: {gpu: 1, cpu: 6, memory: 110Gi}}"),
]
_RunAs = Annotated[Literal["fixed", "cluster"], msgspec.Meta(description="fixed or cluster")]


class KubernetesOptions(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"
):
    """Where the stack runs in a cluster, and what it stands on.

    `context`: of the kubeconfig; the current one where empty. `kubeconfig`: its file; otherwise $KUBECONFIG
    (several files are merged as kubectl does) or ~/.kube/config. `storage`: an S3 URL
    (`s3://bucket/prefix?endpoint=https://host&region=eu-west-1`; both may be left out) instead of the
    server that Matcha runs, with `storage-secret` naming a Secret of the namespace that holds `access-key`
    and `secret-key`. `database`: `mysql://host:port` instead of Matcha's own, with `?tls=true` where it is
    to be reached by TLS and its certificate to be checked, and `database-secret` naming a Secret that holds
    `username` and `password`; its databases must exist. Sizes are Kubernetes quantities. `image`: the
    Python image that serving, monitoring and jobs run on, `python` its version ("3.12") where its name does
    not say it as python:3.12 does. `registry-mirror`: put before every image's name.
    `index-url`: package index that environments are installed from. `ca-bundle`: a file of certificates
    (PEM, relative to the project) that pods trust instead of their image's own. `run-as`: the users that
    pods run as are `fixed`, or the `cluster` assigns them, as OpenShift wants it. `ports`: the loopback port
    a forward prefers, by `service` or `service/port`. `pools`: of nodes that the cluster's autoscaler adds
    when a job needs one, which nobody sees before. `gpu-plugin`: `matcha doctor --fix` may install NVIDIA's
    device plugin for the cluster where a node has GPUs and offers none. `allow-from`: namespaces whose pods
    may call the stack's models. `expose`: how applications outside of the cluster reach them, by TLS and with
    tokens, as in `{models: models.example.com, gateway-class: nginx, cluster-issuer: letsencrypt}`.
    """

    context: str = ""
    kubeconfig: str = ""
    namespace: _Namespace = "matcha"
    storage: str = ""
    storage_secret: _Secret = ""
    storage_size: _Size = "20Gi"
    storage_class: _Class = ""
    database: str = ""
    database_secret: _Secret = ""
    database_size: _Size = "5Gi"
    volume_size: _Size = "10Gi"
    image: Image = "python:3.12.13-slim-bookworm"
    python: _Python = ""
    registry_mirror: _Mirror = ""
    pull_secret: _Secret = ""
    index_url: str = ""
    ca_bundle: str = ""
    run_as: _RunAs = "fixed"
    ports: _Ports = msgspec.field(default_factory=dict)
    pools: _Pools = msgspec.field(default_factory=dict)
    gpu_plugin: bool = False
    allow_from: _Namespaces = ()
    expose: Expose | None = None

    def __post_init__(self) -> None:
        checks.check(self)

    def check_files(self, project: Path) -> None:
        self.trust(project)

    def trust(self, project: Path) -> str:
        """The certificates of `ca-bundle`. Raises Unfit for a file that has none, or cannot be read."""
        return checks.bundle(project / Path(self.ca_bundle).expanduser()) if self.ca_bundle else ""
