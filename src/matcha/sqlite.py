"""Reading a component's SQLite database while its server may be running."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote


def count(database: Path, question: str) -> int:
    """The single number that a SELECT answers; -1 where the file cannot be asked. Never writes."""
    try:
        address = f"file:{quote(str(database))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=5)) as connection:
            return int(connection.execute(question).fetchone()[0])
    except (sqlite3.Error, TypeError, ValueError):
        return -1
