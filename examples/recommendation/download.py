"""MovieLens 100k over HTTPS, with nothing but the standard library.

GroupLens allows its use for research but not its redistribution, so it does not come with this example.
"""

import hashlib
import io
import time
import urllib.request
import zipfile
from pathlib import Path

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
FILES = ("u.data", "u.item", "u.user")
LARGEST = 20_000_000  # bytes: four times the archive


def download(folder: Path, url: str = URL, sha256: str = SHA256, seconds: float = 60.0) -> Path:
    """Fetch the archive and write its three data files to `folder`.

    Raises OSError when it cannot be reached in time, ValueError when what came is not MovieLens 100k.
    Only the named members are read, and this function chooses where they go, so that no archive can write
    anywhere else.
    """
    archive = fetch(url, seconds)
    if hashlib.sha256(archive).hexdigest() != sha256:
        raise ValueError(f"{url} is not the archive that was expected (its checksum differs)")
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        contents = {name: members.read(f"ml-100k/{name}") for name in FILES}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        part = folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)  # whole or not at all
    return folder


def fetch(url: str, seconds: float) -> bytes:
    """The body of an HTTP answer, at most `LARGEST` bytes of it."""
    deadline = time.monotonic() + seconds
    body = bytearray()
    with urllib.request.urlopen(url, timeout=min(seconds, 5.0)) as answer:  # noqa: S310
        while chunk := answer.read1(1 << 16):
            body += chunk
            if len(body) > LARGEST:
                raise ValueError(f"{url} is larger than {LARGEST:,} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} took longer than {seconds:.0f} s")
    return bytes(body)
