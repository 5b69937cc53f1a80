"""One piece of work in a process of its own: `python -m matcha_monitoring.work` < order > answer.

The order is one line of JSON on stdin, which stays open: when it closes, the service has died and this
process ends at once. The answer is JSON on stdout; everything else goes to stderr. Exit codes: 0 done,
1 failed, 4 the object store, or what makes windows apart, cannot be used (the last line of stderr says why).
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import asking
from .asking import Failed
from .kept import Away, Kept
from .kept import kept as kept_in
from .settings import Rules

LOCK_SECONDS = 60.0
AWAY = 4


def main() -> int:
    os.umask(0o077)
    answer_to = _only_the_answer_on_stdout()
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    if order["patient"]:
        os.nice(10)
    gc.set_threshold(100_000, 50, 50)  # a process that ends soon need not tidy up
    try:
        with _alone(Path(order["data"])):
            answer = _work(order)
    except Away as away:
        print(away, file=sys.stderr)
        return AWAY
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    except (OSError, ValueError, ArithmeticError, LookupError, TypeError, RuntimeError) as error:
        _explain(error)
        return 1
    answer_to.write(json.dumps(answer).encode())
    answer_to.flush()
    return 0


def _only_the_answer_on_stdout() -> Any:
    answer_to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answer_to


def _end_with_the_service() -> None:
    """Raw reads: a thread inside a buffered read of stdin makes the interpreter abort at its end."""
    while os.read(0, 4096):
        pass
    if taking_in := sys.modules.get(f"{__package__}.taking_in"):
        taking_in.forgive()
    os._exit(3)


@contextlib.contextmanager
def _alone(data: Path) -> Iterator[None]:
    """A process left by a killed service may live for a moment; it never works beside this one."""
    with (data / "work.lock").open("w") as file:
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield


def _work(order: dict[str, Any]) -> dict[str, Any]:
    """Raises Away only while nothing is decided yet: a window that was made is told of."""
    data = Path(order["data"])
    if order["work"] == "apart":
        from . import apart

        return {"window": apart.make(data, order)}
    kept = kept_in(data, order["store"], apart=bool(order["apart"]))
    if order["work"] == "bring":
        return {"ledger": kept.bring()}
    from . import taking_in

    rules = Rules.of(order["rules"])
    unreadable = taking_in.take_in(data, kept)
    window = _window(data, order, kept) if order["work"] == "window" else None
    away = ""
    try:
        kept.put_changed()
        taking_in.prune(data, rules, time.time(), kept)
    except Away as error:
        away = str(error)
    return {"unreadable": unreadable, "window": window, "away": away}


def _window(data: Path, order: dict[str, Any], kept: Kept) -> dict[str, Any] | None:
    if order["apart"]:
        return asking.make(data, order, kept)
    from . import window

    return window.make(data, Rules.of(order["rules"]), order)


def _explain(error: BaseException) -> None:
    import traceback

    traceback.print_exc()
    print(f"{type(error).__name__}: {error}".replace("\n", " ")[:500], file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
