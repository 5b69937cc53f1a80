"""A database on a server whose first migration was cut short is made anew.

MySQL commits every change of a schema by itself, so a server that is ended in the middle of its first start
leaves half a database, which neither MLflow nor ZenML ever gets past. A table of ours says how far a start
got: what was begun here and never finished held nothing yet. A database that was there before, or that has
been ready once, is never touched.

Runs in a component's own environment, where nothing of Matcha is installed; needs SQLAlchemy there.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# MLflow takes a database with no other tables than those of this prefix for an empty one.
TABLE = "alembic_matcha"


def begin(url: str) -> None:
    """Before the server opens its database. Does nothing for files (SQLite)."""
    if not url.startswith("mysql"):
        return
    engine = _engine(url)
    tables = set(import_module("sqlalchemy").inspect(engine).get_table_names())
    with engine.begin() as connection:
        if TABLE in tables and not _is_ready(connection):
            print("matcha: the database's first start was cut short; making it anew", flush=True)
            _drop(connection, tables - {TABLE})
        elif not tables:
            connection.exec_driver_sql(f"CREATE TABLE {TABLE} (ready INT NOT NULL)")
    engine.dispose()


def ready(url: str) -> None:
    """Once the server has opened it, before the first answer."""
    if not url.startswith("mysql"):
        return
    engine = _engine(url)
    tables = import_module("sqlalchemy").inspect(engine).get_table_names()
    with engine.begin() as connection:
        if TABLE in tables and not _is_ready(connection):
            connection.exec_driver_sql(f"INSERT INTO {TABLE} VALUES (1)")  # noqa: S608 - a constant
    engine.dispose()


def _engine(url: str) -> Any:
    rest = url.partition("://")[2]
    return import_module("sqlalchemy").create_engine(f"mysql+pymysql://{rest}")


def _is_ready(connection: Any) -> bool:
    return bool(connection.exec_driver_sql(f"SELECT count(*) FROM {TABLE}").scalar())  # noqa: S608


def _drop(connection: Any, tables: set[str]) -> None:
    connection.exec_driver_sql("SET FOREIGN_KEY_CHECKS = 0")
    for table in sorted(tables):
        connection.exec_driver_sql(f"DROP TABLE `{table}`")
    connection.exec_driver_sql("SET FOREIGN_KEY_CHECKS = 1")
