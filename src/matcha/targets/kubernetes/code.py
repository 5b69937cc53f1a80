"""Folders of code, and a service's texts, as ConfigMaps. Pure but for reads of package files.

Code is content-addressed: a folder that changed is another ConfigMap, so pods of the old version keep theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lightkube.models.core_v1 import ConfigMapVolumeSource, KeyToPath, Volume, VolumeMount
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap

from matcha.errors import COMPONENT, MatchaError
from matcha.targets.kubernetes.names import CODE, MANAGER, labels

LIMIT = 900_000  # bytes; a ConfigMap ends at 1 MiB
POD_CODE = Path(__file__).resolve().parent / "inside"


def texts(name: str, owner: str, component: str, content: Mapping[str, str]) -> ConfigMap:
    """A ConfigMap of files by relative path. Raises MatchaError above the size that one may have."""
    size = sum(len(text.encode()) for text in content.values())
    if size > LIMIT:
        raise MatchaError(
            f"The files of {owner} are too large for a cluster: {size} bytes, at most {LIMIT}.",
            resolution=COMPONENT,
        )
    return ConfigMap(
        metadata=ObjectMeta(name=name, labels=labels(owner, component)),
        data={key(path): text for path, text in sorted(content.items())},
    )


def key(path: str) -> str:
    """A ConfigMap's keys have no folders."""
    return path.replace("/", "__")


def volume(name: str, config_map: str, paths: Mapping[str, str]) -> Volume:
    """`paths` are the file names that the keys of the ConfigMap stand for."""
    items = [KeyToPath(key=key(path), path=path) for path in sorted(paths)]
    return Volume(name=name, configMap=ConfigMapVolumeSource(name=config_map, items=items))


def mount(name: str, path: str) -> VolumeMount:
    return VolumeMount(name=name, mountPath=path, readOnly=True)


def folder_map(folder: Path) -> ConfigMap:
    return texts(folder_name(folder), CODE, MANAGER, contents(folder))


@cache
def folder_name(folder: Path) -> str:
    found = hashlib.sha256()
    for path, text in sorted(contents(folder).items()):
        found.update(f"{path}\0{text}\0".encode())
    return f"code-{found.hexdigest()[:16]}"


@cache
def contents(folder: Path) -> dict[str, str]:
    """Every file of the folder by its relative path, bytecode left out."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in files}
