"""What a model URI says, before anybody is asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from matcha.errors import BadInput

LATEST = "latest"
FORMS = (
    "models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest, models:/m-ID, runs:/RUN/PATH "
    "or the folder of a saved model"
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_LOGGED = re.compile(r"m-[0-9a-f]{32}")


class Registered(NamedTuple):
    """A registered model by number, alias, `latest` or (neither given) not yet by anything."""

    name: str
    version: str = ""
    alias: str = ""


class Logged(NamedTuple):
    """A model that was logged, registered or not."""

    model_id: str


class OfRun(NamedTuple):
    """`path` is where the run logged it: an artifact path or the name of a logged model."""

    run_id: str
    path: str


class Stored(NamedTuple):
    """A folder of the stack's artifact store."""

    uri: str


class Folder(NamedTuple):
    """A folder on this machine."""

    path: Path


ModelURI = Registered | Logged | OfRun | Stored | Folder


def parse(uri: str) -> ModelURI:
    """Raises BadInput for what is none of FORMS."""
    found = _SCHEME.match(uri)
    scheme = found[1].lower() if found else ""
    rest = uri[len(scheme) + 1 :] if found else uri
    if scheme == "models":
        return _models(uri, rest)
    if scheme == "runs":
        return _runs(uri, rest)
    if scheme == "mlflow-artifacts":
        return Stored(uri)
    if scheme in ("", "file") and uri.strip() and "\0" not in uri:
        return Folder(Path(unquote(urlsplit(uri).path) if scheme else uri).expanduser())
    raise _malformed(uri, f"Matcha cannot read {scheme}: addresses." if scheme else "")


def _models(uri: str, rest: str) -> ModelURI:
    text = rest.removeprefix("/")
    if text == rest:
        raise _malformed(uri)
    name, slash, suffix = text.rpartition("/")
    if slash:
        return _suffixed(uri, name, suffix)
    if _LOGGED.fullmatch(text):
        return Logged(text)
    name, at, alias = text.rpartition("@")
    if not (name.strip() and alias.strip() if at else text.strip()):
        raise _malformed(uri)
    return Registered(name, alias=alias) if at else Registered(text)


def _suffixed(uri: str, name: str, suffix: str) -> ModelURI:
    if "/" in name:
        raise _malformed(uri, 'Names of registered models hold no "/".')
    if not name.strip() or not suffix.strip():
        raise _malformed(uri)
    if suffix.lower() == LATEST:
        return Registered(name, LATEST)
    if not (suffix.isascii() and suffix.isdigit()):
        raise _malformed(uri, f'"{suffix}" is no version number; an alias is written {name}@{suffix}.')
    return Registered(name, str(int(suffix)))


def _runs(uri: str, rest: str) -> ModelURI:
    run_id, _, path = rest.removeprefix("/").partition("/")
    path = path.strip("/")
    if not rest.startswith("/") or not run_id or not path or ".." in path.split("/"):
        raise _malformed(uri)
    return OfRun(run_id, path)


def _malformed(uri: str, why: str = "") -> BadInput:
    return BadInput(
        f'"{uri}" is not the address of a model.',
        details=" ".join(part for part in (why, f"Known forms: {FORMS}.") if part),
        resolution="matcha models",
    )
