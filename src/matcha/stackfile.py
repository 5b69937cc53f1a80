"""A parsed `matcha.yaml` that knows on which line each key stands, and values as what they should be.

Every complaint names the key's path and its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from matcha.errors import AGAIN, StackFileError, Unfit, quoted, suggest, unreadable

Keys = tuple[str, ...]
MOST = 10_000  # values of a file, with each alias written out
DEEPEST = 40


class StackFile:
    """`data` is what the file holds, in plain containers with text as keys; None without a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values = 0
        self._tree = _parse(path) if path.exists() else None
        self.data = self._plain(self._tree, ())

    def _plain(self, value: Any, keys: Keys) -> Any:
        """Plain containers and scalars in place of ruamel's, which remember how they were written."""
        self._values += 1
        if self._values > MOST or len(keys) > DEEPEST:
            what = f"more than {MOST} values" if len(keys) <= DEEPEST else f"more than {DEEPEST} levels"
            hint = "Write out what its aliases (*name) stand for, as far as it is needed."
            raise self.error(keys[:3], f"{what}, once every alias is written out", hint)
        if isinstance(value, Mapping):
            return {str(k): self._plain(v, (*keys, str(k))) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(v, (*keys, str(n))) for n, v in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(keys, f"expected a finite number, found {float(value)}")
        return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), value)

    def error(self, keys: Keys, message: str, hint: str = "") -> StackFileError:
        where = f"{self.path.name}:{self.line(keys)}"
        return StackFileError(
            f"{where}: {message}",
            details=f"At {'.'.join(keys) or 'the top'}.",
            resolution=hint or _correct(self.path),
        )

    def line(self, keys: Keys) -> int:
        """Of the key, or of the last one above it that has a line of its own."""
        node, line = self._tree, 1
        for key in keys:
            try:
                place, node = _step(node, key)
            except (AttributeError, KeyError, TypeError, ValueError, IndexError):
                break
            line = place + 1
        return line

    def mapping(self, keys: Keys, value: Any) -> dict[str, Any]:
        """Nothing is an empty one."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(keys, f"expected a mapping of names to values, found {value!r}")
        return value

    def check_keys(self, keys: Keys, data: Iterable[str], known: Iterable[str], what: str = "key") -> None:
        names = tuple(known)
        for key in data:
            if key not in names:
                raise self.error((*keys, key), f'unknown {what} "{key}"', suggest(key, names))

    def one_of(self, keys: Keys, value: Any, known: Iterable[str], complaint: str) -> str:
        """`value`, if it is one of `known`; `{}` of the complaint stands for it otherwise."""
        names = tuple(known)
        if value not in names:
            raise self.error(keys, complaint.format(f'"{value}"'), suggest(str(value), names))
        return str(value)

    def convert(self, keys: Keys, value: dict[str, Any], kind: type[Any]) -> Any:
        """`value` as the struct `kind`, every complaint placed at the key it is about."""
        self.check_keys(keys, value, (field.encode_name for field in msgspec.structs.fields(kind)), "option")
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            text, _, place = str(error).partition(" - at `$")
            inner = _place(value, kind, place)
            if isinstance(unfit := error.__cause__, Unfit):
                raise self.error((*keys, *inner, unfit.key), str(unfit), unfit.hint) from None
            found = _at(value, inner)
            if inner and isinstance(found, dict):  # of options within options
                self.check_keys((*keys, *inner), found, _names(kind, inner) or found, "option")
            said = _wanted(kind, inner, found) or _sentence(text, found)
            raise self.error((*keys, *inner), said) from error


def _parse(path: Path) -> Any:
    from ruamel.yaml import YAML  # noqa: PLC0415 - only where a file exists
    from ruamel.yaml.error import MarkedYAMLError  # noqa: PLC0415

    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise StackFileError(
            f"{path.name} is {kind}, not a file.",
            details=str(path),
            resolution=f"mv {path.name} {path.name}.old, then matcha init",
        )
    try:
        return YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StackFileError(
            f"{path.name}:{line}: not valid YAML: {error.problem}", resolution=_correct(path)
        ) from error
    except OSError as error:
        raise unreadable(path, error, StackFileError) from error
    except Exception as error:
        raise StackFileError(f"{path.name}: not valid YAML: {error}", resolution=_correct(path)) from error


def _correct(path: Path) -> str:
    return f"Correct {path.name}, {AGAIN}"


def _step(node: Any, key: str) -> tuple[int, Any]:
    """The line, from 0, of a key or place below `node`, and what stands there."""
    if isinstance(node, list):
        return int(node.lc.item(int(key))[0]), node[int(key)]  # type: ignore[attr-defined]
    own = next(k for k in (*node, key) if str(k) == key)
    return int(node.lc.key(own)[0]), node[own]


def _place(value: dict[str, Any], kind: type[Any], place: str) -> Keys:
    """The keys of msgspec's `.a[...].b[0]`, which does not say which key of a mapping it is about."""
    keys: Keys = ()
    for name, number in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", place.rstrip("`")):
        keys += (name or (_culprit(value, kind, keys) if number == "..." else number),)
    return keys


def _culprit(value: dict[str, Any], kind: type[Any], keys: Keys) -> str:
    """The first key of the mapping at `keys` whose value alone is refused."""
    for key, inner in _at(value, keys).items():
        try:
            msgspec.convert(_with(value, keys, {key: inner}), kind)
        except msgspec.ValidationError:
            return str(key)
    return "..."


def _at(value: Any, keys: Keys) -> Any:
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value.get(key)
    return value


def _with(value: Any, keys: Keys, inner: Any) -> Any:
    """`value` with `inner` at `keys`."""
    if not keys:
        return inner
    if isinstance(value, list):
        number = int(keys[0])
        return [*value[:number], _with(value[number], keys[1:], inner), *value[number + 1 :]]
    return {**value, keys[0]: _with(value[keys[0]], keys[1:], inner)}


def _wanted(kind: type[Any], keys: Keys, found: Any) -> str:
    """By the description of the type at `keys`, if it has one. `secret` in its `extra` hides the value."""
    info: Any = msgspec.inspect.type_info(kind)
    told, hidden = "", False
    for key in (*keys, ""):
        while isinstance(info, msgspec.inspect.Metadata):
            told = (info.extra_json_schema or {}).get("description", "")
            hidden = bool((info.extra or {}).get("secret"))
            info = info.type
        if key:
            told, info = "", _below(info, key)
    if not told:
        return ""
    name = f"each of {keys[-2]}" if keys[-1].isdigit() and len(keys) > 1 else keys[-1]
    return f"{name} has to be {told}" + ("" if hidden else f", found {quoted(found)}")


def _names(kind: type[Any], keys: Keys) -> list[str]:
    """Of the struct that stands at `keys`; none where another type does."""
    info: Any = msgspec.inspect.type_info(kind)
    for key in keys:
        info = _below(_bare(info), key)
    return [field.encode_name for field in getattr(_bare(info), "fields", ())]


def _bare(info: Any) -> Any:
    """Without what is said of the type, and without null."""
    while isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    if isinstance(info, msgspec.inspect.UnionType):
        return next((each for each in info.types if hasattr(each, "fields")), info)
    return info


def _below(info: Any, key: str) -> Any:
    info = _bare(info)
    fields = getattr(info, "fields", ())
    inner = getattr(info, "value_type", getattr(info, "item_type", None))  # of a mapping, of a sequence
    return next((f.type for f in fields if f.encode_name == key), inner)


def _sentence(text: str, found: Any) -> str:
    """msgspec's, with the value that is out of bounds; of a wrong type it says the type itself."""
    said = text[:1].lower() + text[1:]
    return said if ", got " in text or isinstance(found, (dict, list)) else f"{said}, found {found!r}"
