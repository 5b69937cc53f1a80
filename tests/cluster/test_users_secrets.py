"""Secrets that the user makes: a plan says which are missing, and how they are made."""

from __future__ import annotations

from pathlib import Path

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from support.small_stack import SmallStack
from support.stores import cluster

OPTIONS = {
    "pull_secret": "registry-key",
    "storage": "s3://bucket?endpoint=https://s3.example.org",
    "storage_secret": "my-keys",
    "database": "mysql://db.example.org",
    "database_secret": "my-database",
}
KEYS = {
    "registry-key": {".dockerconfigjson": "{}"},
    "my-keys": {"access-key": "a", "secret-key": "b"},
    "my-database": {"username": "u", "password": "p"},
}


def told(stack: SmallStack) -> dict[str, str]:
    """What the plan's notes say of each; the doctor says the same."""
    said = dict.fromkeys(KEYS, "")
    notes, findings = stack.plan().notes, stack.target().examine(None, (), fix=False)
    for name in KEYS:
        about = f"The Secret {name} "
        said[name] = "".join(note for note in notes if note.startswith(about))
        [found] = [f for f in findings if f.message.startswith(about)]
        assert found.ok == (not said[name])
        assert found.ok or said[name].startswith(found.message.rstrip("."))
        assert said[name].endswith(found.fix)
    return said


def test_a_plan_says_which_secrets_pods_would_wait_for(stack: SmallStack, api_server: Path) -> None:
    stack.options = OPTIONS
    admin = cluster(api_server, stack.namespace)
    for name, said in told(stack).items():
        assert "-secret) is not there, and pods wait for it: kubectl --namespace " in said
        assert f"--namespace {stack.namespace} create secret " in said and f" {name} --" in said
    for name, keys in KEYS.items():
        *has, _ = keys
        admin.create(Secret(metadata=ObjectMeta(name=name), stringData={k: keys[k] for k in has}))
    for name, said in told(stack).items():
        assert f"lacks {list(KEYS[name])[-1]}, and pods wait" in said
    for name, keys in KEYS.items():
        admin.delete(Secret, name)
        admin.create(Secret(metadata=ObjectMeta(name=name), stringData=keys))
    assert set(told(stack).values()) == {""}


def test_the_namespace_is_made_before_a_secret_in_it(api_server: Path, tmp_path: Path, name: str) -> None:
    stack = SmallStack(tmp_path, api_server, name)
    stack.options = OPTIONS
    for said in told(stack).values():
        assert f": kubectl create namespace {name} && kubectl --namespace {name} create secret " in said
