"""What a cluster says no with, as errors for a person."""

from __future__ import annotations

import re
from collections.abc import Sequence

import httpx2
from lightkube import ApiError

from matcha.errors import MatchaError

BUSY = (429, 500, 502, 503, 504)  # the same call may work in a moment
LONGEST = 30.0  # seconds that a server's wish to be left alone is heeded


_RIGHTS = re.compile(r"\bcannot \S+ (resource|path)\b")  # by an authorizer, of whatever kind
# What says no by 403 to whoever has the right: its words, who it is, and what to do.
_BARS = (
    (
        re.compile("exceeded quota"),
        "A quota of the namespace does not allow to {}.",
        "Ask an administrator for a larger quota, then: matcha provision",
    ),
    (
        re.compile(r"(maximum|minimum) \S+ usage per |limit to request ratio per "),
        "A limit range of the namespace does not allow to {}.",
        "Ask an administrator to change the limit range, then: matcha provision",
    ),
    (
        re.compile("violates PodSecurity|denied (the )?request"),
        "A policy of the cluster does not allow to {}.",
        "Ask an administrator to change the policy that is named, then: matcha provision",
    ),
    (
        re.compile("being terminated"),
        "The namespace is being removed, and does not allow to {}.",
        "Repeat the command once it is gone.",
    ),
)


class ClusterError(MatchaError):
    """The cluster refused or did not answer. `status` is the HTTP status; 0 for no answer."""

    def __init__(self, message: str, *, status: int = 0, details: str = "", resolution: str = "") -> None:
        super().__init__(message, details=details, resolution=resolution or "matcha doctor")
        self.status = status


class Forbidden(ClusterError):
    """It may not be done (403): the user lacks the right, or nobody may (a quota, a policy)."""


class Conflict(ClusterError):
    """Somebody else changed or owns what was to be written (409). `owners`: "manager: field" lines."""

    def __init__(self, message: str, *, owners: Sequence[str] = (), details: str = "") -> None:
        super().__init__(message, status=409, details=details, resolution="matcha plan")
        self.owners = tuple(owners)


class Gone(ClusterError):
    """No such object (404)."""


def is_busy(error: httpx2.HTTPStatusError) -> bool:
    return status_of(error) in BUSY


def is_collision(error: httpx2.HTTPStatusError) -> bool:
    """A 409 of an apply that is about nobody's fields: two writes met, such as those of a quota's count."""
    return status_of(error) == 409 and not (isinstance(error, ApiError) and _owners(error))


def pause(error: httpx2.HTTPStatusError, attempt: int) -> float:
    """Seconds: what the server asks for, otherwise twice as long each time."""
    asked = str(error.response.headers.get("Retry-After", ""))
    return min(float(asked), LONGEST) if asked.isdigit() else 0.2 * 2**attempt


def status_of(error: httpx2.HTTPStatusError) -> int:
    found = error.status.code if isinstance(error, ApiError) else None
    return int(found or error.response.status_code)


def refused(error: httpx2.HTTPStatusError, doing: str) -> ClusterError:
    status = status_of(error)
    said = (error.status.message if isinstance(error, ApiError) else _plain(error)) or str(error)
    if status == 409:
        return Conflict(
            f"The cluster refused to {doing}: somebody else changed it.",
            owners=_owners(error) if isinstance(error, ApiError) else (),
            details=said,
        )
    if status == 403:
        return _forbidden(said, doing, by_cluster=isinstance(error, ApiError))
    if status == 404:
        return Gone(f"The cluster could not {doing}.", status=404, details=said)
    if status == 401:
        return ClusterError(
            "The cluster does not accept your credentials.",
            status=401,
            details=said,
            resolution="Sign in again (as kubectl would need it too), then repeat the command.",
        )
    return ClusterError(f"The cluster refused to {doing}.", status=status, details=said)


def _forbidden(said: str, doing: str, *, by_cluster: bool) -> Forbidden:
    """What the cluster's admission refuses is nothing that a right would help with."""
    if not by_cluster or _RIGHTS.search(said):
        return Forbidden(f"You may not {doing}.", status=403, details=said)
    for words, message, resolution in _BARS:
        if words.search(said):
            return Forbidden(message.format(doing), status=403, details=said, resolution=resolution)
    return Forbidden(f"The cluster does not allow to {doing}.", status=403, details=said)


def is_immutable(error: ClusterError) -> bool:
    """Whether what was wanted would be well in a new object. Stateful sets have a sentence of their own."""
    forbidden = ("field is immutable", "updates to statefulset spec for fields other than")
    return error.status == 422 and any(words in error.details for words in forbidden)


def _owners(error: ApiError) -> list[str]:
    causes = (error.status.details.causes if error.status.details else None) or ()
    return [f"{c.message}: {c.field}" for c in causes if c.reason == "FieldManagerConflict"]


def _plain(error: httpx2.HTTPStatusError) -> str:
    """Of an answer that is not the API server's own, but of something on the way to it."""
    kind = error.response.headers.get("Content-Type", "")
    text = error.response.text[:300].strip() if "html" not in kind else ""
    return f"HTTP {error.response.status_code}, from a server before the cluster. {text}".strip()


def behind(error: BaseException) -> httpx2.HTTPStatusError | None:
    """The refusal that lightkube stumbled over: one without a content type, or not in the API's manner."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, httpx2.HTTPStatusError):
        found = found.__context__
    return found
