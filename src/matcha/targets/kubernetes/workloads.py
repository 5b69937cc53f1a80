"""A service -> the objects that run it. Pure.

A service with volumes is a StatefulSet of one pod, which never runs twice; others are Deployments, replaced
at once where they own a database and one pod after the other where not. How many pods: `scaling`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightkube.models.apps_v1 import (
    DeploymentSpec,
    DeploymentStrategy,
    RollingUpdateDeployment,
    StatefulSetSpec,
)
from lightkube.models.core_v1 import (
    Container,
    ContainerPort,
    EnvVar,
    ExecAction,
    HTTPGetAction,
    HTTPHeader,
    Lifecycle,
    LifecycleHandler,
    PodTemplateSpec,
    Probe,
    ServicePort,
    ServiceSpec,
    Volume,
    VolumeMount,
)
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.models.policy_v1 import PodDisruptionBudgetSpec
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.core_v1 import Service as ServiceObject
from lightkube.resources.policy_v1 import PodDisruptionBudget

from matcha.service import Port, Service, digest_of, service_digest
from matcha.targets.kubernetes import archives, code, scaling
from matcha.targets.kubernetes.exposed import mounted
from matcha.targets.kubernetes.names import DIGEST, FILES_DIGEST, labels, selector
from matcha.targets.kubernetes.pod import (
    DISK,
    LOCKED,
    SCRATCH,
    account,
    at,
    claim,
    claimed,
    empty,
    literal,
    resources,
    secret_variable,
    storage_variables,
    template,
    variable,
)
from matcha.targets.kubernetes.resolve import (
    CODE,
    ENVIRONMENT,
    FILES,
    LIVE,
    USER_VARIABLE,
    VOLUMES,
    password_variable,
    port_number,
    resolve,
)
from matcha.targets.kubernetes.setting import Setting

DRAIN_SECONDS = 3  # between a pod's leaving the Service and its SIGTERM: proxies learn of it meanwhile
PERIOD = 5
MIGRATION_SECONDS = 600.0
Objects = Iterator[Any]


def objects(setting: Setting, service: Service) -> Objects:
    """Everything of one service, in the order of need. Network policies are made for the whole stack."""
    yield account(service.name, service.role)
    for folder in service.code:
        yield code.folder_map(folder)
    if has_archive(setting, service) or service.databases:
        yield code.folder_map(code.POD_CODE)
    if service.files:
        yield code.texts(f"{service.name}-files", service.name, service.role, _texts(setting, service))
    if service.live:
        yield live_map(setting, service)
    for volume in service.volumes:
        size = setting.options.volume_size
        yield claim(setting, f"{service.name}-{volume}", service.name, service.role, size)
    open_ports = _ports(setting, service)
    yield reachable(service.name, service.role, {p.name: (p.preferred, p.protocol) for p in open_ports})
    yield disruption(service.name, service.role)
    if scaling.is_autoscaled(service):
        yield scaling.autoscaler(service)
    yield workload(setting, service)


def _ports(setting: Setting, service: Service) -> list[Port]:
    """With that for applications outside, where it is exposed."""
    outside = [service.outside] if service.outside and is_exposed(setting, service) else []
    return [*service.ports, *outside]


def is_exposed(setting: Setting, service: Service) -> bool:
    return service.outside is not None and setting.options.expose is not None


def live_map(setting: Setting, service: Service) -> Any:
    live = {n: resolve(t, service, setting.around, json=n.endswith(".json")) for n, t in service.live.items()}
    return code.texts(f"{service.name}-live", service.name, service.role, live)


def _texts(setting: Setting, service: Service) -> dict[str, str]:
    return {
        n: resolve(t, service, setting.around, json=n.endswith(".json")) for n, t in service.files.items()
    }


def has_archive(setting: Setting, service: Service) -> bool:
    return not archives.has_image(setting.environment(service.environment))


def reachable(name: str, component: str, ports: Mapping[str, tuple[int, str]]) -> ServiceObject:
    """Inside the cluster only. `ports`: number and protocol by name."""
    return ServiceObject(
        metadata=ObjectMeta(name=name, labels=labels(name, component)),
        spec=ServiceSpec(
            type="ClusterIP",
            selector=selector(name),
            ports=[
                ServicePort(
                    name=port,
                    port=number,
                    targetPort=number,
                    protocol="TCP",
                    appProtocol="http" if protocol == "http" else None,
                )
                for port, (number, protocol) in ports.items()
            ],
        ),
    )


def disruption(name: str, component: str) -> PodDisruptionBudget:
    """One pod at a time may be moved: with a single one a drain is not held up for ever."""
    return PodDisruptionBudget(
        metadata=ObjectMeta(name=name, labels=labels(name, component)),
        spec=PodDisruptionBudgetSpec(maxUnavailable=1, selector=LabelSelector(matchLabels=selector(name))),
    )


def workload(setting: Setting, service: Service) -> Deployment | StatefulSet:
    environment = setting.environment(service.environment)
    metadata = ObjectMeta(
        name=service.name,
        labels=labels(service.name, service.role, archives.version(environment)),
        annotations={DIGEST: service_digest(service, environment)},
    )
    pods = _pods(setting, service)
    if service.volumes:
        return stateful(metadata, service.name, pods)
    return Deployment(
        metadata=metadata,
        spec=DeploymentSpec(
            replicas=scaling.replicas(service),
            revisionHistoryLimit=2,
            progressDeadlineSeconds=int(ready_seconds(service)) + 600,
            strategy=_strategy(service),
            selector=LabelSelector(matchLabels=selector(service.name)),
            template=pods,
        ),
    )


def stateful(metadata: ObjectMeta, name: str, pods: PodTemplateSpec) -> StatefulSet:
    """`Parallel`: in order, a pod that never gets ready would not be replaced by one that would."""
    return StatefulSet(
        metadata=metadata,
        spec=StatefulSetSpec(
            replicas=1,
            podManagementPolicy="Parallel",
            revisionHistoryLimit=2,
            serviceName=name,
            selector=LabelSelector(matchLabels=selector(name)),
            template=pods,
        ),
    )


def _strategy(service: Service) -> DeploymentStrategy:
    """Two versions of a server on one database could migrate it under each other."""
    if service.databases:
        return DeploymentStrategy(type="Recreate")
    return DeploymentStrategy(
        type="RollingUpdate", rollingUpdate=RollingUpdateDeployment(maxSurge=1, maxUnavailable=0)
    )


def _pods(setting: Setting, service: Service) -> PodTemplateSpec:
    environment = setting.environment(service.environment)
    archived = has_archive(setting, service)
    return template(
        setting,
        service.name,
        service.role,
        [_container(setting, service)],
        init=[archives.unpacker(setting, environment)] if archived else [],
        volumes=[
            *_volumes(service),
            *([mounted.volume()] if is_exposed(setting, service) else ()),
            *(archives.volumes(setting) if archived else archives.trust_volumes(setting)),
            *(archives.pod_code() if service.databases and not archived else ()),
        ],
        annotations={FILES_DIGEST: digest_of(_texts(setting, service))} if service.files else {},
        grace=service.stop_seconds + DRAIN_SECONDS + 5,
        version=archives.version(environment),
        spread=scaling.spread(service),
    )


def _container(setting: Setting, service: Service) -> Container:
    environment, health = setting.environment(service.environment), service.health
    archived = has_archive(setting, service)
    mounts = [at(archives.UNPACKER, ENVIRONMENT)] if archived else []
    launch = []
    if is_exposed(setting, service):
        mounts.append(code.mount(mounted.VOLUME, mounted.FOLDER))
    if service.databases:
        mounts.append(code.mount("pod-code", archives.POD_CODE))
        launch = ["-I", f"{archives.POD_CODE}/matcha_pod/launch.py"]
    return Container(
        name=service.name,
        image=setting.base_image if archived else setting.image(environment.image),
        command=[f"{ENVIRONMENT}/bin/python" if archived else "python"],
        args=[*launch, *(literal(resolve(part, service, setting.around)) for part in service.command)],
        env=_env(setting, service),
        ports=[
            ContainerPort(name=p.name, containerPort=p.preferred, protocol="TCP")
            for p in _ports(setting, service)
        ],
        resources=resources(service.resources, disk=archives.UNPACKED if archived else DISK),
        startupProbe=_probe(service, health.path, failures=max(1, round(start_seconds(service) / PERIOD))),
        readinessProbe=_probe(service, health.ready or health.path, failures=2),
        livenessProbe=_probe(service, health.alive or health.path, failures=health.failures, period=10),
        lifecycle=Lifecycle(preStop=LifecycleHandler(exec=ExecAction(command=["sleep", str(DRAIN_SECONDS)]))),
        volumeMounts=[SCRATCH[1], *mounts, *_mounts(service), *archives.trust_mounts(setting)],
        terminationMessagePolicy="FallbackToLogsOnError",
        securityContext=LOCKED,
    )


def _env(setting: Setting, service: Service) -> list[EnvVar]:
    plain = {key: literal(resolve(text, service, setting.around)) for key, text in service.env.items()}
    folders = [f"{CODE}/{number}" for number, _ in enumerate(service.code)]
    if folders:
        plain["PYTHONPATH"] = ":".join([*folders, *filter(None, [plain.get("PYTHONPATH")])])
    return [
        *_credentials(setting, service),
        *(storage_variables(setting) if service.stores else ()),
        variable("HOME", "/tmp"),  # noqa: S108 - of the container
        *archives.trust_variables(setting),
        *(variable(name, value) for name, value in plain.items()),
        *(secret_variable(name, secret) for name, secret in service.secrets.items()),
    ]


def _credentials(setting: Setting, service: Service) -> list[EnvVar]:
    names = [d.name for d in service.databases]
    if setting.own_database:
        return [secret_variable(password_variable(n), database_key(n)) for n in names]
    secret = setting.options.database_secret
    user = [secret_variable(USER_VARIABLE, "username", secret)] if names else []
    return [*user, *(secret_variable(password_variable(n), "password", secret) for n in names)]


def database_key(database: str) -> str:
    """The name of the secret that is a database's password."""
    return f"database-{database}"


def start_seconds(service: Service) -> float:
    """MySQL knows no transactions of migrations: a server that was ended in the middle of its first one would
    find half a database for ever.
    """
    return service.health.start_timeout + (MIGRATION_SECONDS if service.databases else 0.0)


def ready_seconds(service: Service) -> float:
    """Until one pod of it may be sent requests."""
    return start_seconds(service) + (service.health.ready_timeout if service.health.ready else 0.0)


def _probe(service: Service, path: str, *, failures: int, period: int = PERIOD) -> Probe:
    """By a name the server answers to: the kubelet would ask by the pod's address."""
    health = service.health
    number = port_number(service, health.port)
    return Probe(
        httpGet=HTTPGetAction(
            path=path,
            port=number,
            scheme="HTTP",
            httpHeaders=[HTTPHeader(name="Host", value=f"localhost:{number}")],
        ),
        periodSeconds=period,
        timeoutSeconds=max(1, round(health.timeout)),
        failureThreshold=failures,
    )


def _volumes(service: Service) -> list[Volume]:
    found = [
        code.volume(f"code-{number}", code.folder_name(folder), code.contents(folder))
        for number, folder in enumerate(service.code)
    ]
    if service.files:
        found.append(code.volume("files", f"{service.name}-files", service.files))
    if service.live:
        found.append(code.volume("live", f"{service.name}-live", service.live))
    elif _names_live(service):
        found.append(empty("live"))
    found += [claimed(f"volume-{name}", f"{service.name}-{name}") for name in service.volumes]
    return [*found, *(empty(f"cache-{name}") for name in service.caches)]


def _names_live(service: Service) -> bool:
    """Whether it looks there: the folder is there then, also while it holds nothing."""
    return any(
        "{live}" in text for text in (*service.command, *service.env.values(), *service.files.values())
    )


def _mounts(service: Service) -> list[VolumeMount]:
    found = [code.mount(f"code-{number}", f"{CODE}/{number}") for number, _ in enumerate(service.code)]
    found += [code.mount("files", FILES)] if service.files else []
    found += [code.mount("live", LIVE)] if service.live or _names_live(service) else []
    found += [at(f"volume-{name}", f"{VOLUMES}/{name}") for name in service.volumes]
    return [*found, *(at(f"cache-{name}", f"{VOLUMES}/{name}") for name in service.caches)]
