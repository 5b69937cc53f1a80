"""Tells the serving processes what to serve.

The order keeps every model answering: children load what is new to them, then the main server swaps, and
only then children let go of what nobody forwards to them any more. The main server is told what a child could
not load, and leaves those names as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from matcha import plainhttp
from matcha.component import PLACEHOLDER, Access, Deployment, LoadResult, Tokens, replicas
from matcha.errors import ComponentFailed, MatchaError, NotProvisioned

TOKEN = "serving-token"  # noqa: S105 - the name of a secret
PATH = "/matcha/deployments"
FLUSH_PATH = "/matcha/flush"
TOKENS_PATH = "/matcha/tokens"
TELL_SECONDS = 5.0
SECONDS = 1800.0  # a model may be gigabytes; the server itself limits how long one loads
RETRIES = 8  # of a connection, in a minute: a server that ended is started again
ASK_SECONDS = 2.0
SILENT = "The model server does not answer."
ENDED = "The model server ended while it loaded models: out of memory, or by what a model does."
LATE = f"The model server did not load its models within {SECONDS / 60:.0f} minutes."
SENT = ("name", "uri", "model", "version", "run_id", "environment", "signature", "settings")


class Shown(msgspec.Struct, frozen=True):
    """What the main server says of one name.

    `uri` and `version` are of what it serves (empty: nothing), `error` says why that does not answer, and
    `refused` why it is not what was asked for last.
    """

    name: str
    uri: str
    version: str
    error: str
    refused: str


def child_role(digest: str) -> str:
    """Role, and name, of the process that serves the models of an environment."""
    return f"serving-{digest[:8]}"


def body(deployments: Iterable[Deployment]) -> str:
    """The list as the processes read it, from their live file or from `publish`.

    Its only placeholders are the addresses to forward to: what looks like one elsewhere (a column may have
    any name) is written so that no target takes it for one.
    """
    return f'{{"deployments": [{", ".join(_entry(d) for d in deployments)}]}}'


def _entry(deployment: Deployment) -> str:
    known = msgspec.structs.asdict(deployment)
    text = msgspec.json.encode({key: known[key] for key in SENT}).decode()
    literal = PLACEHOLDER.sub(lambda found: "\\u007b" + found[0][1:], text)
    forward = f"{{url:{child_role(deployment.environment)}}}" if deployment.environment else ""
    return f'{literal[:-1]}, "forward": "{forward}"}}'


def publish(access: Access, role: str, deployments: Sequence[Deployment]) -> tuple[LoadResult, ...]:
    """Raises ComponentFailed where the main server does not answer; a silent child fails its own models."""
    children = sorted({d.environment for d in deployments if d.environment})
    text = access.inside(body(deployments))
    failed: dict[str, str] = {}
    for digest in children:
        failed |= _ask_child(access, digest, deployments, text, {"unload": False})
    told = _put(access, access.url(role), text, {"failed": failed})
    late: dict[str, str] = {}
    for digest in children:
        late |= _ask_child(access, digest, deployments, text, {"failed": failed})
    return tuple(LoadResult(d.name, told.get(d.name) or late.get(d.name, "")) for d in deployments)


def served(access: Access, role: str, deployments: Sequence[Deployment]) -> tuple[LoadResult, ...]:
    """The main server knows of the models that it forwards for, too."""
    try:
        shown = {entry.name: entry for entry in _shown(access, access.url(role))}
    except MatchaError as error:
        return tuple(LoadResult(d.name, error.message) for d in deployments)
    except (OSError, ValueError, msgspec.MsgspecError):
        return tuple(LoadResult(d.name, SILENT) for d in deployments)
    return tuple(LoadResult(d.name, _trouble(d, shown.get(d.name))) for d in deployments)


def _shown(access: Access, url: str) -> list[Shown]:
    answer = plainhttp.get(f"{url}{PATH}", ASK_SECONDS, _authorized(access))
    if answer.status != 200:
        raise ValueError(f"it answers {answer.status}")
    return msgspec.json.decode(answer.body, type=list[Shown])


def _trouble(deployment: Deployment, entry: Shown | None) -> str:
    """Why the deployment does not answer; empty where it does."""
    if entry is None:
        return "It is not loaded yet."
    if (entry.uri, entry.version) == (deployment.uri, deployment.version):
        return entry.error
    return entry.refused or f"{entry.uri} answers in its place."


def flush(access: Access, url: str) -> None:
    """Have what was captured handed on. A server that does not answer has nothing to hand on now."""
    import httpx  # noqa: PLC0415

    headers = _authorized(access)
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{url}{FLUSH_PATH}", headers=headers, timeout=10, trust_env=False)


def take_tokens(access: Access, role: str, tokens: Tokens) -> tuple[str, ...]:
    """Names of replicas that did not take them; the role where none could be asked."""
    try:
        with replicas(access, role) as found:
            return tuple(name for name, url in found.items() if not _told(access, url, tokens))
    except (MatchaError, OSError):
        return (role,)


def _told(access: Access, url: str, tokens: Tokens) -> bool:
    import httpx  # noqa: PLC0415

    address, body = f"{url}{TOKENS_PATH}", msgspec.json.encode(tokens)
    try:
        answer = httpx.put(
            address, content=body, headers=_authorized(access), timeout=TELL_SECONDS, trust_env=False
        )
    except httpx.HTTPError:
        return False
    return answer.is_success


def _ask_child(
    access: Access, digest: str, deployments: Sequence[Deployment], text: str, how: Mapping[str, Any]
) -> dict[str, str]:
    """Errors by name of this environment's models."""
    try:
        told = _put(access, access.url(child_role(digest)), text, how)
    except (ComponentFailed, NotProvisioned) as error:
        return {d.name: error.message for d in deployments if d.environment == digest}
    return {name: error for name, error in told.items() if error}


def _put(access: Access, url: str, text: str, how: Mapping[str, Any]) -> Mapping[str, str]:
    """Error (empty: none) by name. Waits until the models are loaded."""
    import httpx  # noqa: PLC0415 - 0.1 s that other commands need not pay

    content = msgspec.json.encode({**msgspec.json.decode(text), **how})
    headers = {**_authorized(access), "Content-Type": "application/json"}
    transport = httpx.HTTPTransport(trust_env=False, retries=RETRIES)
    timeout = httpx.Timeout(SECONDS, connect=10)
    try:
        with httpx.Client(transport=transport, timeout=timeout, trust_env=False) as client:
            answer = client.put(f"{url}{PATH}", content=content, headers=headers)
    except httpx.ReadTimeout as error:
        raise _failed(f"{url}: {error}", LATE) from error
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
        raise _failed(f"{url}: {error}", ENDED) from error
    except httpx.HTTPError as error:
        raise _failed(f"{url}: {error}") from error
    if not answer.is_success:
        raise _failed(f"{url} answered {answer.status_code}: {answer.text[:300]}")
    return {result["name"]: result["error"] for result in answer.json()}


def _authorized(access: Access) -> dict[str, str]:
    return {"Authorization": f"Bearer {access.secret(TOKEN)}"}


def _failed(details: str, message: str = SILENT) -> ComponentFailed:
    return ComponentFailed(message, details=details, resolution="matcha status")
