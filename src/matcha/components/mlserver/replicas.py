"""Tells every replica of a serving process what to serve, and asks every one what it serves.

One replica is told alone, before all others at once: a model that does not load, or ends the process, does so
on one replica, and the others are told to stay as they are. A replica that goes meanwhile is no failure where
others remain: the one in its place reads the list from its file.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from matcha import plainhttp
from matcha.access import Access, replicas
from matcha.component import Tokens
from matcha.errors import ComponentFailed, MatchaError

TOKEN = "serving-token"  # noqa: S105 - the name of a secret
PATH = "/matcha/deployments"
FLUSH_PATH = "/matcha/flush"
TOKENS_PATH = "/matcha/tokens"
TELL_SECONDS = 5.0
NOWHERE = 404  # of a server that lets no application in, and needs no tokens
READY_PATH = "/matcha/ready"
SECONDS = 1800.0  # a model may be gigabytes; the server itself limits how long one loads
START_SECONDS = 60.0  # until it answers: a server that ended is started again
SHORT_SECONDS = 8.0  # where another replica answers: one that starts reads its file
POLL = 0.5
ASK_SECONDS = 2.0
SILENT = "The model server does not answer."
ENDED = (
    "The model server ended while it loaded models, out of memory or by what a model does; "
    "or the way to it broke."
)
LATE = f"The model server did not load its models within {SECONDS / 60:.0f} minutes."
UNREADY = b"x-matcha-ready: no"
T = TypeVar("T")


class Shown(msgspec.Struct, frozen=True):
    """What a server says of one name.

    `uri` and `version` are of what it serves (empty: nothing), `error` says why that does not answer, and
    `refused` why it is not what was asked for last.
    """

    name: str
    uri: str
    version: str
    error: str
    refused: str


class Loaded(msgspec.Struct, frozen=True):
    """What became of one name when a list was told; `changed`: it serves another model than before."""

    name: str
    error: str
    changed: bool = False


class Lost(Exception):
    """A replica that could not be told, and what to say where it was the only one. `ended`: it was there."""

    def __init__(self, failure: ComponentFailed, *, ended: bool) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.ended = ended


Told = dict[str, Loaded]


def tell(access: Access, role: str, text: str, how: Mapping[str, Any]) -> dict[str, str]:
    """Error (empty: none) by name, once every replica that is there has loaded its models.

    Where a model loads on some replicas and not on others, those that loaded it go back to what they served.
    Raises ComponentFailed where no replica answers, and where one ends by what it was told.
    """
    with replicas(access, role) as found:
        list_ = _List(access, text, how)
        first, told, waiting = _first(access, role, list_, found)
        failed = {name: loaded.error for name, loaded in told.items() if loaded.error}
        others = _each(waiting, lambda url: _told(list_, url, {**list_.failed, **failed}))
        all_ = {first: told, **{name: each for name, each in others.items() if each is not None}}
        some = {n: why for n, why in _failures(all_).items() if n not in failed}
        for name, each in all_.items() if some else ():
            back = {n: why for n, why in some.items() if n in each and each[n].changed}
            with contextlib.suppress(Lost):
                list_.put(found[name], {**failed, **some}, back=back, wait=SHORT_SECONDS)
    return {name: failed.get(name) or some.get(name, "") for name in told}


def _failures(told: Mapping[str, Told]) -> dict[str, str]:
    """By name, of replicas after the first."""
    found: dict[str, str] = {}
    for replica, results in told.items():
        for loaded in results.values():
            if loaded.error:
                found.setdefault(loaded.name, f"On {replica}: {loaded.error}")
    return found


def _first(
    access: Access, role: str, list_: _List, found: Mapping[str, str]
) -> tuple[str, Told, dict[str, str]]:
    """The replica that was told alone, what came of it, and those that are left to be told."""
    waiting = _ready_first(access, found)
    lost: list[Lost] = []
    while waiting:
        name = next(iter(waiting))
        url = waiting.pop(name)
        try:
            return name, list_.put(url, list_.failed, wait=START_SECONDS), waiting
        except Lost as error:
            if error.ended and (not waiting or name in _names(access, role)):
                raise error.failure from error  # it is there again, so the list ended it, and would others
            lost.append(error)
    raise (lost[0].failure if lost else _failed(f"{role} has no replica"))


def _names(access: Access, role: str) -> set[str]:
    with replicas(access, role) as found:
        return set(found)


def _ready_first(access: Access, found: Mapping[str, str]) -> dict[str, str]:
    if len(found) < 2:
        return dict(found)
    ready = {name for name, look in looks(access, found).items() if look is not None and look[0]}
    return dict(sorted(found.items(), key=lambda each: each[0] not in ready))


def _told(list_: _List, url: str, failed: Mapping[str, str]) -> Told | None:
    """None of one that went, or does not answer yet."""
    try:
        return list_.put(url, failed, wait=SHORT_SECONDS)
    except Lost:
        return None


class _List:
    """A list to tell, and how."""

    def __init__(self, access: Access, text: str, how: Mapping[str, Any]) -> None:
        self._content = {**msgspec.json.decode(text), **how}
        self._headers = {**authorized(access), "Content-Type": "application/json"}
        self.failed: Mapping[str, str] = how.get("failed", {})

    def put(
        self, url: str, failed: Mapping[str, str], *, wait: float, back: Mapping[str, str] | None = None
    ) -> Told:
        """Waits `wait` seconds until it answers, and then until the models are loaded. Raises Lost, and
        ComponentFailed where it answers otherwise.
        """
        import httpx  # noqa: PLC0415 - 0.1 s that other commands need not pay

        _await(url, wait)
        said = {name: value for name, value in {"failed": failed, "back": back}.items() if value}
        content = msgspec.json.encode({**self._content, **said})
        timeout = httpx.Timeout(SECONDS, connect=10)
        try:
            answer = httpx.put(
                f"{url}{PATH}", content=content, headers=self._headers, timeout=timeout, trust_env=False
            )
        except httpx.ReadTimeout as error:
            raise _failed(f"{url}: {error}", LATE) from error
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            raise Lost(_failed(f"{url}: {error}", ENDED), ended=True) from error
        except httpx.HTTPError as error:
            raise Lost(_failed(f"{url}: {error}"), ended=False) from error
        if not answer.is_success:
            raise _failed(f"{url} answered {answer.status_code}: {answer.text[:300]}")
        return {loaded.name: loaded for loaded in msgspec.json.decode(answer.content, type=list[Loaded])}


def _await(url: str, seconds: float) -> None:
    """Until it answers anything: what is on the way takes connections that lead nowhere yet. Raises Lost."""
    end = time.monotonic() + seconds
    while True:
        try:
            plainhttp.status(f"{url}{READY_PATH}", ASK_SECONDS)
        except (OSError, ValueError) as error:
            if time.monotonic() > end:
                raise Lost(_failed(f"{url}: {error}"), ended=False) from error
            time.sleep(POLL)
        else:
            return


Look = tuple[bool, dict[str, Shown]]


def looks(access: Access, found: Mapping[str, str]) -> dict[str, Look | None]:
    """Whether each replica takes requests, and what it serves by name; None where it does not say."""
    headers = authorized(access)

    def look(url: str) -> Look | None:
        try:
            answer = plainhttp.get(f"{url}{PATH}", ASK_SECONDS, headers)
            if answer.status != 200:
                return None
            shown = msgspec.json.decode(answer.body, type=list[Shown])
        except (OSError, ValueError, msgspec.MsgspecError):
            return None
        return UNREADY not in answer.head.lower(), {each.name: each for each in shown}

    return _each(found, look)


def flush(access: Access, role: str) -> None:
    """Have what was captured handed on. A server that does not answer has nothing to hand on now."""
    import httpx  # noqa: PLC0415

    headers = authorized(access)

    def ask(url: str) -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{url}{FLUSH_PATH}", headers=headers, timeout=10, trust_env=False)

    with contextlib.suppress(MatchaError, OSError), replicas(access, role) as found:
        _each(found, ask)


def take_tokens(access: Access, role: str, tokens: Tokens) -> tuple[str, ...]:
    """Names of replicas that did not take them; the role where none could be asked."""
    import httpx  # noqa: PLC0415

    content = msgspec.json.encode(tokens)

    def put(url: str, headers: Mapping[str, str]) -> bool:
        try:
            answer = httpx.put(
                f"{url}{TOKENS_PATH}", content=content, headers=headers, timeout=TELL_SECONDS, trust_env=False
            )
        except httpx.HTTPError:
            return False
        return answer.is_success or answer.status_code == NOWHERE

    try:
        headers = authorized(access)
        with replicas(access, role) as found:
            took = _each(found, lambda url: put(url, headers))
    except (MatchaError, OSError):
        return (role,)
    return tuple(name for name, it in took.items() if not it)


def _each(found: Mapping[str, str], ask: Callable[[str], T]) -> dict[str, T]:
    """Asked at once, the answers in the order given."""
    if len(found) < 2:
        return {name: ask(url) for name, url in found.items()}
    with ThreadPoolExecutor(len(found)) as threads:
        return dict(zip(found, threads.map(ask, found.values()), strict=True))


def authorized(access: Access) -> dict[str, str]:
    return {"Authorization": f"Bearer {access.secret(TOKEN)}"}


def _failed(details: str, message: str = SILENT) -> ComponentFailed:
    return ComponentFailed(message, details=details, resolution="matcha status")
