"""`matcha.yaml`: reading it, checking it, and the small edits Matcha makes to it.

Comments and order survive edits (ruamel.yaml). Every complaint names the key's path and its line.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec

from matcha.component import Component, Cores, Mebibytes
from matcha.errors import BadInput, MatchaError, Unfit, suggest
from matcha.nearest import FILE as FILE  # noqa: PLC0414 - others have it from here
from matcha.service import Replicas, check_replicas
from matcha.stackfile import StackFile
from matcha.target import NamesFiles

KEYS = ("stack", "target", "components", "targets", "models")
DEPLOYMENT = re.compile(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?\Z")  # what a model may be served as
DEPLOYMENT_RULE = "Lower-case letters, digits and dashes, at most 52, no dash at either end."
_UNCHOSEN = re.compile(r"^# target: local +# where it runs: .*$", re.MULTILINE)  # as the template has it

Catalogue = Mapping[str, Mapping[str, type[Component]]]  # role -> flavor -> class
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Threshold = Annotated[float, msgspec.Meta(gt=0)]
Source = Annotated[str, msgspec.Meta(min_length=1)]
Rows = Annotated[int, msgspec.Meta(ge=1)]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """`sensitive`: columns to watch for bias. `sample`: the captured share of traffic, 0..1.

    `drift-threshold` and `min-rows`: for this model, instead of what monitoring says for all. `thresholds`:
    the same for single columns.

    `reference`: what drift is measured against in place of the training data, from the next `matcha deploy`
    on: a Parquet or CSV file, relative to the project, or a URI (`runs:/RUN/path`, `https://...`).

    `dedicated`: a process serves this model and no other, with `min-replicas`, `max-replicas`, `cpu` and
    `memory-mb` of its own, where they differ from the model deployer's.
    """

    sensitive: tuple[str, ...] = ()
    sample: Share = 1.0
    drift_threshold: Threshold | None = None
    thresholds: dict[str, Threshold] = {}
    min_rows: Rows | None = None
    reference: Source | None = None
    dedicated: bool = False
    min_replicas: Replicas | None = None
    max_replicas: Replicas | None = None
    cpu: Cores | None = None
    memory_mb: Mebibytes | None = None

    def __post_init__(self) -> None:
        check_replicas(self.min_replicas, self.max_replicas)

    def written(self) -> dict[str, Any]:
        """What differs from the defaults, by field; without `reference`, which only a deploy takes, and
        `dedicated`, which is no setting of what is served.
        """
        apart = {"reference": self.reference, "dedicated": self.dedicated}
        usual = {**msgspec.structs.asdict(ModelSettings()), **apart}
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value != usual[name]}


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A checked stack: its components by role, and options of targets and models as written."""

    name: str
    target: str
    target_is_written: bool
    components: dict[str, Component]
    targets: dict[str, dict[str, Any]]
    models: dict[str, ModelSettings]


def load(root: Path, catalogue: Catalogue, targets: Iterable[str], target: str | None = None) -> Stack:
    """The stack of the project in `root`; the defaults where it has no file.

    Raises StackFileError for anything in the file that is not understood, BadInput for an unknown `target`.
    """
    file = StackFile(root / FILE)
    data = file.mapping((), file.data)
    file.check_keys((), data, KEYS)
    known = tuple(targets)
    name = _stack_name(file, data, catalogue)
    return Stack(
        name=name,
        target=_target(file, data, known, target),
        target_is_written="target" in data,
        components=_components(file, data, name, catalogue),
        targets=_targets(file, data, known),
        models=_models(file, data),
    )


def _stack_name(file: StackFile, data: Mapping[str, Any], catalogue: Catalogue) -> str:
    stacks = {stack for flavors in catalogue.values() for cls in flavors.values() for stack in cls.stacks}
    return file.one_of(("stack",), data.get("stack", "default"), stacks, "unknown stack {}")


def _target(file: StackFile, data: Mapping[str, Any], known: tuple[str, ...], asked: str | None) -> str:
    if asked is None:
        return file.one_of(("target",), data.get("target", "local"), known, "unknown target {}")
    if asked not in known:
        raise BadInput(f'Unknown target "{asked}".', resolution=suggest(asked, known))
    return asked


def _components(
    file: StackFile, data: Mapping[str, Any], stack: str, catalogue: Catalogue
) -> dict[str, Component]:
    chosen: dict[str, Component] = {}
    for role, flavors in catalogue.items():
        for cls in flavors.values():
            if stack in cls.stacks:
                chosen[role] = cls(cls.Options())
    written = file.mapping(("components",), data.get("components"))
    file.check_keys(("components",), written, catalogue)
    for role, value in written.items():
        if value is None:
            chosen.pop(role, None)
        else:
            chosen[role] = _component(file, role, value, catalogue[role])
    _check_requirements(file, chosen)
    return chosen


def _component(file: StackFile, role: str, value: Any, flavors: Mapping[str, type[Component]]) -> Component:
    keys = ("components", role)
    options = dict(value) if isinstance(value, dict) else {}
    asked = options.pop("flavor", next(iter(flavors))) if isinstance(value, dict) else value
    where = (*keys, "flavor") if isinstance(value, dict) else keys
    cls = flavors[file.one_of(where, asked, flavors, f"unknown flavor {{}} for {role}")]
    return cls(file.convert(keys, options, cls.Options))


def _check_requirements(file: StackFile, chosen: Mapping[str, Component]) -> None:
    for role, component in chosen.items():
        for needed in component.requires:
            if needed not in chosen:
                raise file.error(
                    ("components", needed),
                    f"{role} ({component.flavor}) needs {needed}",
                    f"Take {role} out as well.",
                )


def _targets(file: StackFile, data: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    written = file.mapping(("targets",), data.get("targets"))
    file.check_keys(("targets",), written, known)
    return {name: file.mapping(("targets", name), value) for name, value in written.items()}


def target_options(root: Path, name: str, options: Any, kind: type[Any]) -> Any:
    """The options of one target, checked against what it declares."""
    if not options:
        return kind()
    file, keys = StackFile(root / FILE), ("targets", name)
    found = file.convert(keys, file.mapping(keys, options), kind)
    if isinstance(found, NamesFiles):
        try:
            found.check_files(root)
        except Unfit as error:
            raise file.error((*keys, error.key), str(error), error.hint) from error
    return found


def _models(file: StackFile, data: Mapping[str, Any]) -> dict[str, ModelSettings]:
    written = file.mapping(("models",), data.get("models"))
    found: dict[str, ModelSettings] = {}
    for name, value in written.items():
        keys = ("models", name)
        if not DEPLOYMENT.match(name):
            raise file.error(keys, f'"{name}" is the name of no deployment', DEPLOYMENT_RULE)
        found[name] = file.convert(keys, file.mapping(keys, value), ModelSettings)
    return found


def write_default(root: Path, text: str) -> Path:
    """Writes the file where there is none. Raises BadInput where there is one, MatchaError if it cannot."""
    path = root / FILE
    try:
        with path.open("x", encoding="utf-8") as handle:
            _fill(path, handle, text)
    except FileExistsError as error:
        raise BadInput(
            f"{FILE} exists already.", resolution=f"Edit {path.name}, or remove it first."
        ) from error
    except OSError as error:
        raise _unwritten(root, error) from error
    return path


def _unwritten(root: Path, error: OSError) -> MatchaError:
    return MatchaError(f"{FILE} cannot be written in {root}: {error.strerror}.", resolution="matcha doctor")


def _fill(path: Path, handle: TextIO, text: str) -> None:
    """Leaves no file where the disk does not take all of it."""
    try:
        handle.write(text)
        handle.flush()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def choose_target(root: Path, target: str) -> None:
    """Where the template has its target commented out, it stands there; atomic, as `set_key`."""
    path = root / FILE
    text = path.read_text(encoding="utf-8")
    chosen, count = _UNCHOSEN.subn(f"target: {target}", text, count=1)
    if count:
        _replace(path, chosen)
    else:
        set_key(root, ("target",), target)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{FILE}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise _unwritten(path.parent, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def set_key(root: Path, keys: tuple[str, ...], value: Any) -> None:
    """Set one value, keeping comments and order; atomic, so a kill leaves the old file."""
    from ruamel.yaml import YAML  # noqa: PLC0415 - edits are rare

    path = root / FILE
    yaml = YAML(typ="rt")
    data = yaml.load(path.read_text(encoding="utf-8")) if path.exists() else None
    if data is None:
        data = yaml.map()
    node = data
    for key in keys[:-1]:
        if not isinstance(node.get(key), Mapping):
            node[key] = yaml.map()
        node = node[key]
    node[keys[-1]] = value
    written = io.StringIO()
    yaml.dump(data, written)
    _replace(path, written.getvalue())
