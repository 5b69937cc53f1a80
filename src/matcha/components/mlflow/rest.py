"""MLflow's REST API, as far as Matcha needs it. Nothing of MLflow is imported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from matcha.errors import MatchaError

if TYPE_CHECKING:
    import httpx

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
PAGE = 200
LARGEST_FILE = 4 * 2**20  # of those read here: descriptions of models, never models


class Unknown(Exception):
    """MLflow does not know what was asked for."""


class Tracker:
    """One server, over one kept connection. Use as a context manager."""

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        import httpx  # noqa: PLC0415 - costs 60 ms, and most commands do without

        # A proxy configured for the internet must not be asked for this machine.
        self._client = httpx.Client(base_url=url, timeout=timeout, trust_env=False)
        self._failures = (httpx.HTTPError, httpx.InvalidURL)
        self._late = httpx.TimeoutException
        self._timeout = timeout
        self.url = url

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **params: str | int) -> dict[str, Any]:
        """Raises Unknown, or MatchaError when MLflow does not answer or refuses."""
        return self._json(self._send("GET", API + path, params=params))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises as `get`."""
        return self._json(self._send("POST", API + path, json=body))

    def pages(self, path: str, key: str, **params: str | int) -> Iterator[dict[str, Any]]:
        """Every item under `key` of a search, over all pages."""
        token = ""
        while True:
            page = self.get(path, max_results=PAGE, **params, **({"page_token": token} if token else {}))
            yield from page.get(key, ())
            token = page.get("next_page_token", "")
            if not token:
                return

    def artifact(self, path: str) -> bytes | None:
        """A small file of the artifact store by its path there; None where there is none."""
        answer = self._send("GET", f"{ARTIFACTS}/{quote(path.lstrip('/'))}")
        if answer.is_success and len(answer.content) <= LARGEST_FILE:
            return answer.content
        if answer.is_server_error and not _missing(answer):
            raise self._refused(answer)
        return None

    def _send(self, method: str, path: str, **what: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **what)
        except self._failures as error:
            late = isinstance(error, self._late)
            why = f"Waited {self._timeout:g} s for {path}." if late else str(error)
            raise MatchaError(
                f"MLflow does not answer at {self.url}.", details=why, resolution="matcha status"
            ) from error

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.is_success:
            found: dict[str, Any] = answer.json()
            return found
        if _missing(answer):
            raise Unknown
        raise self._refused(answer)

    def _refused(self, answer: httpx.Response) -> MatchaError:
        return MatchaError(
            f"MLflow refused a request with status {answer.status_code}.",
            details=_said(answer),
            resolution="matcha logs experiment-tracker",
        )


def _missing(answer: httpx.Response) -> bool:
    return answer.status_code == 404 or "RESOURCE_DOES_NOT_EXIST" in answer.text[:1000]


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]
