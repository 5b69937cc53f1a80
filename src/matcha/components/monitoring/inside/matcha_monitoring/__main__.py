"""`python -m matcha_monitoring --bind A --port N --hosts H`, the rest by environment variables."""

from __future__ import annotations

import os
import sys

import matcha_web  # type: ignore[import-not-found]


def main() -> None:
    os.umask(0o077)
    at = matcha_web.where(sys.argv[1:])
    matcha_web.serve(lambda: _guarded(at.hosts), at)


def _guarded(hosts: tuple[str, ...]) -> matcha_web.App:
    from .app import EVERYWHERE, create
    from .settings import Settings

    settings = Settings.from_env(os.environ)
    settings.data.mkdir(parents=True, exist_ok=True)
    return matcha_web.Guard(create(settings), hosts, headers=EVERYWHERE)


main()
