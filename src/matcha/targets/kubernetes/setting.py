"""What every manifest of a stack is rendered from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from matcha.service import Environment, Service, digest_of
from matcha.targets.kubernetes import checks, code
from matcha.targets.kubernetes.exposed import mounted
from matcha.targets.kubernetes.exposed.options import Expose
from matcha.targets.kubernetes.names import SECRETS, STORE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.resolve import DATABASE_PORT, Server, Surroundings, surroundings

BUCKET = "matcha"
STORE_PORT = 7070
REGION = "us-east-1"  # what S3 servers that have none go by
ACCESS_KEY, SECRET_KEY = "object-store-access-key", "object-store-secret-key"
JOBS_ACCESS_KEY, JOBS_SECRET_KEY = "object-store-jobs-access-key", "object-store-jobs-secret-key"


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """The object store as pods reach it. `secret` holds its keys under `access_key` and `secret_key`.

    `endpoint` and `region` are empty where nobody said them.
    """

    url: str
    endpoint: str
    region: str
    secret: str
    access_key: str
    secret_key: str
    own: bool


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One stack in one namespace. `trust`: certificates in PEM that pods trust besides their image's.
    `lent`: areas of the object store that jobs read and write.
    """

    options: KubernetesOptions
    services: tuple[Service, ...]
    environments: tuple[Environment, ...]
    storage: Storage
    around: Surroundings
    trust: str = ""
    lent: tuple[str, ...] = ()

    @property
    def namespace(self) -> str:
        return self.options.namespace

    @property
    def own_database(self) -> bool:
        return not self.options.database

    def environment(self, name: str) -> Environment:
        return next(e for e in self.environments if e.name == name)

    def image(self, name: str) -> str:
        """`name`, from the mirror where there is one."""
        mirror = self.options.registry_mirror.rstrip("/")
        return f"{mirror}/{name}" if mirror else name

    @property
    def base_image(self) -> str:
        return self.image(self.options.image)


def setting(
    options: KubernetesOptions,
    services: Sequence[Service],
    environments: Sequence[Environment],
    trust: str = "",
    lent: Sequence[str] = (),
) -> Setting:
    found = storage(options)
    return Setting(
        options=options,
        services=tuple(services),
        environments=tuple(environments),
        storage=found,
        around=surroundings(
            options.namespace, services, found.url, _database(options), _outside(options.expose)
        ),
        trust=trust,
        lent=tuple(lent),
    )


def for_jobs(found: Setting) -> Setting:
    """`found` with the keys that jobs have. A store that is not Matcha's has one pair for everything."""
    if not found.storage.own:
        return found
    own = msgspec.structs.replace(found.storage, access_key=JOBS_ACCESS_KEY, secret_key=JOBS_SECRET_KEY)
    return msgspec.structs.replace(found, storage=own)


def with_service(found: Setting, service: Service) -> Setting:
    """`found` with this description of the service in the place of another."""
    others = tuple(s for s in found.services if s.name != service.name)
    peers = {**found.around.peers, service.role: service}
    around = msgspec.structs.replace(found.around, peers=peers)
    return msgspec.structs.replace(found, services=(*others, service), around=around)


def with_environment(found: Setting, environment: Environment) -> Setting:
    others = tuple(e for e in found.environments if e.name != environment.name)
    return msgspec.structs.replace(found, environments=(*others, environment))


def storage(options: KubernetesOptions) -> Storage:
    if not options.storage:
        return Storage(
            url=f"s3://{BUCKET}",
            endpoint=f"http://{STORE}:{STORE_PORT}",
            region=REGION,
            secret=SECRETS,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            own=True,
        )
    there = checks.bucket(options.storage)
    return Storage(
        url=there.url,
        endpoint=there.endpoint,
        region=there.region,
        secret=options.storage_secret,
        access_key="access-key",
        secret_key="secret-key",  # noqa: S106 - the name of a key
        own=False,
    )


def _outside(expose: Expose | None) -> Mapping[str, str]:
    """What `{outside:PART}` is of a service that is exposed, but for its port."""
    if expose is None:
        return {}
    return {
        "hosts": expose.models,
        "tokens": f"{mounted.FOLDER}/{mounted.KEY}",
        "rate": f"{expose.rate:g}",
    }


def _database(options: KubernetesOptions) -> Server | None:
    """None where Matcha runs it."""
    if not options.database:
        return None
    there = checks.login(options.database)
    return Server(f"{there.host}:{there.port or DATABASE_PORT}", there.tls)


def made_by(options: KubernetesOptions, trust: str) -> str:
    """Digest of what objects are rendered from, besides services: without what is one user's own."""
    own = {"context": "", "kubeconfig": "", "ca_bundle": "", "ports": {}, "pools": {}, "gpu_plugin": False}
    shared = msgspec.structs.replace(options, **own)
    rendering = code.folder_name(code.POD_CODE.parent)  # this package, with what it puts into pods
    return digest_of((rendering, msgspec.to_builtins(shared), trust))
