"""The kubeconfig as kubectl reads it: several files are one, and the first that names a thing has its say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from lightkube import KubeConfig
from lightkube.config.kubeconfig import SingleConfig, to_mapping
from lightkube.config.models import Cluster, NameValue, User, UserExec
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from matcha.errors import BadInput, suggest
from matcha.targets.kubernetes.kubefiles import kubefiles
from matcha.targets.kubernetes.options import KubernetesOptions

_EXEC_API = "client.authentication.k8s.io/"
_LISTS = {"clusters": "cluster", "contexts": "context", "users": "user"}
_PROXIES = ("http://", "https://")
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


class Way(Cluster, omit_defaults=True):
    """A cluster of a kubeconfig, with what lightkube leaves out of it."""

    proxy: str = msgspec.field(name="proxy-url", default="")
    tls_name: str = msgspec.field(name="tls-server-name", default="")


def way(config: SingleConfig) -> Way:
    return config.cluster if isinstance(config.cluster, Way) else Way(server=config.cluster.server)


def load_config(options: KubernetesOptions) -> SingleConfig:
    """Its cluster is a Way, and it has a user: one without credentials where the context names none.

    Raises BadInput for a kubeconfig or context that does not exist or cannot be used.
    """
    paths = kubefiles(options.kubeconfig)
    known = _merged(paths)
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
    if (proxy := way(found).proxy) and not proxy.startswith(_PROXIES):
        raise BadInput(
            f'The cluster of the context "{context}" is behind a proxy that Matcha cannot use: {proxy}',
            details="Of proxy-url it takes http and https.",
            resolution="Give the cluster another proxy-url in the kubeconfig, or set "
            "targets.kubernetes.context in matcha.yaml.",
        )
    return _with_exec_info(found if found.user else found._replace(user=User()))


def _merged(paths: Sequence[Path]) -> KubeConfig:
    """Files that do not exist are passed over as long as there is one."""
    there = [path for path in paths if path.is_file()]
    if not there:
        raise _unusable(paths, "There is no such file.")
    merged: dict[str, Any] = {"current-context": "", **{name: [] for name in _LISTS}}
    for path in there:
        try:
            _add(merged, _read(path))
        except MarkedYAMLError as error:  # which quotes the file, and credentials stand in it
            mark = error.problem_mark
            where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
            raise _unusable([path], f"It is no YAML: {error.problem}, {where}") from None
        except (OSError, ValueError, YAMLError, LookupError, TypeError, AttributeError) as error:
            raise _unusable([path], str(error)) from error
    try:
        known = KubeConfig.from_dict(merged, fname=there[0])
        known.clusters = to_mapping(merged["clusters"], "cluster", factory=Way)
        return known
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise _unusable(there, str(error)) from error


def _read(path: Path) -> dict[str, Any]:
    """With absolute paths in the place of those that start at the file's folder."""
    found = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
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
        resolution="Set KUBECONFIG, or targets.kubernetes.kubeconfig in matcha.yaml.",
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
