"""Generated passwords and keys: one file of mode 0600, outside the project."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from matcha.errors import MatchaError, NotProvisioned
from matcha.host.files import guarded, write_private
from matcha.host.masking import masked


class SecretFile:
    """A JSON object of names to values. Values never leave through an error."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """Raises MatchaError for a damaged file: what its values protect cannot be opened with new ones."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            raise MatchaError(
                f"The secrets of this stack cannot be read: {self.path}",
                details="Without them its databases cannot be opened, so they are not generated anew.",
                resolution="matcha doctor",
            ) from None

    def get(self, name: str) -> str:
        try:
            return self.read()[name]
        except KeyError:
            raise NotProvisioned(f'The stack has no secret "{name}" yet.') from None

    def ensure(self, names: Iterable[str]) -> None:
        """Generates those that do not exist."""
        self._change(lambda held: {n: secrets.token_urlsafe(32) for n in names if n not in held} | held)

    def keep(self, name: str, value: str) -> None:
        self._change(lambda held: {**held, name: value})

    def _change(self, edit: Callable[[dict[str, str]], dict[str, str]]) -> None:
        with guarded(self.path.with_suffix(".lock")):
            before = self.read()
            after = edit(before)
            if after != before:
                write_private(self.path, msgspec.json.encode(after), durable=True)

    def redact(self, lines: Iterable[str]) -> list[str]:
        """`lines` with every value of this file masked."""
        return masked(lines, self._quietly().values())

    def _quietly(self) -> dict[str, str]:
        try:
            return self.read()
        except MatchaError:
            return {}
