"""The stack file that `init` and a first `provision` write: what can be set, commented out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from matcha import registry, spec
from matcha.component import Component
from matcha.errors import MatchaError, Untold

STACK = "default"
HEAD = """\
# What Matcha provisions here. Everything is optional; this file holds no secret and belongs in git.
# What is commented out shows what holds without it.
# Every key: docs/reference/stack-file.md in Matcha's repository.

stack: default            # the named set of components to start from

# target: local           # where it runs: local processes (default)
"""
PLACE = "    "  # options stand below a name, which stands below a key


def default() -> str:
    """Uncommented, it says the same."""
    parts = (_components(), _targets(), _models())
    return "\n".join([HEAD, *("".join(f"# {line}\n" for line in part) for part in parts)])


def _components() -> Iterator[str]:
    yield "components:             # role: flavor, or role: {flavor, options}; null takes a component out"
    for role, flavors in registry.component_catalogue().items():
        yield from _component(role, flavors)


def _component(role: str, flavors: Mapping[str, type[Component]]) -> Iterator[str]:
    """With the flavor of the default stack, where it has one."""
    usual = next((f for f, cls in flavors.items() if STACK in cls.stacks), next(iter(flavors)))
    options = list(_options(flavors[usual].Options))
    others = [flavor for flavor in flavors if flavor != usual]
    remark = f"  # or {', '.join(others)}" if others else ""
    if not options:
        yield f"  {role}: {usual}{remark}"
        return
    yield from (f"  {role}:", f"{PLACE}flavor: {usual}{remark}", *options)


def _targets() -> Iterator[str]:
    yield "targets:                # options of targets, by name"
    for name in registry.target_names():
        if options := list(_options_of(name)):
            yield from (f"  {name}:", *options)


def _options_of(target: str) -> Iterator[str]:
    """None of a target whose packages are not installed."""
    if isinstance(target, Untold):
        return
    try:
        found = registry.target_class(target).Options
    except MatchaError:
        return
    yield from _options(found)


def _models() -> Iterator[str]:
    yield "models:                 # settings of deployed models, by deployment name"
    yield from ("  movie:", *_options(spec.ModelSettings))


def _options(struct: Any) -> Iterator[str]:
    """What the struct says of its keys, then each with its default."""
    fields = msgspec.structs.fields(struct)
    if fields:
        said = inspect.cleandoc(struct.__dict__.get("__doc__") or "")
        yield from (f"{PLACE}# {line}" for line in said.splitlines() if line)
    yield from (f"{PLACE}{field.encode_name}: {_value(field)}".rstrip() for field in fields)


def _value(field: msgspec.structs.FieldInfo) -> str:
    """JSON, which is YAML, too; nothing for a key that has to be set."""
    made = field.default_factory is not msgspec.NODEFAULT
    value = field.default_factory() if made else field.default
    return "" if value is msgspec.NODEFAULT else msgspec.json.encode(value).decode()
