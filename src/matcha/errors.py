"""Every error a person can meet.

    MatchaError                     exit 1: the operation failed
    ├── BadInput                    exit 2: bad input, configuration or usage
    │   └── StackFileError          matcha.yaml, with the path of the key and its line
    ├── NotFound                    exit 1: a name that the stack's servers do not know
    ├── NotProvisioned              exit 1: there is no running stack to ask
    ├── ComponentFailed             exit 1: a service did not become healthy; carries its last log lines
    │   ├── AddressTaken            another program took its port; the next try gets another
    │   └── NotServed               deployed models do not answer; all else that was to be done is done
    ├── Locked                      exit 1: somebody else is changing the stack
    ├── StateUnreadable             exit 1: the record of the stack is corrupt or newer than this Matcha
    └── WouldLoseData               exit 1: destroy without --delete-data

Errors are printed once, by `matcha.cli.main`; nothing below it prints.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path


class MatchaError(Exception):
    """What happened (`message`), why (`details`) and what to type next (`resolution`).

    `stops`: whether a run that meets it in one step starts no others.
    """

    exit_code = 1
    stops = True

    def __init__(self, message: str, *, details: str = "", resolution: str = "", docs_url: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.resolution = resolution
        self.docs_url = docs_url

    @property
    def code(self) -> str:
        """The stable name that `--output json` carries."""
        return type(self).__name__


class BadInput(MatchaError):
    exit_code = 2


class StackFileError(BadInput):
    pass


class NotFound(MatchaError):
    pass


class NotProvisioned(MatchaError):
    def __init__(self, message: str = "There is no running stack here.", *, details: str = "") -> None:
        super().__init__(message, details=details, resolution="matcha provision")


class ComponentFailed(MatchaError):
    pass


class AddressTaken(ComponentFailed):
    """Another program took a service's port between its claim and its start."""


class NotServed(ComponentFailed):
    """`models`: why, by the name of each model that does not answer."""

    stops = False

    def __init__(self, models: Mapping[str, str]) -> None:
        super().__init__(
            f"{', '.join(models)} could not be loaded for serving.",
            details="\n".join(f"{name}: {why}" for name, why in models.items()),
            resolution="matcha logs model-deployer",
        )
        self.models = dict(models)


class WrongPython(MatchaError):
    """A model loads only on another Python than the one that serves."""


class Locked(MatchaError):
    pass


class StateUnreadable(MatchaError):
    pass


class WouldLoseData(MatchaError):
    pass


LONGEST = 100  # characters of a value that an error quotes
AGAIN = "then run the same command again"
COMPONENT = "Correct it in the component: docs/component.md says what a service may hold"


def unreadable(path: Path, error: OSError, kind: type[BadInput] = BadInput) -> BadInput:
    """Of a file of the user's that the system does not give."""
    return kind(
        f"{path.name} cannot be read: {error.strerror}",
        details=str(path),
        resolution=f"Make it a file that you may read, {AGAIN}",
    )


class Unfit(ValueError):
    """What `__post_init__` of an options class raises about the value of `key`, as the file writes it.

    The message goes on after the file's name and line, and quotes no secret; `hint`: what to do instead of
    correcting the value.
    """

    def __init__(self, key: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.hint = hint


def quoted(value: object) -> str:
    """A value of the user's as an error may show it: before an @ and in a query a secret may stand."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if not isinstance(value, str):
        return repr(value)
    before, at, rest = value.rpartition("@")
    told = f"***@{rest}" if before or at else rest
    return repr(re.sub(r"[?#].*", "?...", told, flags=re.DOTALL)[:LONGEST])


class Untold(str):
    """A name that is accepted, and not offered to people: it is for tests."""


def suggest(word: str, known: Iterable[str]) -> str:
    """'Did you mean "x"?' for a near miss among `known`, otherwise what does exist."""
    every = sorted(known)
    near = difflib.get_close_matches(word, every, n=1, cutoff=0.6)
    if near:
        return f'Did you mean "{near[0]}"?'
    names = [name for name in every if not isinstance(name, Untold)]
    return f"Known: {', '.join(names)}." if names else "None exist yet."
