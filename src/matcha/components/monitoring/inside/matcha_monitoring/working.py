"""`python -m matcha_monitoring.working --bind A --port N --hosts H` makes windows for the monitoring service.

Where a service may use only so much memory, this one is bounded apart: what a window takes ends no service
that takes in captures. It holds nothing: an order names files of the object store, what comes of them goes
there, and a client that goes away ends the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matcha_web  # type: ignore[import-not-found]

from .asking import WINDOWS
from .processes import Killed, StoreAway, Worker, WorkFailed

BIGGEST_BODY = 16 * 2**20


class Working:
    """The application. `environ` says where the store and MLflow are: an order does not."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._token = f"Bearer {environ['MATCHA_CAPTURE_TOKEN']}".encode()
        self._own = {
            "work": "apart",
            "data": environ["MATCHA_DATA"],
            "store": environ["MATCHA_STORE"],
            "mlflow": environ["MLFLOW_TRACKING_URI"].rstrip("/"),
        }
        self._worker = Worker()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            status, body = await self._answer(scope, receive)
            await _send(send, status, body)

    async def _answer(self, scope: Any, receive: Any) -> tuple[int, dict[str, Any]]:
        asked = (scope["method"], scope["path"])
        if asked == ("GET", "/healthz"):
            return 200, {}
        if asked != ("POST", WINDOWS):
            return 404, {"error": "There is no such address."}
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._token):
            return 401, {"error": "A capture token is needed."}
        order = await _order(receive)
        if order is None:
            return 400, {"error": "The body is no order."}
        return await self._work({**order, **self._own}, receive)

    async def _work(self, order: dict[str, Any], receive: Any) -> tuple[int, dict[str, Any]]:
        work = asyncio.ensure_future(self._worker.run(order))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return 200, work.result()
            return 499, {"error": "Nobody waits for it any more."}
        except StoreAway as away:
            return 503, {"error": str(away)}
        except WorkFailed as failure:
            print(failure.details, file=sys.stderr, flush=True)
            return 500, {"error": str(failure), "killed": isinstance(failure, Killed)}
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.wait({work, gone})


async def _order(receive: Any) -> dict[str, Any] | None:
    held, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request" or len(held) > BIGGEST_BODY:
            return None
        held += message.get("body", b"")
        more = message.get("more_body", False)
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(held)
        if isinstance(found, dict):
            return found
    return None


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Any, send: Any) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def _send(send: Any, status: int, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def main() -> None:
    os.umask(0o077)
    at = matcha_web.where(sys.argv[1:])
    Path(os.environ["MATCHA_DATA"]).mkdir(parents=True, exist_ok=True)
    matcha_web.serve(lambda: matcha_web.Guard(Working(os.environ), at.hosts), at)


if __name__ == "__main__":
    main()
