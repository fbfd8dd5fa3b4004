"""The layout that keeps one row a point beside the messages: what the store's blocks are measured against."""

import math
import sqlite3
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probe_wire import Estimate, Report

_SCHEMA = """
CREATE TABLE streams (id INTEGER PRIMARY KEY, high INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE frames (
    id INTEGER PRIMARY KEY AUTOINCREMENT, stream_id INTEGER NOT NULL REFERENCES streams (id), seq INTEGER NOT NULL,
    step INTEGER NOT NULL, received_at REAL NOT NULL, body BLOB NOT NULL, UNIQUE (stream_id, seq)
) STRICT;
CREATE TABLE points (
    series_id INTEGER NOT NULL, frame_id INTEGER NOT NULL REFERENCES frames (id), step INTEGER NOT NULL,
    value REAL, stderr REAL, paired REAL, n INTEGER NOT NULL, outcome INTEGER NOT NULL, PRIMARY KEY (series_id, frame_id)
) STRICT, WITHOUT ROWID;
"""


class RowStore:
    """One row a point, in SQLite with the same promises: WAL, ``synchronous = FULL``, commits by the group."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; {_SCHEMA}"
        )
        self._db.execute("BEGIN")

    def put(self, stream_id: int, series_ids: range, report: Report, estimates: list[Estimate], body: bytes) -> None:
        """Keep a report and its points."""
        self._db.execute("INSERT OR IGNORE INTO streams (id) VALUES (?)", (stream_id,))
        frame_id = self._db.execute(
            "INSERT INTO frames (stream_id, seq, step, received_at, body) VALUES (?, ?, ?, ?, ?)",
            (stream_id, report.seq, report.step, report.time, body),
        ).lastrowid
        self._db.execute("UPDATE streams SET high = ? WHERE id = ?", (report.seq, stream_id))
        self._db.executemany(
            "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    series_id,
                    frame_id,
                    report.step,
                    _null(e.value),
                    _null(e.stderr),
                    _null(e.paired),
                    e.n,
                    int(e.outcome),
                )
                for series_id, e in zip(series_ids, estimates, strict=True)
            ],
        )

    def commit(self) -> None:
        """Make it durable."""
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Close the file."""
        self.commit()
        self._db.close()


def read(path: Path, series_id: int) -> NDArray[np.float64]:
    """Every point of a series, ``(points, 4)``: step, value and both standard errors."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    rows = db.execute(
        "SELECT step, value, stderr, paired FROM points WHERE series_id = ? ORDER BY frame_id", (series_id,)
    )
    found = np.array(rows.fetchall(), np.float64)
    db.close()
    return found


def _null(x: float) -> float | None:
    return None if math.isnan(x) else x
