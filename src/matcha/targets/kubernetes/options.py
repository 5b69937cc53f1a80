"""`targets.kubernetes` of matcha.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"

_Name = Annotated[str, msgspec.Meta(pattern=DNS_LABEL)]
_Size = Annotated[str, msgspec.Meta(pattern=QUANTITY)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


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
    a forward prefers, by `service` or `service/port`.
    """

    context: str = ""
    kubeconfig: str = ""
    namespace: _Name = "matcha"
    storage: str = ""
    storage_secret: str = ""
    storage_size: _Size = "20Gi"
    storage_class: str = ""
    database: str = ""
    database_secret: str = ""
    database_size: _Size = "5Gi"
    volume_size: _Size = "10Gi"
    image: str = "python:3.12.13-slim-bookworm"
    python: Annotated[str, msgspec.Meta(pattern=r"^(3\.[0-9]+)?$")] = ""
    registry_mirror: str = ""
    pull_secret: str = ""
    index_url: str = ""
    ca_bundle: str = ""
    run_as: Literal["fixed", "cluster"] = "fixed"
    ports: dict[str, _Port] = msgspec.field(default_factory=dict)
