"""What a user has to be allowed in the stack's namespace. One table for the Role, the checks and the docs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
from lightkube.models.authorization_v1 import ResourceAttributes, SelfSubjectAccessReviewSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule
from lightkube.resources.authorization_v1 import SelfSubjectAccessReview
from lightkube.resources.rbac_authorization_v1 import Role

from matcha.targets.kubernetes.cluster import Cluster

NAME = "matcha-user"
_ALL = ("get", "list", "watch", "create", "patch", "update", "delete")


class Rule(msgspec.Struct, frozen=True):
    """`why` is for a person who asks what this is needed for."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str


RULES = (
    Rule("", ("configmaps", "secrets", "services", "serviceaccounts"), _ALL, "what services consist of"),
    Rule("", ("persistentvolumeclaims",), _ALL, "the stack's volumes"),
    Rule("apps", ("deployments", "statefulsets"), _ALL, "what runs services"),
    Rule("apps", ("replicasets",), ("get", "list", "watch", "delete"), "proving that nothing is left"),
    Rule("autoscaling", ("horizontalpodautoscalers",), _ALL, "how many replicas run"),
    Rule("batch", ("jobs", "cronjobs"), _ALL, "building environments, dumping databases"),
    Rule("networking.k8s.io", ("networkpolicies",), _ALL, "who may talk to whom"),
    Rule("policy", ("poddisruptionbudgets",), _ALL, "moving one pod at a time"),
    Rule("coordination.k8s.io", ("leases",), _ALL, "the stack's lock"),
    Rule("", ("pods",), ("get", "list", "watch", "patch", "delete"), "status, and why a pod does not run"),
    Rule("", ("pods/log",), ("get",), "matcha logs"),
    Rule("", ("pods/portforward",), ("get", "create"), "reaching the stack from this machine"),
    Rule("", ("events",), ("get", "list"), "why a pod is not made"),
    Rule("metrics.k8s.io", ("pods",), ("get", "list"), "memory in matcha status"),
)
EXPOSING = (
    Rule("gateway.networking.k8s.io", ("gateways", "httproutes"), _ALL, "exposing models"),
    Rule("cert-manager.io", ("certificates",), _ALL, "the certificate of exposed models"),
)


def role() -> Role:
    """For users who are no cluster admins; binds nobody."""
    rules = [
        PolicyRule(apiGroups=[r.group], resources=list(r.resources), verbs=list(r.verbs))
        for r in (*RULES, *EXPOSING)
    ]
    return Role(metadata=ObjectMeta(name=NAME), rules=rules)


def missing(cluster: Cluster, *, exposes: bool = False) -> list[str]:
    """Lines for a person: what this user may not do, and what it is for. Asks the cluster for each.

    `exposes`: whether the stack does.
    """
    rules = (*RULES, *(EXPOSING if exposes else ()))
    asked = [(r, resource, verb) for r in rules for resource in r.resources for verb in r.verbs]
    with ThreadPoolExecutor(8) as pool:
        allowed = list(pool.map(lambda each: may(cluster, each[0].group, each[1], each[2]), asked))
    refused: dict[tuple[str, str], list[str]] = {}
    for (rule, resource, verb), yes in zip(asked, allowed, strict=True):
        if not yes:
            name = f"{resource}.{rule.group}" if rule.group else resource
            refused.setdefault((name, rule.why), []).append(verb)
    return [f"{', '.join(verbs)} {name} ({why})" for (name, why), verbs in refused.items()]


def may(cluster: Cluster, group: str, resource: str, verb: str, *, everywhere: bool = False) -> bool:
    """Whether the user may; `everywhere`: for a resource that is in no namespace, whichever it is."""
    kind, _, part = resource.partition("/")
    wanted = ResourceAttributes(
        group=group,
        resource=kind,
        subresource=part or None,
        verb=verb,
        namespace=None if everywhere else cluster.namespace,
    )
    review = SelfSubjectAccessReview(spec=SelfSubjectAccessReviewSpec(resourceAttributes=wanted))
    answer = cluster.create(review, again=True)  # which makes nothing
    return bool(answer.status and answer.status.allowed)
