"""What stands in an object store or in captured files, read by other means than the service's own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from matcha.targets.kubernetes.inside.matcha_pod.ending import Deadline
from matcha.targets.kubernetes.inside.matcha_pod.s3 import Asked, Place, Store
from support.objectstore import ACCESS_KEY, SECRET_KEY

_IDS = """
import json, sys
from pathlib import Path
import pyarrow.parquet as pq
found = [pq.read_table(p, columns=["_id"])["_id"].to_pylist() for p in Path(sys.argv[1]).rglob("*.parquet")]
print(json.dumps(sum(found, [])))
"""


class Stored:
    """The bucket `matcha` of a store."""

    def __init__(self, url: str) -> None:
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        self._store = Store({**keys, "AWS_ENDPOINT_URL": url}, Deadline(60))

    def names(self, under: str) -> list[str]:
        return sorted(n for n in self._store.keys(Place("matcha", under)) if not n.endswith("/"))

    def get(self, key: str) -> bytes:
        return self._store.ask(Asked("GET", Place("matcha", key))).body

    def put(self, key: str, content: bytes) -> None:
        self._store.ask(Asked("PUT", Place("matcha", key), body=content))


def captured_ids(python: Path, data: Path) -> list[str]:
    """Ids of all rows in Parquet, one each row, read with the service's own pyarrow."""
    arguments = [str(python), "-c", _IDS, str(data / "captures")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def named_ids(lines: Iterable[bytes]) -> list[str]:
    return sorted(json.loads(line)["id"] for line in lines)
