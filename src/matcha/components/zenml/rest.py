"""ZenML's REST API, as far as Matcha needs it: a third of the time that importing its client takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matcha.errors import MatchaError

if TYPE_CHECKING:
    import httpx

API = "/api/v1"


class Refused(MatchaError):
    """ZenML does not accept these credentials."""


class Server:
    """One server, over one kept connection. Use as a context manager, and `login` first."""

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        import httpx  # noqa: PLC0415 - costs 60 ms, and most commands do without

        # A proxy configured for the internet must not be asked for this machine.
        self._client = httpx.Client(base_url=url + API, timeout=timeout, trust_env=False)
        self._failure = httpx.HTTPError
        self.url = url

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def login(self, **form: str) -> None:
        """With `username` and `password`, or a key alone as `password`. Raises Refused for wrong ones."""
        answer = self._send("POST", "/login", data=form)
        if answer.status_code in (400, 401, 403):
            raise Refused("ZenML does not accept the stack's own credentials.", resolution="matcha provision")
        self._client.headers["Authorization"] = f"Bearer {self._json(answer)['access_token']}"

    def get(self, path: str, **query: str | int) -> Any:
        return self._json(self._send("GET", path, params=query))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._json(self._send("POST", path, json=body))

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._json(self._send("PUT", path, json=body))

    def find(self, path: str, **query: str) -> dict[str, Any] | None:
        """The first item of a list that fits, whole."""
        items: list[dict[str, Any]] = self.get(path, size=1, hydrate="true", **query)["items"]
        return items[0] if items else None

    def _send(self, method: str, path: str, **what: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **what)
        except self._failure as error:
            raise MatchaError(
                f"ZenML does not answer at {self.url}.", details=str(error), resolution="matcha status"
            ) from error

    def _json(self, answer: httpx.Response) -> Any:
        if answer.is_success:
            return answer.json()
        raise MatchaError(
            f"ZenML refused {answer.request.method} {answer.request.url.path} with {answer.status_code}.",
            details=_said(answer),
            resolution="matcha logs pipeline",
        )


def _said(answer: httpx.Response) -> str:
    """ZenML's reason, without the request, which may hold a secret."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(detail[0] if isinstance(detail, list) and detail else detail)[:300]
