"""Placeholders of a service's strings -> what they mean in a pod. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from matcha.errors import COMPONENT, MatchaError, suggest
from matcha.service import OUTSIDE, PLACEHOLDER, Service
from matcha.targets.kubernetes.names import DATABASE

BIND = "0.0.0.0"  # noqa: S104 - a pod has no other way to be reached; network policies say by whom
FILES, LIVE, VOLUMES, CODE, ENVIRONMENT = (
    f"/matcha/{part}" for part in ("files", "live", "volumes", "code", "env")
)
PASSWORD = "MATCHA_DATABASE_{}_PASSWORD"  # noqa: S105 - the name of a variable
USER_VARIABLE = "MATCHA_DATABASE_USER"
CA_VARIABLE = "MATCHA_DATABASE_CA"  # which `matcha_pod/launch.py` knows
DATABASE_PORT = 3306


class Server(msgspec.Struct, frozen=True):
    """A MySQL server at host:port, which `tls` is spoken with and whose certificate is checked then."""

    address: str
    tls: bool = False


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod of the stack finds around it.

    `peers` are services by role. `storage` is the object store's URL without a slash at the end.
    `database_user` is the user of every database, each its own where empty. `outside` is what
    `{outside:PART}` is, but for the port; empty where nothing is exposed.
    """

    namespace: str
    peers: Mapping[str, Service]
    storage: str
    database: Server
    database_user: str
    outside: Mapping[str, str] = msgspec.field(default_factory=dict)


def surroundings(
    namespace: str,
    services: Sequence[Service],
    storage: str,
    database: Server | None,
    outside: Mapping[str, str],
) -> Surroundings:
    """`database`: one that Matcha does not run."""
    return Surroundings(
        namespace=namespace,
        peers={s.role: s for s in services},
        storage=storage,
        database=database or Server(f"{DATABASE}:{DATABASE_PORT}"),
        database_user=f"<{USER_VARIABLE}>" if database else "",
        outside=outside,
    )


def resolve(text: str, service: Service | None, around: Surroundings, *, json: bool = False) -> str:
    """`text` with its placeholders filled in, escaped for the inside of JSON strings where `json`.

    `service` is whose text it is; None: a client's, which knows addresses and stores only. Raises
    MatchaError, naming the owner and the text, for a placeholder that means nothing here.
    """

    def replace(match: re.Match[str]) -> str:
        value = _value(match, text, service, around)
        return msgspec.json.encode(value).decode()[1:-1] if json else value

    return PLACEHOLDER.sub(replace, text)


def _value(match: re.Match[str], text: str, service: Service | None, around: Surroundings) -> str:
    kind, name = match[1], match[2] or ""
    find = _SHARED.get(kind) or (_OWN.get(kind) if service else None)
    if find is None:
        raise _unknown(match[0], text, service, suggest(kind, (*_SHARED, *_OWN)))
    try:
        return find(service, around, name)  # type: ignore[arg-type]
    except KeyError as error:
        raise _unknown(match[0], text, service, str(error.args[0])) from error


def _unknown(placeholder: str, text: str, service: Service | None, details: str) -> MatchaError:
    owner = f'Service "{service.name}"' if service else "A client"
    return MatchaError(
        f"{owner}: {placeholder} means nothing here.",
        details=f"In {text!r}. {details}".strip(),
        resolution=COMPONENT,
    )


def port_number(service: Service, name: str) -> int:
    """Services listen in their pods on the ports that they prefer."""
    for port in service.ports:
        if port.name == name:
            return port.preferred
    raise KeyError(f"{service.name} has the ports {', '.join(p.name for p in service.ports)}.")


def base_url(service: Service) -> str:
    """Of the port named http, otherwise of the first."""
    names = [p.name for p in service.ports]
    return f"http://{service.name}:{port_number(service, 'http' if 'http' in names else names[0])}"


def hosts(service: Service, namespace: str) -> str:
    """Names of the service in the cluster, and those of a forward's end."""
    own = [service.name, *(f"{service.name}.{namespace}{end}" for end in ("", ".svc", ".svc.cluster.local"))]
    return ",".join([*own, "127.0.0.1", "localhost"])


def password_variable(database: str) -> str:
    return PASSWORD.format(re.sub(r"\W", "_", database).upper())


def _url(service: Service | None, around: Surroundings, role: str) -> str:
    if role in around.peers:
        return base_url(around.peers[role])
    if service and role in service.talks_to:
        return ""
    raise KeyError(f"The stack has no {role}.")


def _address(_: Service | None, around: Surroundings, name: str) -> str:
    role, port = name.split(".", 1) if "." in name else (name, "")
    if role not in around.peers:
        raise KeyError(f"The stack has no {role}.")
    peer = around.peers[role]
    return f"{peer.name}:{port_number(peer, port)}"


def _volume(service: Service, _: Surroundings, name: str) -> str:
    if name not in (*service.volumes, *service.caches):
        raise KeyError(suggest(name, (*service.volumes, *service.caches)))
    return f"{VOLUMES}/{name}"


def _database(service: Service, around: Surroundings, name: str) -> str:
    """Secrets are variables of the container, which `matcha_pod/launch.py` puts in their place, quoted."""
    if name not in [d.name for d in service.databases]:
        raise KeyError(suggest(name, [d.name for d in service.databases]))
    user = around.database_user or name
    tls = f"?ssl_ca=<{CA_VARIABLE}>&ssl_check_hostname=true" if around.database.tls else ""
    return f"mysql+pymysql://{user}:<{password_variable(name)}>@{around.database.address}/{name}{tls}"


def _outside(service: Service, around: Surroundings, part: str) -> str:
    if part not in OUTSIDE:
        raise KeyError(suggest(part, OUTSIDE))
    if service.outside is None or not around.outside:
        return OUTSIDE[part]
    return str(service.outside.preferred) if part == "port" else around.outside[part]


_SHARED: Mapping[str, Callable[[Service | None, Surroundings, str], str]] = {
    "url": _url,
    "address": _address,
    "store": lambda _, around, area: f"{around.storage}/{area}" if area else around.storage,
}
_OWN: Mapping[str, Callable[[Service, Surroundings, str], str]] = {
    "port": lambda service, _, name: str(port_number(service, name)),
    "bind": lambda *_: BIND,
    "hosts": lambda service, around, _: hosts(service, around.namespace),
    "volume": _volume,
    "database": _database,
    "files": lambda *_: FILES,
    "live": lambda *_: LIVE,
    "outside": _outside,
}
