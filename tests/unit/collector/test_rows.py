"""Rows written many at a time are the same rows."""

import sqlite3

import pytest

from collector.store.rows import insert, update


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_as_many_rows_are_written_as_were_given(count: int) -> None:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, body BLOB, high INTEGER)")
    rows = [(i, bytes([i % 256]), -i) for i in range(count)]
    insert(db, "things", ("id", "body", "high"), rows)
    assert db.execute("SELECT * FROM things ORDER BY id").fetchall() == rows
    update(db, "things", "high", [(i, 2**40 + i) for i in range(0, count, 2)])
    expected = [(i, body, 2**40 + i if i % 2 == 0 else high) for i, body, high in rows]
    assert db.execute("SELECT * FROM things ORDER BY id").fetchall() == expected
    db.close()
