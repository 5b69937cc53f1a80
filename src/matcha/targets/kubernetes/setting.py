"""What every manifest of a stack is rendered from. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import SplitResult, parse_qs, urlsplit

import msgspec

from matcha.component import Environment, Service
from matcha.errors import BadInput
from matcha.targets.kubernetes.names import SECRETS, STORE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.resolve import DATABASE_PORT, Surroundings, surroundings

BUCKET = "matcha"
STORE_PORT = 7070
ACCESS_KEY, SECRET_KEY = "object-store-access-key", "object-store-secret-key"


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """The object store as pods reach it. `secret` holds its keys under `access_key` and `secret_key`."""

    url: str
    endpoint: str
    secret: str
    access_key: str
    secret_key: str
    own: bool


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One stack in one namespace. `trust`: certificates in PEM that pods trust besides their image's."""

    options: KubernetesOptions
    services: tuple[Service, ...]
    environments: tuple[Environment, ...]
    storage: Storage
    around: Surroundings
    trust: str = ""

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
) -> Setting:
    """Raises BadInput for options that contradict each other."""
    found = storage(options)
    if options.index_url:
        _server("index-url", options.index_url, ("http", "https"), "a package index: https://host/simple")
    return Setting(
        options=options,
        services=tuple(services),
        environments=tuple(environments),
        storage=found,
        around=surroundings(options.namespace, services, found.url, _database(options)),
        trust=trust,
    )


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
            secret=SECRETS,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            own=True,
        )
    parts = urlsplit(options.storage)
    if parts.scheme != "s3" or not parts.netloc:
        raise _bad("storage", "an S3 URL: s3://bucket/prefix?endpoint=https://host")
    if not options.storage_secret:
        raise _bad("storage-secret", "the name of the Secret with its keys, access-key and secret-key")
    endpoint = parse_qs(parts.query).get("endpoint", [""])[0]
    if endpoint:
        _server("storage", endpoint, ("http", "https"), "at an endpoint such as https://host:9000")
    return Storage(
        url=f"s3://{parts.netloc}{parts.path.rstrip('/')}",
        endpoint=endpoint,
        secret=options.storage_secret,
        access_key="access-key",
        secret_key="secret-key",  # noqa: S106 - the name of a key
        own=False,
    )


def _database(options: KubernetesOptions) -> str:
    """host:port; empty where Matcha runs it."""
    if not options.database:
        return ""
    parts = _server("database", options.database, ("mysql",), "a MySQL server: mysql://host:3306")
    if parts.username or parts.password:
        raise _bad("database", "without credentials: they belong in the Secret that database-secret names")
    if not options.database_secret:
        raise _bad("database-secret", "the name of the Secret with username and password")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{host}:{parts.port or DATABASE_PORT}"


def _server(key: str, url: str, schemes: Sequence[str], wanted: str) -> SplitResult:
    """Raises BadInput where `url` names no server, or a port that is none."""
    try:
        parts = urlsplit(url)
        if parts.scheme in schemes and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise _bad(key, wanted)


def _bad(key: str, wanted: str) -> BadInput:
    return BadInput(f"targets.kubernetes.{key} has to be {wanted}.", resolution="Change it in matcha.yaml.")
