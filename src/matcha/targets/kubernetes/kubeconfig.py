"""The kubeconfig as kubectl reads it: several files are one, and the first that names a thing has its say."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from lightkube import KubeConfig
from lightkube.config.kubeconfig import SingleConfig, to_mapping
from lightkube.config.models import Cluster, Context, NameValue, User, UserExec
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.parser import ParserError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import ScannerError

from matcha.errors import BadInput, suggest
from matcha.targets.kubernetes.kubefiles import is_file, kubefiles, odd
from matcha.targets.kubernetes.options import KubernetesOptions

_EXEC_API = "client.authentication.k8s.io/"
_LISTS = {"clusters": "cluster", "contexts": "context", "users": "user"}
_WEB = ("http://", "https://")
_DATA = "-data"
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


class Way(Cluster, omit_defaults=True):
    """A cluster of a kubeconfig, with what lightkube leaves out of it."""

    proxy: str = msgspec.field(name="proxy-url", default="")
    tls_name: str = msgspec.field(name="tls-server-name", default="")


class _Cluster(msgspec.Struct):
    name: str
    cluster: Way | None = None


class _Context(msgspec.Struct):
    name: str
    context: Context | None = None


class _User(msgspec.Struct):
    name: str
    user: User | None = None


class _File(msgspec.Struct):
    """As much of a file as Matcha reads, checked before anything is made of it."""

    current: str | None = msgspec.field(name="current-context", default=None)
    clusters: list[_Cluster] | None = None
    contexts: list[_Context] | None = None
    users: list[_User] | None = None


def way(config: SingleConfig) -> Way:
    return config.cluster if isinstance(config.cluster, Way) else Way(server=config.cluster.server)


def load_config(options: KubernetesOptions) -> SingleConfig:
    """Its cluster is a Way, and it has a user: one without credentials where the context names none.

    Raises BadInput for a kubeconfig or context that does not exist or cannot be used.
    """
    paths = kubefiles(options.kubeconfig)
    known = _merged(paths)
    if not known.contexts:
        raise _unusable(paths, f"No context stands there{_of_nothing(paths)}.")
    context = options.context or known.current_context or ""
    if context not in known.contexts:
        raise BadInput(
            f'The kubeconfig has no context "{context}".' if context else "No context is the current one.",
            details=f"{_listed(paths)}: {suggest(context, known.contexts)}",
            resolution="Set targets.kubernetes.context in matcha.yaml.",
        )
    try:
        found = known.get(context)
    except KeyError as error:
        raise _unusable(
            paths, f'The context "{context}" names {error.args[0]!r}, which stands nowhere.'
        ) from error
    assert found is not None
    if (proxy := way(found).proxy) and not _is_web(proxy):
        raise BadInput(
            f'The cluster of the context "{context}" is behind a proxy that Matcha cannot use: '
            f"{_bare(proxy)}",
            details="Of proxy-url it takes http and https. In a user's name and password, %40 stands for @, "
            "%2F for / and %23 for #.",
            resolution="Give the cluster another proxy-url in the kubeconfig, or set "
            "targets.kubernetes.context in matcha.yaml.",
        )
    if not found.cluster.server.startswith(_WEB):
        raise _unusable(
            paths, f'The server of the cluster of the context "{context}" is no URL of https or http.'
        )
    _check_files(paths, found)
    _check_data(paths, found)
    return _with_exec_info(found if found.user else found._replace(user=User()))


def unfit(options: KubernetesOptions, config: SingleConfig, error: OSError) -> BadInput:
    """Of a configuration whose files and certificates are such that no client can be made from it."""
    named, paths = _told(config), kubefiles(options.kubeconfig)
    for key in _FILES:
        if key in named and (why := _lack(Path(named[key]))):
            return _unusable(paths, f"{key} of the context {config.context_name} is {named[key]}. {why}")
    keys = ", ".join(key for key in named if key in _FILES or key.endswith(_DATA))
    reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or "no reason was given"
    return _unusable(paths, f"Of the context {config.context_name}, {keys} cannot be used: {reason}")


def _is_web(url: str) -> bool:
    try:
        return url.startswith(_WEB) and bool(httpx2.URL(url).host)
    except httpx2.InvalidURL:  # which quotes parts of a password
        return False


def _bare(url: str) -> str:
    """Without what it signs in with."""
    found = re.match(r"[a-z][a-z0-9+.-]*://", url)
    scheme = found[0] if found else ""
    return scheme + url.removeprefix(scheme).rpartition("@")[2]


def _check_files(paths: Sequence[Path], config: SingleConfig) -> None:
    """What is not there is told where it is used."""
    for key, value in _told(config).items():
        if key in _FILES:
            with contextlib.suppress(OSError):
                if why := odd(Path(value)):
                    told = f"{key} of the context {config.context_name} is {value}. It {why}."
                    raise _unusable(paths, told)


def _check_data(paths: Sequence[Path], config: SingleConfig) -> None:
    for key, value in _told(config).items():
        if key.endswith(_DATA):
            try:
                is_pem = b"-----BEGIN " in base64.b64decode(value)
            except ValueError:
                is_pem = False
            if not is_pem:
                told = f"Of the context {config.context_name}, {key} cannot be used: that is no PEM in base64"
                raise _unusable(paths, told)


def _told(config: SingleConfig) -> dict[str, Any]:
    """What stands of its cluster and its user."""
    return {**msgspec.to_builtins(config.cluster), **msgspec.to_builtins(config.user or User())}


def _merged(paths: Sequence[Path]) -> KubeConfig:
    """Files that do not exist are passed over as long as there is one."""
    there = [path for path in paths if is_file(path)]
    if not there:
        raise _unusable(paths, " ".join(dict.fromkeys(_lack(path) for path in paths)))
    merged: dict[str, Any] = {"current-context": "", **{name: [] for name in _LISTS}}
    for path in there:
        if why := _lack(path):
            raise _unusable([path], why)
        try:
            _add(merged, _read(path))
        except MarkedYAMLError as error:
            raise _unusable([path], f"It is no YAML: {_problem(error)}") from None
        except msgspec.ValidationError as error:
            raise _unusable([path], f"It is no kubeconfig: {_plain(error)}") from None
        except (ValueError, YAMLError) as error:
            raise _unusable([path], f"It is no {'text' if _is_codec(error) else 'YAML'}.") from None
        except OSError as error:
            raise _unusable([path], f"It cannot be read: {error.strerror}.") from error
    try:
        known = KubeConfig.from_dict(merged, fname=there[0])
        known.clusters = to_mapping(merged["clusters"], "cluster", factory=Way)
        return known
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise _unusable(there, f"It is no kubeconfig: {error}") from error


def _lack(path: Path) -> str:
    """Why it is no file that can be read; empty where it is one."""
    try:
        if path.is_dir():
            return "It is a folder: name a file in it."
        if why := odd(path):
            return f"It {why}."
        with path.open("rb"):
            return ""
    except FileNotFoundError:
        return "There is no such file."
    except OSError as error:
        return f"It cannot be read: {error.strerror}."


def _of_nothing(paths: Sequence[Path]) -> str:
    there = [path for path in paths if is_file(path)]
    return "" if any(path.read_bytes().strip() for path in there) else ": it is empty"


def _problem(error: MarkedYAMLError) -> str:
    """Credentials stand in the file, so nothing of it is quoted."""
    mark = error.problem_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
    said = str(error.problem)
    if not isinstance(error, (ScannerError, ParserError)):  # of which the grammar alone is quoted
        said = re.split(r"[\"']", said)[0].strip()
    return f"{said}, {where}"


def _is_codec(error: Exception) -> bool:
    return isinstance(error, (UnicodeError, ReaderError))


def _plain(error: msgspec.ValidationError) -> str:
    """It says types and places, and never values."""
    text, _, place = str(error).partition(" - at `$")
    told = text.replace("`object", "`mapping").replace("`array", "`list")
    return f"{told}, at {place.strip('.`') or 'the top'}"


def _read(path: Path) -> dict[str, Any]:
    """With absolute paths in the place of those that start at the file's folder."""
    found = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    found = {} if found is None else found
    msgspec.convert(found, _File)
    for about in _entries(found):
        for key in _FILES:
            if about.get(key):
                about[key] = str(path.parent / about[key])
        plugin = about.get("exec") or {}
        if "/" in plugin.get("command", ""):
            plugin["command"] = str(path.parent / plugin["command"])
    return dict(found)


def _entries(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, what in _LISTS.items():
        yield from (entry[what] for entry in found.get(name) or () if entry.get(what))


def _add(merged: dict[str, Any], more: dict[str, Any]) -> None:
    merged["current-context"] = merged["current-context"] or more.get("current-context") or ""
    for name in _LISTS:
        had = {entry["name"] for entry in merged[name]}
        merged[name] += [entry for entry in more.get(name) or () if entry["name"] not in had]


def _unusable(paths: Sequence[Path], why: str) -> BadInput:
    return BadInput(
        f"There is no usable kubeconfig at {_listed(paths)}.",
        details=why,
        resolution="Mend it, or name another by KUBECONFIG or targets.kubernetes.kubeconfig in matcha.yaml. "
        "Then: matcha doctor",
    )


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


def _with_exec_info(config: SingleConfig) -> SingleConfig:
    """Lightkube knows the v1beta1 of credential plugins and tells them nothing; v1 answers the same way."""
    user = config.user
    if user is None or user.exec is None or not user.exec.apiVersion.startswith(_EXEC_API):
        return config
    told = ("server", "certificate-authority-data", "proxy-url", "tls-server-name")
    known = {key: value for key, value in msgspec.to_builtins(config.cluster).items() if key in told}
    spec = {"interactive": False, "cluster": known}
    info = {"kind": "ExecCredential", "apiVersion": user.exec.apiVersion, "spec": spec}
    env = [*(user.exec.env or ()), NameValue(name="KUBERNETES_EXEC_INFO", value=json.dumps(info))]
    plugin: UserExec = msgspec.structs.replace(user.exec, apiVersion=f"{_EXEC_API}v1beta1", env=env)
    return config._replace(user=msgspec.structs.replace(user, exec=plugin))
