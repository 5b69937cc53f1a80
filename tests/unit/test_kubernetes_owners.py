"""Fields that somebody else owns in an object of Matcha's."""

from __future__ import annotations

from typing import Any

import pytest

from matcha.targets.kubernetes.owners import Foreign, adopted, foreign

WANTED = {"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a", "image": "a:1"}]}}}}
OWN = {"f:spec": {"f:replicas": {}}}
EDITED = {
    "f:spec": {
        "f:paused": {},
        "f:template": {
            "f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/restartedAt": {}}},
            "f:spec": {
                "f:dnsPolicy": {},
                "f:hostPID": {},
                "f:containers": {
                    'k:{"name":"a"}': {"f:tty": {}},
                    'k:{"name":"spy"}': {".": {}, "f:name": {}},
                },
            },
        },
    }
}


def entry(fields: dict[str, Any], manager: str = "kubectl-edit", **more: str) -> dict[str, Any]:
    return {"manager": manager, "operation": "Update", "apiVersion": "apps/v1", "fieldsV1": fields, **more}


def live(*entries: dict[str, Any]) -> dict[str, Any]:
    pod = {
        "dnsPolicy": "ClusterFirst",
        "hostPID": False,
        "containers": [{"name": "spy"}, {"name": "a", "image": "a:1", "tty": True, "stdin": True}],
    }
    spec = {"replicas": 1, "paused": True, "template": {"spec": pod}}
    own = entry(OWN, "matcha", operation="Apply")
    return {"metadata": {"managedFields": [own, *entries]}, "spec": spec}


def test_the_outermost_of_what_somebody_added_is_told_with_who_did() -> None:
    """What is as usual, and what nobody owns, is not."""
    containers = "spec.template.spec.containers"
    assert list(foreign(WANTED, live(entry(EDITED)), "Deployment")) == [
        Foreign("spec.paused", "kubectl-edit", False),
        Foreign(f"{containers}[a].tty", "kubectl-edit", False),
        Foreign(f"{containers}[spy]", "kubectl-edit", False),
    ]


@pytest.mark.parametrize(
    ("kind", "added"),
    [
        ("Deployment", entry(EDITED, "kube-controller-manager")),
        ("Deployment", entry(EDITED, "before-first-apply")),
        ("Deployment", entry(EDITED, "matcha")),
        ("Deployment", entry(EDITED, subresource="status")),
        ("Deployment", entry({"f:metadata": {"f:labels": {"f:team": {}}}})),
        ("Job", entry(EDITED)),
    ],
)
def test_others_whose_fields_are_no_business_of_matchas(kind: str, added: dict[str, Any]) -> None:
    assert list(foreign(WANTED, live(added), kind)) == []


def test_what_becomes_matchas_is_the_spec_and_not_the_metadata_in_it() -> None:
    labels = {"f:metadata": {"f:labels": {"f:team": {}}}}
    own, edits = adopted(live(entry({**EDITED, **labels})), insist=False)
    restarted = {"f:template": {"f:metadata": EDITED["f:spec"]["f:template"]["f:metadata"]}}  # type: ignore[index]
    assert edits["fieldsV1"] == {**labels, "f:spec": restarted}
    assert own["fieldsV1"]["f:spec"].keys() == {"f:replicas", "f:paused", "f:template"}
    assert own["fieldsV1"]["f:spec"]["f:template"].keys() == {"f:spec"}


def test_what_others_apply_becomes_matchas_only_on_demand() -> None:
    seen = live(entry(EDITED, "gitops", operation="Apply"))
    assert adopted(seen, insist=False) == seen["metadata"]["managedFields"]
    own, _ = adopted(seen, insist=True)
    assert "f:paused" in own["fieldsV1"]["f:spec"]
