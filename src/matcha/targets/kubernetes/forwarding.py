"""Whether this machine's forwards to a stack run and lead to pods, for the doctor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from matcha.errors import MatchaError
from matcha.host.findings import Finding
from matcha.host.probe import says
from matcha.state import State
from matcha.targets.kubernetes.links import Links, strays
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.store import ClusterStore

PROBE_SECONDS = 5.0


def _gone(store: ClusterStore, options: KubernetesOptions, state: State | None) -> list[Links]:
    """None where there is a record that cannot be read: it may hold any stack."""
    if state is not None:
        return strays(options, state.stack_id)
    try:
        store.read()
    except MatchaError:
        return []
    return strays(options, "")


def findings(store: ClusterStore, options: KubernetesOptions, state: State | None) -> Iterator[Finding]:
    """Whether this machine's forwards run and lead to pods, where it has any; some may be of a gone stack."""
    for gone in _gone(store, options, state):
        yield Finding(
            check="forwards",
            ok=False,
            message=f"This machine still has forwards to a stack that was destroyed ({gone.home}).",
            fix="matcha doctor --fix",
            mend=gone.remove,
            mended=f"The forwards to a stack that was destroyed were taken away ({gone.home}).",
        )
    links = Links(state.stack_id, options) if state else None
    forwards = links.forwards() if links else ()
    if not links or not state or not forwards:
        return
    if state.phase == "stopped":
        yield Finding(check="forwards", ok=True, message="The stack is stopped, and so are its forwards.")
        return
    if answer := links.answer():
        yield Finding(
            check="forwards",
            ok=False,
            message=f"The forwards of this machine do not work: {answer}. Their log: {links.log}",
            fix="matcha doctor --fix",
            mend=lambda: links.ensure({f.key: f.port for f in forwards}),
            mended=f"The forwards of this machine were started anew. Their log: {links.log}",
        )
        return
    yield _answers(links)


def _answers(links: Links) -> Finding:
    forwards = links.forwards()
    with ThreadPoolExecutor(max(len(forwards), 1)) as pool:
        answers = list(pool.map(lambda f: says(f.local, PROBE_SECONDS), forwards))
    silent = [f"{f.key} on {f.local}: {a}" for f, a in zip(forwards, answers, strict=True) if a]
    if silent:
        message = f"Not every forward leads to a pod: {'; '.join(silent)}. Their log: {links.log}"
        return Finding(check="forwards", ok=False, message=message, fix="matcha status")
    shown = ", ".join(f"{f.key} on {f.local}" for f in forwards)
    return Finding(check="forwards", ok=True, message=f"All answer: {shown}. Their log: {links.log}")
