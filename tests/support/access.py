"""A stack's addresses, secrets and folders, kept in one folder: a real `matcha.access.Access`."""

from __future__ import annotations

import json
from pathlib import Path

from matcha.errors import NotProvisioned


class FolderAccess:
    """`urls` by role. Secrets survive this object, as they do a killed run."""

    def __init__(self, root: Path, urls: dict[str, str] | None = None) -> None:
        self.root = root
        self.urls = dict(urls or {})
        root.mkdir(parents=True, exist_ok=True)

    def url(self, role: str) -> str:
        if role not in self.urls:
            raise NotProvisioned(f"The {role} is not running yet.")
        return self.urls[role]

    def address(self, role: str, port: str) -> str:
        return self.url(role).partition("://")[2]

    def secret(self, name: str) -> str:
        held = self.secrets()
        if name not in held:
            raise NotProvisioned(f'The stack has no secret "{name}" yet.')
        return held[name]

    def keep_secret(self, name: str, value: str) -> None:
        self._file.write_text(json.dumps({**self.secrets(), name: value}))

    def secrets(self) -> dict[str, str]:
        held: dict[str, str] = json.loads(self._file.read_text()) if self._file.exists() else {}
        return held

    def store(self, area: str) -> str:
        place = self.root / "store" / area
        place.mkdir(parents=True, exist_ok=True)
        return str(place)

    def inside(self, template: str) -> str:
        for role, url in self.urls.items():
            template = template.replace(f"{{url:{role}}}", url)
        return template.replace("{store:", f"{self.root}/store/").replace("}", "")

    def database(self, name: str) -> Path | None:
        place = self.root / "databases" / f"{name}.db"
        return place if place.exists() else None

    def folder(self, name: str) -> Path:
        place = self.root / "folders" / name
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o700)
        return place

    @property
    def _file(self) -> Path:
        return self.root / "secrets.json"


class FarAccess(FolderAccess):
    """Of a machine whose forwards are at `urls`; everybody else's are at `usual`: a `SharedAccess`."""

    def __init__(self, root: Path, urls: dict[str, str], usual: dict[str, str]) -> None:
        super().__init__(root, urls)
        self.usual = usual

    def shared_url(self, role: str) -> str:
        return self.usual.get(role) or self.url(role)
