"""`matcha.yaml`: reading it, checking it, and the small edits Matcha makes to it.

Comments and order survive edits (ruamel.yaml). Every complaint names the key's path and its line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from matcha.component import Component
from matcha.errors import BadInput, MatchaError, StackFileError, suggest

FILE = "matcha.yaml"
KEYS = ("stack", "target", "components", "targets", "models")

Catalogue = Mapping[str, Mapping[str, type[Component]]]  # role -> flavor -> class


class ModelSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Settings of one deployed model, under `models:`.

    `sample` is the captured share of traffic, 0..1; `thresholds` are drift thresholds by column.
    """

    sensitive: tuple[str, ...] = ()
    sample: float = 1.0
    drift_threshold: float | None = None
    thresholds: dict[str, float] = {}
    min_rows: int | None = None


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A checked stack: its components by role, and options of targets and models as written."""

    name: str
    target: str
    target_is_written: bool
    components: dict[str, Component]
    targets: dict[str, dict[str, Any]]
    models: dict[str, ModelSettings]


class _File:
    """A parsed stack file that knows on which line each key stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: Any = _parse(path)

    def error(self, keys: tuple[str, ...], message: str, hint: str = "") -> StackFileError:
        where = f"{self.path.name}:{self.line(keys)}"
        return StackFileError(
            f"{where}: {message}", details=f"At {'.'.join(keys) or 'the top'}.", resolution=hint
        )

    def line(self, keys: tuple[str, ...]) -> int:
        node, line = self.data, 1
        for key in keys:
            try:
                line = node.lc.key(key)[0] + 1
                node = node[key]
            except (AttributeError, KeyError, TypeError):
                break
        return int(line)


def load(root: Path, catalogue: Catalogue, targets: Iterable[str], target: str | None = None) -> Stack:
    """The stack of the project in `root`; the defaults where it has no file.

    Raises StackFileError for anything in the file that is not understood, BadInput for an unknown `target`.
    """
    path = root / FILE
    file = _File(path) if path.exists() else None
    data = _mapping(file, (), file.data if file else None)
    if file:
        _check_keys(file, (), data, KEYS)
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


def _parse(path: Path) -> Any:
    from ruamel.yaml import YAML  # noqa: PLC0415 - only where a file exists
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415

    try:
        return YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StackFileError(f"{path.name}:{line}: not valid YAML: {error.problem}") from error
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise StackFileError(f"{path.name}: not valid YAML: {error}") from error
    except OSError as error:
        raise StackFileError(f"{path.name} cannot be read: {error.strerror}") from error


def _mapping(file: _File | None, keys: tuple[str, ...], value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        assert file is not None
        raise file.error(keys, f"expected a mapping of names to values, found {value!r}")
    return value


def _check_keys(file: _File, keys: tuple[str, ...], data: Mapping[str, Any], known: Iterable[str]) -> None:
    names = tuple(known)
    for key in data:
        if key not in names:
            raise file.error((*keys, str(key)), f'unknown key "{key}"', suggest(str(key), names))


def _stack_name(file: _File | None, data: Mapping[str, Any], catalogue: Catalogue) -> str:
    name = data.get("stack", "default")
    known = {stack for flavors in catalogue.values() for cls in flavors.values() for stack in cls.stacks}
    if file and name not in known:
        raise file.error(("stack",), f'unknown stack "{name}"', suggest(str(name), known))
    return str(name)


def _target(file: _File | None, data: Mapping[str, Any], known: tuple[str, ...], asked: str | None) -> str:
    if asked is not None:
        if asked not in known:
            raise BadInput(f'Unknown target "{asked}".', resolution=suggest(asked, known))
        return asked
    name = data.get("target", "local")
    if file and name not in known:
        raise file.error(("target",), f'unknown target "{name}"', suggest(str(name), known))
    return str(name)


def _components(
    file: _File | None, data: Mapping[str, Any], stack: str, catalogue: Catalogue
) -> dict[str, Component]:
    chosen: dict[str, Component] = {}
    for role, flavors in catalogue.items():
        for cls in flavors.values():
            if stack in cls.stacks:
                chosen[role] = cls(cls.Options())
    written = _mapping(file, ("components",), data.get("components"))
    if file:
        _check_keys(file, ("components",), written, catalogue)
        for role, value in written.items():
            if value is None:
                chosen.pop(role, None)
            else:
                chosen[role] = _component(file, role, value, catalogue[role])
        _check_requirements(file, chosen)
    return chosen


def _component(file: _File, role: str, value: Any, flavors: Mapping[str, type[Component]]) -> Component:
    options: dict[str, Any] = {}
    keys: tuple[str, ...] = ("components", role)
    if isinstance(value, Mapping):
        options = {str(k): _plain(v) for k, v in value.items()}
        value = options.pop("flavor", next(iter(flavors)))
        keys = (*keys, "flavor")
    if value not in flavors:
        raise file.error(keys, f'unknown flavor "{value}" for {role}', suggest(str(value), flavors))
    cls = flavors[value]
    return cls(convert(file, ("components", role), options, cls.Options))


def convert(file: _File, keys: tuple[str, ...], value: Any, kind: type[Any]) -> Any:
    """`value` as `kind`, every complaint placed at the key it is about."""
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    for key in value:
        if key not in known:
            raise file.error((*keys, key), f'unknown option "{key}"', suggest(key, known))
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$.")
        inner = tuple(part.split("[")[0] for part in place.rstrip("`").split(".") if part)
        raise file.error((*keys, *inner), text[:1].lower() + text[1:]) from error


def _check_requirements(file: _File, chosen: Mapping[str, Component]) -> None:
    for role, component in chosen.items():
        for needed in component.requires:
            if needed not in chosen:
                raise file.error(
                    ("components", needed),
                    f"{role} ({component.flavor}) needs {needed}",
                    f"Take {role} out as well.",
                )


def _targets(
    file: _File | None, data: Mapping[str, Any], known: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    written = _mapping(file, ("targets",), data.get("targets"))
    if file:
        _check_keys(file, ("targets",), written, known)
    return {name: dict(_plain(_mapping(file, ("targets", name), value))) for name, value in written.items()}


def target_options(root: Path, name: str, options: Mapping[str, Any], kind: type[Any]) -> Any:
    """The options of one target, checked against what it declares."""
    path = root / FILE
    if not path.exists():
        return kind()
    return convert(_File(path), ("targets", name), options, kind)


def _models(file: _File | None, data: Mapping[str, Any]) -> dict[str, ModelSettings]:
    written = _mapping(file, ("models",), data.get("models"))
    found: dict[str, ModelSettings] = {}
    for name, value in written.items():
        assert file is not None
        keys = ("models", str(name))
        settings: ModelSettings = convert(file, keys, _plain(_mapping(file, keys, value)), ModelSettings)
        if not 0 <= settings.sample <= 1:
            raise file.error((*keys, "sample"), f"expected a share between 0 and 1, found {settings.sample}")
        found[str(name)] = settings
    return found


def _plain(value: Any) -> Any:
    """Plain containers and scalars in place of ruamel's, which remember how they were written."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def write_default(root: Path, text: str) -> Path:
    """Writes the file where there is none. Raises BadInput where there is one, MatchaError if it cannot."""
    path = root / FILE
    try:
        with path.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError as error:
        raise BadInput(
            f"{FILE} exists already.", resolution=f"Edit {path.name}, or remove it first."
        ) from error
    except OSError as error:
        raise MatchaError(
            f"{FILE} cannot be written in {root}: {error.strerror}.", resolution="matcha doctor"
        ) from error
    return path


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
    temporary = path.with_name(f".{FILE}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as handle:
        yaml.dump(data, handle)
    temporary.replace(path)
