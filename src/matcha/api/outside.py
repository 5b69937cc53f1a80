"""Bearer tokens of applications outside of the stack: made, listed and revoked."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Sequence

from matcha import engine, inference
from matcha.access import public_url
from matcha.api._project import Folder, Project, open_project
from matcha.api.lifecycle import LOCK_WAIT
from matcha.api.types import NewToken, RevokedToken, TokenInfo
from matcha.component import Component, Token, Tokens, TokenServer
from matcha.errors import BadInput, MatchaError, NotFound, suggest
from matcha.events import Emit, Event, silent
from matcha.state import State
from matcha.target import Changed, Exposing

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
RULE = "Letters, digits, dots, dashes and underscores, at most 63, a letter or digit at either end."
DAY = 86400.0
MOST_DAYS = 36500
TRIES = 5
VARIABLE = "MATCHA_TOKEN"  # of the example
SOON = "It goes by the new list within about a minute."


def create_token(
    name: str,
    *,
    models: Sequence[str] = (),
    expires: int | None = None,
    project: Folder = ".",
    target: str | None = None,
    emit: Emit = silent,
    lock_wait: float = LOCK_WAIT,
) -> NewToken:
    """Make a bearer token for an application. It is told once: only its digest is kept.

    `models`: deployments that it may ask; every one without. `expires`: days from now; never without.

    Raises BadInput for a name that is no name or taken, and where nothing is exposed; NotFound for a
    deployment that there is not. Killed, it leaves a token that nobody knows, which `tokens` shows.
    """
    opened = open_project(project, target)
    exposing = _exposing(opened)
    _check(name, expires)
    with engine.locked(opened.store, f"tokens create {name}", wait=lock_wait, emit=emit):
        state = _running(opened)
        for model in models:
            if model not in state.deployments:
                raise NotFound(
                    f'No model is deployed as "{model}".', resolution=suggest(model, state.deployments)
                )
        token, text = _made(name, models, expires)

        def with_it(kept: Tokens) -> tuple[Token, ...]:
            others = [each for each in kept.tokens if each.id != token.id]  # a lost answer may have kept it
            if taken := next((each for each in others if name in (each.name, each.id)), None):
                raise BadInput(
                    f'There is a token "{name}" already ({taken.id}).',
                    details="Its secret cannot be shown again.",
                    resolution=f"matcha tokens revoke {name}, or give the new one another name",
                )
            return (*others, token)

        silent_ones = _change(opened, exposing, with_it, emit, locked=True)
    url = public_url(opened.access(), _server(opened)[1])
    return NewToken(
        token=_told(token),
        bearer=text,
        url=url,
        curl=_curl(state, url, models),
        notes=_notes(silent_ones),
    )


def tokens(project: Folder = ".", *, target: str | None = None) -> list[TokenInfo]:
    """The tokens of applications, oldest first, without their secrets, which nobody knows."""
    opened = open_project(project, target)
    opened.state()
    return [_told(each) for each in _holder(opened).tokens().tokens]


def revoke_token(
    name: str,
    *,
    project: Folder = ".",
    target: str | None = None,
    emit: Emit = silent,
) -> RevokedToken:
    """End the token of this name or id, at once: also while somebody else changes the stack. Raises NotFound
    where there is none.
    """
    opened = open_project(project, target)
    holder = _holder(opened)
    opened.state()
    ended: list[Token] = []

    def without_it(kept: Tokens) -> tuple[Token, ...]:
        found = next((each for each in kept.tokens if name in (each.name, each.id)), None)
        if found is None and not ended:  # or a lost answer took it away
            raise NotFound(
                f'There is no token "{name}".', resolution=suggest(name, [each.name for each in kept.tokens])
            )
        ended[:] = [found or ended[0]]
        return tuple(each for each in kept.tokens if each.id != ended[0].id)

    silent_ones = _change(opened, holder, without_it, emit, locked=False)
    return RevokedToken(token=_told(ended[0]), notes=_notes(silent_ones))


def _check(name: str, expires: int | None) -> None:
    if not NAME.match(name):
        raise BadInput(
            f'"{name}" cannot be the name of a token.', details=RULE, resolution="matcha tokens create shop"
        )
    if expires is not None and not 0 < expires <= MOST_DAYS:
        raise BadInput(
            f"A token ends after 1 to {MOST_DAYS} days, not after {expires}.",
            resolution=f"matcha tokens create {name} --expires 90",
        )


def _made(name: str, models: Sequence[str], expires: int | None) -> tuple[Token, str]:
    """What is kept of it, and the token itself."""
    identity = secrets.token_hex(6)
    text = f"matcha_{identity}_{secrets.token_hex(32)}"
    now = float(int(time.time()))
    return (
        Token(
            id=identity,
            name=name,
            digest=hashlib.sha256(text.encode()).hexdigest(),
            models=tuple(dict.fromkeys(models)),
            created=now,
            expires=now + expires * DAY if expires else 0.0,
        ),
        text,
    )


def _change(
    opened: Project, holder: Exposing, edit: Callable[[Tokens], Sequence[Token]], emit: Emit, *, locked: bool
) -> Sequence[str]:
    """Once more on what is there by then, where somebody else changed it meanwhile."""
    for left in reversed(range(TRIES)):
        kept = holder.tokens()
        try:
            return _keep(opened, holder, kept, edit(kept), emit, locked=locked)
        except Changed:
            if not left:
                raise
    raise AssertionError


def _keep(
    opened: Project, holder: Exposing, before: Tokens, after: Sequence[Token], emit: Emit, *, locked: bool
) -> Sequence[str]:
    """Kept first, so that whatever ends this, servers come to it; names of those that were not told at once.
    Whom to tell is known before: a token that is kept is shown, whatever comes then.

    Serials follow the clock: they rise also where somebody took the list away, and another one begins.
    """
    serial = max(before.serial + 1, int(time.time() * 1000))
    changed = Tokens(serial=serial, tokens=tuple(after))
    access = opened.access() if opened.state().phase != "stopped" else None
    holder.keep_tokens(changed, before=before.serial, locked=locked)
    servers = [c for c in opened.components if isinstance(c, TokenServer)]
    if access is None or not servers:
        return ()  # nobody listens
    # Also where the stack file exposes nothing any more: until `provision` servers let applications in.
    emit(Event("tokens", "progress", "telling the model server"))
    return [name for server in servers for name in server.take_tokens(access, changed)]


def _notes(silent_ones: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name} did not answer. {SOON}" for name in silent_ones)


def _server(opened: Project) -> tuple[TokenServer, str]:
    """The component with tokens, and its role."""
    for component in opened.components:
        if isinstance(component, TokenServer) and isinstance(component, Component):
            return component, component.role
    raise BadInput(
        "Nothing in this stack takes tokens.",
        resolution="Add model-deployer under components: in matcha.yaml.",
    )


def _holder(opened: Project) -> Exposing:
    if isinstance(opened.target, Exposing):
        return opened.target
    raise BadInput(
        f"A stack of the {opened.target.name} target is not exposed, and needs no tokens.",
        details="Applications on this machine ask its models without one: matcha get model-deployer base-url",
        resolution="matcha provision --target kubernetes",
    )


def _exposing(opened: Project) -> Exposing:
    """Raises BadInput where tokens would be of no use."""
    holder = _holder(opened)
    _server(opened)
    if not holder.exposed():
        raise BadInput(
            "The models of this stack are not exposed to applications outside.",
            details="Say under which host, by which gateway and with which certificate they are.",
            resolution=f"Set targets.{opened.target.name}.expose in matcha.yaml, then: matcha provision",
        )
    return holder


def _running(opened: Project) -> State:
    state = opened.state()
    if state.phase == "stopped":
        raise MatchaError("The stack is stopped.", resolution="matcha start")
    return state


def _told(token: Token) -> TokenInfo:
    return TokenInfo(
        name=token.name,
        id=token.id,
        models=token.models,
        created=token.created,
        expires=token.expires,
        expired=0 < token.expires <= time.time(),
    )


def _curl(state: State, url: str, models: Sequence[str]) -> str:
    """A call of a model that the token may ask; empty where there is none."""
    names = [name for name in (models or state.deployments) if name in state.deployments]
    if not url or not names:
        return ""
    body = inference.sample_request(state.deployments[names[0]].signature, None)
    return inference.curl_call(f"{url}/v2/models/{names[0]}/infer", body, bearer=VARIABLE)
