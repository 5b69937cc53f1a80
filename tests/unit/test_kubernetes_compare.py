"""Entries that somebody added to lists, and where to take them out."""

from __future__ import annotations

from typing import Any

import pytest

from matcha.targets.kubernetes.compare import differences, editors, extras


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


@pytest.mark.parametrize(
    ("fields", "is_edit"),
    [
        ({"f:spec": {"f:replicas": {}}}, True),
        ({"f:metadata": {"f:labels": {"f:team": {}}}}, False),
        ({"f:spec": {"f:template": {"f:metadata": {"f:annotations": {"f:restartedAt": {}}}}}}, False),
        ({"f:spec": {"f:template": {"f:spec": {'k:{"name":"a"}': {".": {}, "f:image": {}}}}}}, True),
        ({}, False),
    ],
)
def test_an_editor_is_who_set_more_than_labels(fields: dict[str, Any], is_edit: bool) -> None:
    entries = [{"manager": "kubectl-edit", "operation": "Update", "fieldsV1": fields}]
    own = [
        {"manager": "matcha", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        {"manager": "kube-controller-manager", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        {"manager": "autoscaler", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
    ]
    found = {"metadata": {"managedFields": [*entries, *own]}}
    assert editors(found, "matcha") == (["kubectl-edit"] if is_edit else [])
