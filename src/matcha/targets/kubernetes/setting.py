"""What every manifest of a stack is rendered from. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import SplitResult, parse_qs, urlsplit

import msgspec

from matcha.component import Environment, Service, digest_of
from matcha.errors import BadInput, suggest
from matcha.targets.kubernetes import code
from matcha.targets.kubernetes.names import SECRETS, STORE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.resolve import DATABASE_PORT, Server, Surroundings, surroundings

BUCKET = "matcha"
STORE_PORT = 7070
REGION = "us-east-1"  # what S3 servers that have none go by
ACCESS_KEY, SECRET_KEY = "object-store-access-key", "object-store-secret-key"


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
            region=REGION,
            secret=SECRETS,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            own=True,
        )
    parts = urlsplit(options.storage)
    if parts.scheme != "s3" or not parts.netloc or parts.fragment:
        raise _bad("storage", "an S3 URL: s3://bucket/prefix?endpoint=https://host&region=eu-west-1")
    if "@" in parts.netloc:
        raise _bad("storage", "without keys: they belong in the Secret that storage-secret names")
    asked = _query("storage", parts.query, ("endpoint", "region"))
    if not options.storage_secret:
        raise _bad("storage-secret", "the name of the Secret with its keys, access-key and secret-key")
    endpoint = asked.get("endpoint", "")
    if endpoint:
        wanted = "an S3 URL whose endpoint is one of a web server: endpoint=https://host:9000"
        _server("storage", endpoint, ("http", "https"), wanted)
    return Storage(
        url=f"s3://{parts.netloc}{parts.path.rstrip('/')}",
        endpoint=endpoint,
        region=asked.get("region", ""),
        secret=options.storage_secret,
        access_key="access-key",
        secret_key="secret-key",  # noqa: S106 - the name of a key
        own=False,
    )


def _database(options: KubernetesOptions) -> Server | None:
    """None where Matcha runs it."""
    if not options.database:
        return None
    wanted = "a MySQL server, without a database: mysql://host:3306"
    parts = _server("database", options.database, ("mysql",), wanted)
    if parts.username or parts.password:
        raise _bad("database", "without credentials: they belong in the Secret that database-secret names")
    if parts.path not in ("", "/") or parts.fragment:
        raise _bad("database", wanted)
    tls = _query("database", parts.query, ("tls",)).get("tls", "false")
    if tls not in ("true", "false"):
        raise _bad("database", "with tls=true or tls=false: mysql://host:3306?tls=true")
    if not options.database_secret:
        raise _bad("database-secret", "the name of the Secret with username and password")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return Server(f"{host}:{parts.port or DATABASE_PORT}", tls == "true")


def _server(key: str, url: str, schemes: Sequence[str], wanted: str) -> SplitResult:
    """Raises BadInput where `url` names no server, or a port that is none."""
    try:
        parts = urlsplit(url)
        if parts.scheme in schemes and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise _bad(key, wanted)


def _query(key: str, query: str, known: Sequence[str]) -> dict[str, str]:
    """What stands behind the question mark of an option's URL. Raises BadInput for a name that means nothing
    there, stands twice, or has no value.
    """
    found = parse_qs(query, keep_blank_values=True)
    for name, values in found.items():
        if name not in known:
            raise BadInput(
                f'targets.kubernetes.{key}: "{name}" means nothing behind the question mark of its URL.',
                details=suggest(name, known),
                resolution="Change it in matcha.yaml.",
            )
        if len(values) > 1 or not values[0]:
            raise _bad(key, f"a URL that says {name} once, with a value")
    return {name: values[0] for name, values in found.items()}


def made_by(options: KubernetesOptions, trust: str) -> str:
    """Digest of what objects are rendered from, besides services: without what is one user's own."""
    own = {"context": "", "kubeconfig": "", "ca_bundle": "", "ports": {}}
    shared = msgspec.structs.replace(options, **own)
    rendering = code.folder_name(code.POD_CODE.parent)  # this package, with what it puts into pods
    return digest_of((rendering, msgspec.to_builtins(shared), trust))


def _bad(key: str, wanted: str) -> BadInput:
    return BadInput(f"targets.kubernetes.{key} has to be {wanted}.", resolution="Change it in matcha.yaml.")
