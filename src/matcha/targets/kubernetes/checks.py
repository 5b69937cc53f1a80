"""What no pattern says of options: URLs, sizes, certificates, and two that contradict each other.

Everything here raises Unfit. What may hold a password is quoted without it.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn
from urllib.parse import SplitResult, parse_qs, urlsplit

from matcha import pythons
from matcha.errors import Unfit, quoted, suggest
from matcha.targets.kubernetes.compare import amount
from matcha.targets.kubernetes.kubefiles import odd

if TYPE_CHECKING:
    from matcha.targets.kubernetes.options import KubernetesOptions

SMALLEST = "1Mi"  # of a volume: a number without a unit is of bytes
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# By an image's name: after "python:" for sure, elsewhere likely.
_SAID = re.compile(
    r"(?:(?P<sure>(?:^|/)python:)|(?:^|[/:_-])py(?:thon)?-?)(?P<version>3\.[0-9]+|2\.7)(?=[^0-9/][^/]*$|$)"
)
_S3 = "an S3 URL: s3://bucket/prefix?endpoint=https://host&region=eu-west-1"
_MYSQL = "a MySQL server, without a database: mysql://host:3306"
_INDEX = "a package index: https://host/simple"


class Bucket(NamedTuple):
    """`url` is without a slash at its end; `endpoint` and `region` are empty where nobody said them."""

    url: str
    endpoint: str
    region: str


class Login(NamedTuple):
    """Of a database server. An IPv6 `host` is in brackets; `port` is 0 where nobody said it."""

    host: str
    port: int
    tls: bool


def check(options: KubernetesOptions) -> None:
    python(options.image, options.python)
    for key in ("storage-size", "database-size", "volume-size"):
        size(key, getattr(options, key.replace("-", "_")))
    if options.storage:
        bucket(options.storage)
        _needs_secret("storage", options.storage_secret, "access-key and secret-key")
    if options.database:
        login(options.database)
        _needs_secret("database", options.database_secret, "username and password")
    if options.index_url:
        index(options.index_url)
    ports(options.ports)


def ports(chosen: Mapping[str, int]) -> None:
    for name, number in chosen.items():
        if same := next((other for other in chosen if other != name and chosen[other] == number), ""):
            raise Unfit("ports", f"ports gives {number} to both {name} and {same}")


def _needs_secret(key: str, name: str, keys: str) -> None:
    if not name:
        raise Unfit(f"{key}-secret", f"{key} needs {key}-secret, the name of the Secret with {keys}")


def python(image: str, version: str) -> None:
    """`version` may be empty; it has the last word on an image whose name does not say it for sure."""
    found = _SAID.search(image)
    if found is None or not found["sure"]:
        return
    if found["version"] not in pythons.SUPPORTED:
        known = f"{pythons.SUPPORTED[-1]} to {pythons.SUPPORTED[0]}"
        raise Unfit("image", f"image has to be one with Python {known}, found {quoted(image)}")
    inside = found["version"]
    if version and inside != version:
        raise Unfit(
            "python",
            f'python says "{version}", and the image is of Python {inside}: {quoted(image)}',
            "Take python out, or name another image.",
        )


def said(image: str) -> re.Match[str] | None:
    """Where an image's name says its Python, as group `version`: one that Matcha supports."""
    found = _SAID.search(image)
    return found if found and found["version"] in pythons.SUPPORTED else None


def size(key: str, quantity: str) -> None:
    if (amount(quantity) or 0) < (amount(SMALLEST) or 0):
        raise Unfit(key, f"{key} has to be at least {SMALLEST}, as in 20Gi, found {quoted(quantity)}")


def bucket(url: str) -> Bucket:
    parts = _parts("storage", url, _S3)
    if "@" in parts.netloc:
        _misplaced("storage", url, "keys", "Put them into the Secret that storage-secret names.")
    if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc) or parts.fragment:
        _refuse("storage", _S3, url)
    asked = _query("storage", parts.query, ("endpoint", "region"))
    if endpoint := asked.get("endpoint", ""):
        wanted = "an S3 URL whose endpoint is one of a web server: endpoint=https://host:9000"
        there = _server("storage", endpoint, ("http", "https"), wanted)
        if "@" in there.netloc:
            _misplaced("storage", endpoint, "keys", "Put them into the Secret that storage-secret names.")
    return Bucket(f"s3://{parts.netloc}{parts.path.rstrip('/')}", endpoint, asked.get("region", ""))


def login(url: str) -> Login:
    parts = _server("database", url, ("mysql",), _MYSQL)
    if "@" in parts.netloc:
        _misplaced("database", url, "credentials", "Put them into the Secret that database-secret names.")
    if parts.path not in ("", "/") or parts.fragment:
        _refuse("database", _MYSQL, url)
    tls = _query("database", parts.query, ("tls",)).get("tls", "false")
    if tls not in ("true", "false"):
        raise Unfit("database", "database takes tls=true or tls=false: mysql://host:3306?tls=true")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    return Login(host, parts.port or 0, tls == "true")


def index(url: str) -> None:
    parts = _server("index-url", url, ("http", "https"), _INDEX)
    if "@" in parts.netloc:
        _misplaced(
            "index-url",
            url,
            "credentials",
            "Name an index that the cluster's pods read without a password, such as a proxy in its network.",
        )


def bundle(path: Path) -> str:
    """The certificates of `ca-bundle`."""
    try:
        if why := odd(path):
            raise Unfit("ca-bundle", f"ca-bundle {why}: {path}")
        text = path.read_text(encoding="utf-8")
        if "PRIVATE KEY-----" in text:
            raise Unfit("ca-bundle", f"ca-bundle holds a private key, which every pod could read: {path}")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
        return text
    except (ssl.SSLError, UnicodeDecodeError):
        wanted = "a file of certificates in PEM"
        raise Unfit("ca-bundle", f"ca-bundle has to be {wanted}, found another: {path}") from None
    except OSError as error:
        raise Unfit("ca-bundle", f"ca-bundle cannot be read: {error.strerror}: {path}") from error


def _refuse(key: str, wanted: str, found: str) -> NoReturn:
    raise Unfit(key, f"{key} has to be {wanted}, found {quoted(found)}")


def _misplaced(key: str, url: str, what: str, hint: str) -> NoReturn:
    raise Unfit(key, f"{key} has to be without {what}, found {quoted(url)}", hint)


def _parts(key: str, url: str, wanted: str) -> SplitResult:
    """Python's own reading drops line breaks and tabs."""
    try:
        parts = urlsplit(url)
    except ValueError:
        _refuse(key, wanted, url)
    if re.search(r"[\s\x00-\x1f]", url):
        _refuse(key, wanted, url)
    return parts


def _server(key: str, url: str, schemes: Sequence[str], wanted: str) -> SplitResult:
    """Of a URL that names a server."""
    parts = _parts(key, url, wanted)
    try:
        if parts.scheme in schemes and _is_host(parts.hostname or "") and parts.port != 0:
            return parts
    except ValueError:
        pass
    _refuse(key, wanted, url)


def _is_host(name: str) -> bool:
    if ":" not in name:
        return _HOST.fullmatch(name) is not None
    return isinstance(ipaddress.ip_address(name), ipaddress.IPv6Address)


def _query(key: str, query: str, known: Sequence[str]) -> dict[str, str]:
    """What stands behind the question mark of an option's URL, each name once and with a value."""
    found = parse_qs(query, keep_blank_values=True)
    for name, values in found.items():
        if name not in known:
            said = f"means nothing behind the question mark of its URL. {suggest(name, known)}"
            raise Unfit(key, f"{key}: {quoted(name)} {said}")
        if len(values) > 1 or not values[0]:
            raise Unfit(key, f"{key} has to be a URL that says {name} once, with a value")
    return {name: values[0] for name, values in found.items()}
