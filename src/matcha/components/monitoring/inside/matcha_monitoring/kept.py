"""What was taken in, in the stack's object store too: written through, and brought back where it was lost.

The volume holds the spool, and of everything else a working copy. Names of captured files never come twice
with another content, so a file that the store has need not be sent again, and a step that was killed is
repeated. Nothing is ever removed from the store because the volume lacks it: only what is past its time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

from . import layout

# A window names its report and closes what it compared, so it comes to the store after both, and back before.
FOLDERS = ("captures", "references", "reports", "windows")
FILES = ("links.json", "ledger.json")
LEDGER = "ledger.json"
REPLACED = ("references", *FILES)  # the others never change
BLOCK = 2**20
CONNECT_SECONDS, SILENCE_SECONDS, TRIES = 5, 20, 3

_SAID = re.compile(r"AWS Error ([A-Z_]+)[^:]*?(?:\(HTTP status (\d+)\))?[^:]* during \w+ operation: ([^;]*)")


class Away(Exception):
    """The object store cannot be used now; what was not sent stays in the volume."""


class Kept(Protocol):
    """All methods raise Away, and may be killed and repeated."""

    def put(self, paths: Iterable[Path]) -> None:
        """Send files; when this returns the store has them."""

    def put_changed(self) -> None:
        """Send what the store lacks or has otherwise."""

    def drop(self, paths: Iterable[Path]) -> None:
        """Remove files from the store, before they are removed here."""

    def bring(self) -> Mapping[str, Any] | None:
        """Fetch what is missing here. The store's ledger, which is not written over the one here."""


def kept(data: Path, store: str, environ: Mapping[str, str] = os.environ, *, apart: bool = False) -> Kept:
    """`store`: s3://bucket/prefix; empty where the volume itself is what lasts. `apart`: references are read
    and kept by who makes windows elsewhere.
    """
    folders = tuple(f for f in FOLDERS if not (apart and f == "references"))
    return InStore(data, store, environ, folders) if store else Here()


class Here:
    """The files are where they stay."""

    def put(self, paths: Iterable[Path]) -> None:
        pass

    def put_changed(self) -> None:
        pass

    def drop(self, paths: Iterable[Path]) -> None:
        pass

    def bring(self) -> None:
        return None


class InStore:
    """Through pyarrow's own client, which the environment has anyway."""

    def __init__(self, data: Path, store: str, environ: Mapping[str, str], folders: Sequence[str]) -> None:
        parts = urlsplit(store)
        self._data = data
        self._folders = folders
        self._root = f"{parts.netloc}{parts.path}".rstrip("/")
        self._endpoint = environ.get("AWS_ENDPOINT_URL") or ""
        self._fs = _client(self._endpoint, environ)

    def put(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._send(path, path.read_bytes())

    def _send(self, path: Path, content: bytes) -> None:
        """In one call: a stream that is closed after half of it would leave half an object."""
        with self._telling():
            stream = self._fs.open_output_stream(self._key(path))
            stream.write(content)
            stream.close()

    def put_changed(self) -> None:
        held = self._list()
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):  # the service replaces its own meanwhile
                self._send_changed(path, held.get(self._name(path)))

    def _send_changed(self, path: Path, held: int | None) -> None:
        replaced = self._name(path).split("/")[0] in REPLACED
        if held == path.stat().st_size and not replaced:
            return
        content = path.read_bytes()
        if held != len(content) or self._tag(path) != hashlib.md5(content, usedforsecurity=False).hexdigest():
            self._send(path, content)

    def _tag(self, path: Path) -> str:
        """The MD5 of the object's content, from most stores."""
        with self._telling(), self._fs.open_input_stream(self._key(path)) as stream:
            return bytes(stream.metadata().get("ETag", b"")).decode().strip('"')

    def drop(self, paths: Iterable[Path]) -> None:
        """A folder of which nothing is left goes at once."""
        gone = set(paths)
        for folder in {p.parent for p in gone}:
            here = set(folder.iterdir()) if folder.is_dir() else set()
            if here <= gone:
                with self._telling(), contextlib.suppress(FileNotFoundError):  # an earlier run did it
                    self._fs.delete_dir(self._key(folder))
                continue
            for path in here & gone:
                with self._telling(), contextlib.suppress(FileNotFoundError):
                    self._fs.delete_file(self._key(path))

    def bring(self) -> Mapping[str, Any] | None:
        held = self._list()
        for name in sorted(held, key=_order):
            path = self._data / name
            if name != LEDGER and not path.exists():
                self._fetch(path)
        return self._ledger() if LEDGER in held else None

    def fetch(self, names: Iterable[str]) -> None:
        """These files, whatever is here. Raises ValueError for what is no file of a folder."""
        for name in names:
            if not self._ours(name):
                raise ValueError(f"{name} is no file of monitoring's.")
            self._fetch(self._data / name)

    def fetch_known(self, names: Iterable[str]) -> None:
        """Those of these that the store has."""
        held = self._list()
        self.fetch(name for name in names if name in held)

    def _ledger(self) -> Mapping[str, Any] | None:
        with self._telling(), self._fs.open_input_stream(self._key(self._data / LEDGER)) as stream:
            content = stream.read()
        return layout.json_object(bytes(content))

    def _fetch(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with partial.open("wb") as file:
                for block in self._blocks(path):
                    file.write(block)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _blocks(self, path: Path) -> Iterator[bytes]:
        with self._telling(), self._fs.open_input_stream(self._key(path)) as stream:
            while block := stream.read(BLOCK):
                yield block

    def _list(self) -> dict[str, int]:
        """Sizes by name, of what could be ours."""
        from pyarrow import fs

        with self._telling():
            found = self._fs.get_file_info(fs.FileSelector(self._root, recursive=True, allow_not_found=True))
        names = {i.path[len(self._root) + 1 :]: int(i.size) for i in found if i.type == fs.FileType.File}
        return {name: size for name, size in names.items() if self._ours(name)}

    def _files(self) -> Iterator[Path]:
        for folder in self._folders:
            for path in sorted((self._data / folder).rglob("*")):
                if path.is_file() and path.suffix != ".tmp":
                    yield path
        yield from (self._data / name for name in FILES)

    def _ours(self, name: str) -> bool:
        parts = PurePosixPath(name).parts
        return (name in FILES or (len(parts) > 1 and parts[0] in self._folders)) and ".." not in parts

    def _name(self, path: Path) -> str:
        return path.relative_to(self._data).as_posix()

    def _key(self, path: Path) -> str:
        return f"{self._root}/{self._name(path)}"

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """pyarrow raises OSError for whatever a store does, and FileNotFoundError without a bucket."""
        try:
            yield
        except OSError as error:
            where = f" at {self._endpoint}" if self._endpoint else ""
            raise Away(f"The object store{where} cannot be used: {_words(str(error))}.") from error


def _client(endpoint: str, environ: Mapping[str, str]) -> Any:
    # Checksums that trail the content are more than most servers of S3 understand.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    import certifi  # httpx brings it
    from pyarrow import fs

    # The client was built on another Linux, and would look for certificates where that one has them.
    trust = environ.get("AWS_CA_BUNDLE") or environ.get("SSL_CERT_FILE") or certifi.where()
    return fs.S3FileSystem(
        endpoint_override=endpoint or None,
        region=environ.get("AWS_REGION") or None,
        access_key=environ.get("AWS_ACCESS_KEY_ID") or None,
        secret_key=environ.get("AWS_SECRET_ACCESS_KEY") or None,
        session_token=environ.get("AWS_SESSION_TOKEN") or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENCE_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
        background_writes=False,
        allow_delayed_open=True,  # one request for what is small, and MD5 for its tag
        tls_ca_file_path=trust,
    )


def _order(name: str) -> tuple[int, str]:
    """Windows first: they say how far the captures were compared."""
    folder = name.split("/", maxsplit=1)[0]
    return -FOLDERS.index(folder) if folder in FOLDERS else 1, name


def _words(said: str) -> str:
    found = _SAID.search(said)
    if not found:
        return said.splitlines()[0][:300].rstrip(".")
    reason = (found[3].partition(", ")[2] if found[3].startswith("curlCode") else found[3]).strip()
    return (reason or found[1].replace("_", " ").lower())[:300].rstrip(".")
