"""Entries that somebody added to lists, and where to take them out."""

from __future__ import annotations

from typing import Any

import pytest

from matcha.targets.kubernetes.compare import differences, extras, last_editor


def pod(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"containers": list(containers)}}


def container(name: str, *env: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "env": [{"name": key, "value": "1"} for key in env], **more}


@pytest.mark.parametrize(
    ("wanted", "found", "paths"),
    [
        (pod(container("a", "X")), pod(container("a", "X")), []),
        (pod(container("a", "X")), pod(container("a", "Y", "X", "Z")), ["0/env/2", "0/env/0"]),
        (pod(container("a", "X")), pod(container("spy"), container("a", "X", "Y")), ["1/env/1", "0"]),
        (
            pod(container("a")),
            pod(container("a", "X")),
            [],
        ),  # an empty list says nothing
        (
            {"metadata": {"labels": {"a/b": "1"}}},
            {"metadata": {"labels": {"a/b": "1", "c": "2"}}},
            [],
        ),
    ],
)
def test_what_was_added_is_found_so_that_it_can_be_removed_in_turn(
    wanted: Any, found: Any, paths: list[str]
) -> None:
    given = [each.path for each in extras(wanted, found)]
    assert given == [f"/spec/containers/{path}" for path in paths]
    for each in extras(wanted, found):
        assert each.mark == f"{each.path}/name"
    for path in given:
        *inner, last = path.strip("/").split("/")
        place: Any = found
        for part in inner:
            place = place[int(part)] if isinstance(place, list) else place[part]
        del place[int(last)]
    if given:
        assert list(differences(wanted, found)) == []


def test_a_volume_that_is_mounted_twice_is_not_wanted_twice() -> None:
    wanted = pod({"name": "a", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]})
    found = pod(
        {
            "name": "a",
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/etc"}],
        }
    )
    [extra] = extras(wanted, found)
    assert (extra.path, extra.mark, extra.value) == (
        "/spec/containers/0/volumeMounts/1",
        "/spec/containers/0/volumeMounts/1/mountPath",
        "/etc",
    )


@pytest.mark.parametrize(("part", "who"), [("scale", "kubectl"), ("status", "kubectl-edit")])
def test_who_scales_changes_the_object_and_who_reports_does_not(part: str, who: str) -> None:
    """The cluster keeps a history of each part."""
    entries = [
        {"manager": "kubectl-edit", "operation": "Update", "time": "2026-01-01T00:00:00Z"},
        {"manager": "kubectl", "operation": "Update", "time": "2026-01-02T00:00:00Z", "subresource": part},
    ]
    assert last_editor({"metadata": {"managedFields": entries}}, "matcha") == who
