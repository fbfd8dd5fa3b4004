"""Rows written many at a time.

SQLite takes a row in half the time so; and the interpreter's lock, which Python's `sqlite3` lets go of for every step of a statement, is
then let go of once a hundred rows: the thread that writes would otherwise wait for its turn at every row while another renders a page.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

_TOGETHER = 100


def insert(
    db: sqlite3.Connection,
    table: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    known: Literal["ABORT", "IGNORE"] = "ABORT",
) -> int:
    """Insert rows, each with a value for each column; how many. What becomes of one that is ``known`` is SQLite's word for it."""
    into = f"INSERT OR {known} INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608 - names of our own
    return sum(db.execute(into + values, some).rowcount for values, some in _parts(len(columns), rows))


def update(db: sqlite3.Connection, table: str, column: str, rows: Sequence[tuple[int, Any]]) -> None:
    """Set a column in the rows of these ids: ``(id, value)``."""
    for values, some in _parts(2, rows):
        db.execute(
            f"WITH new (id, value) AS (VALUES {values}) UPDATE {table} SET {column} = new.value FROM new WHERE {table}.id = new.id",  # noqa: S608
            some,
        )


def _parts(width: int, rows: Sequence[Sequence[Any]]) -> list[tuple[str, list[Any]]]:
    one = f"({', '.join('?' * width)})"
    parts = [rows[i : i + _TOGETHER] for i in range(0, len(rows), _TOGETHER)]
    return [(", ".join([one] * len(part)), list(chain.from_iterable(part))) for part in parts]
