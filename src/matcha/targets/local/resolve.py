"""Placeholders of a service's strings -> text. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from matcha.errors import COMPONENT, MatchaError, suggest
from matcha.host.ports import HOST
from matcha.service import OUTSIDE, PLACEHOLDER, Service

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_KNOWN = (
    "port:NAME", "bind", "url:ROLE", "address:ROLE.PORT", "hosts", "volume:NAME", "store:AREA",
    "database:NAME", "files", "live", "outside:PART",
)  # fmt: skip


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where a service finds things.

    `ports` are its own by name, `peers` all services' by role and name; `optional` roles may be absent.
    """

    owner: str
    ports: Mapping[str, int] = msgspec.field(default_factory=dict)
    peers: Mapping[str, Mapping[str, int]] = msgspec.field(default_factory=dict)
    optional: tuple[str, ...] = ()
    volumes: Mapping[str, Path] = msgspec.field(default_factory=dict)
    databases: Mapping[str, Path] = msgspec.field(default_factory=dict)
    store: Path
    files: Path | None = None
    live: Path | None = None


def resolve(text: str, places: Places, *, json: bool = False) -> str:
    """`text` with its placeholders filled in, escaped for the inside of JSON strings where `json`.

    Raises MatchaError, naming the owner and the text, for a placeholder that means nothing here.
    """

    def replace(match: re.Match[str]) -> str:
        value = _value(match, places, text)
        return msgspec.json.encode(value).decode()[1:-1] if json else value

    return PLACEHOLDER.sub(replace, text)


def secret_names(service: Service) -> dict[str, str]:
    """Environment variable -> name of its secret, from `name` or `{secret:name}`."""
    return {key: _secret(value, service) for key, value in service.secrets.items()}


def _secret(value: str, service: Service) -> str:
    name = value.removeprefix("{secret:").removesuffix("}")
    if not _NAME.fullmatch(name):
        raise MatchaError(
            f'Service "{service.name}": {value!r} does not name a secret.', resolution=COMPONENT
        )
    return name


def sqlite_url(path: Path) -> str:
    """SQLAlchemy takes the path as it stands, up to a question mark."""
    if "?" in str(path):
        raise MatchaError(
            f"SQLite cannot be reached in a folder whose name holds a question mark: {path}",
            resolution="Rename the folder, then: matcha provision",
        )
    return f"sqlite:///{path}"


def base_url(port: int) -> str:
    return f"http://{HOST}:{port}"


def main_port(ports: Mapping[str, int]) -> int:
    """The port that answers HTTP for a service: `http`, else its first."""
    return ports["http"] if "http" in ports else next(iter(ports.values()))


def _value(match: re.Match[str], places: Places, text: str) -> str:
    kind, argument = match[1], match[2]
    plain = _PLAIN.get(kind) if argument is None else None
    named = _NAMED.get(kind) if argument else None
    if plain:
        return plain(places)
    if named and argument:
        try:
            return named(places, argument)
        except _UnknownError as error:
            raise _failed(places, match[0], text, str(error)) from None
    raise _failed(places, match[0], text, f"Known: {', '.join(f'{{{k}}}' for k in _KNOWN)}")


class _UnknownError(Exception):
    pass


def _failed(places: Places, what: str, text: str, details: str) -> MatchaError:
    shown = text if len(text) <= 200 else f"{text[:200]}..."
    return MatchaError(
        f'Service "{places.owner}": {what} cannot be resolved.',
        details=f"in: {shown}\n{details}",
        resolution=COMPONENT,
    )


def _hosts(places: Places) -> str:
    port = main_port(places.ports)
    return f"{HOST},localhost,{HOST}:{port},localhost:{port}"


def _folder(path: Path | None) -> str:
    return str(path)


def _pick(known: Mapping[str, object], name: str) -> object:
    if name not in known:
        raise _UnknownError(suggest(name, known))
    return known[name]


def _peer(places: Places, role: str) -> Mapping[str, int]:
    ports = places.peers.get(role)
    if not ports:
        raise _UnknownError(suggest(role, places.peers))
    return ports


def _url(places: Places, role: str) -> str:
    if role in places.optional and not places.peers.get(role):
        return ""
    return base_url(main_port(_peer(places, role)))


def _address(places: Places, argument: str) -> str:
    role, _, port = argument.rpartition(".")
    return f"{HOST}:{_pick(_peer(places, role), port)}"


def _area(places: Places, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise _UnknownError("An area is letters, digits, `-`, `_` and `.`.")
    return str(places.store / name)


def _database(places: Places, name: str) -> str:
    path = _pick(places.databases, name)
    return sqlite_url(path) if isinstance(path, Path) else ""


_PLAIN: dict[str, Callable[[Places], str]] = {
    "bind": lambda _: HOST,
    "hosts": _hosts,
    "files": lambda p: _folder(p.files),
    "live": lambda p: _folder(p.live),
}
_NAMED: dict[str, Callable[[Places, str], str]] = {
    "port": lambda p, name: str(_pick(p.ports, name)),
    "url": _url,
    "address": _address,
    "volume": lambda p, name: str(_pick(p.volumes, name)),
    "store": _area,
    "database": _database,
    "outside": lambda _, part: str(_pick(OUTSIDE, part)),
}
