"""Finds components and targets: folders of this package, and entry points of other packages.

A component is a folder under `matcha/components` whose package has `COMPONENT`; a target one under
`matcha/targets` with `TARGET`. Other distributions add theirs through the entry-point groups
`matcha.components` and `matcha.targets`, looked at only when a name is not found here.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from matcha import components, targets
from matcha.component import Component
from matcha.errors import MatchaError, Untold, suggest

FOR_TESTS = ("fake",)


@cache
def component_catalogue(third_party: bool = False) -> dict[str, dict[str, type[Component]]]:
    """Role -> flavor -> class, built-in flavors first.

    Looking for third-party ones costs tens of milliseconds, so that is asked for only where a stack names
    something that is not built in.
    """
    found: dict[str, dict[str, type[Component]]] = {}
    others = _third_party("matcha.components") if third_party else []
    for cls in (*_built_in(components, "COMPONENT"), *others):
        found.setdefault(cls.role, {})[cls.flavor] = cls
    return found


@cache
def target_names(third_party: bool = False) -> tuple[str, ...]:
    """Targets a stack may name."""
    names = (m.name for m in pkgutil.iter_modules(targets.__path__))
    own = tuple(Untold(name) if name in FOR_TESTS else name for name in names)
    return (*own, *(name for name, _ in _entry_points("matcha.targets"))) if third_party else own


def target_class(name: str) -> Any:
    """The class of a target; its module is imported only now."""
    if name in {m.name for m in pkgutil.iter_modules(targets.__path__)}:
        return _built_in_target(name)
    for found, point in _entry_points("matcha.targets"):
        if found == name:
            return point.load()
    raise MatchaError(
        f'No target named "{name}".',
        details=suggest(name, target_names()),
        resolution="Install the package that has it, or: matcha provision --target local",
    )


def _built_in_target(name: str) -> Any:
    """Raises MatchaError where packages are missing that only this target needs."""
    try:
        return importlib.import_module(f"matcha.targets.{name}").TARGET
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "matcha":
            raise
        raise MatchaError(
            f"The {name} target needs packages that are not installed.",
            details=f"{error.name} is missing.",
            resolution=f'pip install "matcha-ml[{name}]"',
        ) from error


def _built_in(package: Any, attribute: str) -> list[Any]:
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    modules = (importlib.import_module(f"{package.__name__}.{name}") for name in names)
    return [getattr(m, attribute) for m in modules if hasattr(m, attribute)]


def _third_party(group: str) -> list[Any]:
    return [point.load() for _, point in _entry_points(group)]


@cache
def _entry_points(group: str) -> tuple[tuple[str, Any], ...]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - costs tens of milliseconds

    return tuple((point.name, point) for point in entry_points(group=group))
