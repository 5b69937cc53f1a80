"""`python -m matcha_serving --bind ADDRESS --http-port N [--grpc-port N] [--metrics-port N]`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from importlib import import_module
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Ends the process itself: a prediction that hangs in a thread would keep the interpreter."""
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(Path.cwd()))]
    from matcha_secrets import take  # type: ignore[import-not-found]

    from . import config

    secrets = take(config.SECRETS)
    config.quiet(os.environ)
    found = config.read(arguments, os.environ, secrets)
    config.workdir(found.models / ".work")
    _use_uvloop()
    asyncio.run(_serve(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _use_uvloop() -> None:
    """As `mlserver start` does; an environment without it serves a little slower."""
    with contextlib.suppress(ImportError):
        import_module("uvloop").install()


async def _serve(found: object) -> None:
    """No garbage is collected while importing, and none of what was imported is looked at later."""
    gc.disable()
    from .server import Serving

    gc.freeze()
    gc.enable()
    await Serving(found).run()  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1:])
