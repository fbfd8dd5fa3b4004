"""Store: the one writing connection to the collector's SQLite file. Read `queries.py` for reading.

Every change waits in a transaction until `commit`; an acknowledgement is sent only after it, so
what an agent has been told is kept survives a killed process and, by ``synchronous = FULL``, a
power cut. One connection in one thread writes and checkpoints: SQLite before 3.51.3 can corrupt a
file that two connections checkpoint at once (sqlite.org/wal.html, "the WAL-reset bug").
"""

import json
import math
import sqlite3
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from collector.errors import StoreError
from collector.phases.transition import Transition
from probe_wire import Column, Estimate, Goodbye, Hello, Report, Schema, decode_for_collector

APPLICATION_ID = 0x50484153  # "PHAS": tells our files from any other SQLite file
LAYOUT = 2
_FROM_LAYOUT_1 = """
INSERT INTO transitions (run_id, machine, subject, ordinal, state, frame_id, known_at, body)
    SELECT run_id, machine, subject, ordinal, 'detected', frame_id, known_at, body FROM transitions_of_layout_1
    ORDER BY frame_id, machine, subject, ordinal;
DROP TABLE transitions_of_layout_1;
"""


@dataclass(slots=True)
class BoundSchema:
    """A schema of a stream with the store's id of each of its columns."""

    schema: Schema
    series_ids: list[int]


@dataclass(slots=True)
class Stream:
    """One rank of a run in one life of its process, as the store has it."""

    id: int
    run_id: str
    rank: int
    epoch: str
    high: int
    lost: int
    finished: bool
    schemas: dict[int, BoundSchema] = field(default_factory=dict)


class Store:
    """See the module. Used by one thread; whoever else wants to know opens a Reader."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            StoreError: it cannot be opened, is something else, or has a newer layout.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            self._prepare()
            made = path.stat()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"Got the store {path}, which cannot be opened: {error}. Choose a file in a writable folder with --store."
            ) from error
        self._open = False
        self._file = (made.st_dev, made.st_ino)

    def _prepare(self) -> None:
        db = self._db
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        layout = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if tables and application_id != APPLICATION_ID:
            raise StoreError(f"Got {self.path}, an SQLite file of another program. Choose another file with --store.")
        if layout > LAYOUT:
            raise StoreError(
                f"Got {self.path} of layout {layout}; this release knows layouts up to {LAYOUT}. Install the newer release."
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA journal_size_limit = 67108864")
        if layout == 1:  # had one row a claim
            db.execute("ALTER TABLE transitions RENAME TO transitions_of_layout_1")
        db.executescript(files("collector.store").joinpath("schema.sql").read_text(encoding="utf-8"))
        if layout == 1:
            db.executescript(_FROM_LAYOUT_1)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {LAYOUT}")

    def close(self) -> None:
        """Roll back what was not committed and close the file."""
        self.rollback()
        self._db.close()

    # -- transactions -----------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._open:
            self._db.execute("BEGIN IMMEDIATE")
            self._open = True

    def commit(self) -> None:
        """Make everything since the last commit durable."""
        if self._open:
            self._check_still_there()
            self._db.execute("COMMIT")
            self._open = False

    def _check_still_there(self) -> None:
        """SQLite goes on writing to a file that was deleted: what is acknowledged then would be gone."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise sqlite3.OperationalError(
                f"the store {self.path} is gone: {error.strerror}; restart the collector"
            ) from error
        if (found.st_dev, found.st_ino) != self._file:
            raise sqlite3.OperationalError(f"the store {self.path} was replaced by another file; restart the collector")

    def rollback(self) -> None:
        """Forget everything since the last commit."""
        if self._open:
            self._open = False
            if self._db.in_transaction:  # SQLite itself may have rolled back, on a full disk for instance
                self._db.execute("ROLLBACK")

    # -- writing ----------------------------------------------------------------------------------

    def put_hello(self, hello: Hello, now: float) -> Stream:
        """Open the stream, or find it again; numbers the agent gave up are counted as lost."""
        self._begin()
        run = hello.run
        self._db.execute(
            "INSERT INTO runs (id, name, host, pid, started_at, labels, git_revision, agent_version, world_size, first_heard, "
            "last_heard, step) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET last_heard = excluded.last_heard, step = MAX(step, excluded.step)",
            (
                run.id,
                run.name,
                run.host,
                run.pid,
                run.started_at,
                json.dumps(run.labels, sort_keys=True),
                run.git_revision,
                run.agent_version,
                run.world_size,
                now,
                now,
                hello.step,
            ),
        )
        self._db.execute(
            "INSERT INTO streams (run_id, rank, epoch) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (run.id, hello.rank, hello.epoch),
        )
        stream_id, high, lost, finished = self._db.execute(
            "SELECT id, high, lost, finished FROM streams WHERE run_id = ? AND rank = ? AND epoch = ?",
            (run.id, hello.rank, hello.epoch),
        ).fetchone()
        stream = Stream(stream_id, run.id, hello.rank, hello.epoch, high, lost, finished is not None)
        gap = hello.first - 1 - high
        if gap > 0:
            stream.high, stream.lost = hello.first - 1, lost + gap
            self._db.execute(
                "UPDATE streams SET high = ?, lost = ? WHERE id = ?", (stream.high, stream.lost, stream.id)
            )
        for schema_id, body in self._db.execute(
            "SELECT id, body FROM schemas WHERE stream_id = ?", (stream.id,)
        ).fetchall():
            schema = decode_for_collector(body)
            assert isinstance(schema, Schema)  # noqa: S101 - the table holds nothing else
            stream.schemas[schema_id] = self._bind(stream, schema)
        return stream

    def put_schema(self, stream: Stream, schema: Schema, body: bytes) -> None:
        """Keep a schema and its series."""
        self._begin()
        self._db.execute(
            "INSERT OR REPLACE INTO schemas (stream_id, id, body) VALUES (?, ?, ?)", (stream.id, schema.id, body)
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO quantities (run_id, name, unit, help, title, scale) VALUES (?, ?, ?, ?, ?, ?)",
            [(stream.run_id, q.name, q.unit, q.help, q.title, q.scale) for q in schema.quantities],
        )
        stream.schemas[schema.id] = self._bind(stream, schema)

    def _bind(self, stream: Stream, schema: Schema) -> BoundSchema:
        return BoundSchema(schema, [self._series_id(stream, column, i) for i, column in enumerate(schema.columns)])

    def _series_id(self, stream: Stream, column: Column, position: int) -> int:
        return int(
            self._db.execute(
                "INSERT INTO series (run_id, rank, quantity, labels, settings, position) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET settings = excluded.settings RETURNING id",
                (
                    stream.run_id,
                    stream.rank,
                    column.quantity,
                    json.dumps(column.labels, sort_keys=True),
                    json.dumps(column.settings, sort_keys=True),
                    position,
                ),
            ).fetchone()[0]
        )

    def put_report(self, stream: Stream, report: Report, estimates: list[Estimate], body: bytes, now: float) -> int:
        """Keep a report and its points. Returns the frame's number in the order of commit."""
        frame_id = self._put_frame(stream, report, body, now)
        self._db.executemany(
            "INSERT INTO points (series_id, frame_id, step, value, stderr, paired, n, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
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
                for series_id, e in zip(stream.schemas[report.schema].series_ids, estimates, strict=True)
            ],
        )
        return frame_id

    def put_goodbye(self, stream: Stream, goodbye: Goodbye, body: bytes, now: float) -> int:
        """Keep the end of a stream."""
        frame_id = self._put_frame(stream, goodbye, body, now)
        self._db.execute("UPDATE streams SET finished = ? WHERE id = ?", (goodbye.reason, stream.id))
        stream.finished = True
        return frame_id

    def _put_frame(self, stream: Stream, message: Report | Goodbye, body: bytes, now: float) -> int:
        self._begin()
        cursor = self._db.execute(
            "INSERT INTO frames (stream_id, seq, step, received_at, body) VALUES (?, ?, ?, ?, ?)",
            (stream.id, message.seq, message.step, now, body),
        )
        self._db.execute("UPDATE streams SET high = ? WHERE id = ?", (message.seq, stream.id))
        self._db.execute(
            "UPDATE runs SET last_heard = ?, step = MAX(step, ?) WHERE id = ?", (now, message.step, stream.run_id)
        )
        stream.high = message.seq
        assert cursor.lastrowid is not None  # noqa: S101 - an INSERT always has one
        return cursor.lastrowid

    def put_transition(self, run_id: str, transition: Transition, frame_id: int, now: float) -> None:
        """Keep a transition beside the report that made it known."""
        self._begin()
        self._db.execute(
            "INSERT INTO transitions (run_id, machine, subject, ordinal, state, frame_id, known_at, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run_id,
                transition.machine,
                json.dumps(transition.subject, sort_keys=True),
                transition.ordinal,
                transition.state,
                frame_id,
                now,
                msgspec.json.encode(transition).decode(),
            ),
        )

    def put_phase_state(self, run_id: str, state: dict[str, Any], frame_id: int) -> None:
        """Keep what a run's phase engine needs to go on after a frame, in place of what was kept before."""
        self._begin()
        self._db.execute(
            "INSERT OR REPLACE INTO phase_states (run_id, frame_id, body) VALUES (?, ?, ?)",
            (run_id, frame_id, json.dumps(state)),
        )


def _null(x: float) -> float | None:
    return None if math.isnan(x) else x
