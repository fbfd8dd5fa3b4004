"""Store: the one writing connection to the collector's SQLite file. Read `queries.py` for reading.

Every change waits in a transaction until `commit`; an acknowledgement is sent only after it, so
what an agent has been told is kept survives a killed process and, by ``synchronous = FULL``, a
power cut. One connection in one thread writes and checkpoints: SQLite before 3.51.3 can corrupt a
file that two connections checkpoint at once (sqlite.org/wal.html, "the WAL-reset bug").
"""

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from collector.errors import StoreError
from collector.log import logger
from collector.phases.transition import Transition
from collector.store.arrivals import Arrivals
from collector.store.damage import Damage
from collector.store.layout import open_for_writing
from collector.store.log import checksum, place
from collector.store.orders import OrderRow, put_order
from collector.store.owner import Owner
from collector.store.retention import Policy, Retention
from collector.store.rows import update
from collector.store.same_file import SameFile
from collector.store.sealing import Sealer
from collector.store.streams import Stream, is_newest, open_stream
from collector.store.timeline import begin_life
from probe_wire import BadMessage, Goodbye, Hello, Report, Schema

PAGES = 4
"""What each commit adds to the write-ahead log besides its reports, as if it were that many of them."""
CHECKPOINT = 8192
"""Messages that came or were put in their place, after which the write-ahead log is moved to the file: little at once, for others wait."""


class Store:
    """See the module. Used by one thread; whoever else wants to know opens a Reader."""

    def __init__(self, path: Path, policy: Policy = Policy()) -> None:  # noqa: B008 - it cannot be changed
        """Open the file, or make it.

        Raises:
            StoreError: it cannot be opened, another process writes to it, it is something else, or has a newer layout.
        """
        self.path = path
        self._owner = Owner(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = open_for_writing(path)
            self._same_file = SameFile(path)
            self._sealer = Sealer(self._db)
            self.damage = Damage(self._db)
        except StoreError:
            self._owner.close()
            raise
        except (OSError, sqlite3.Error) as error:
            self._owner.close()
            raise StoreError(
                f"Got the store {path}, which cannot be opened: {error}. Choose a file in a writable folder with --store."
            ) from error
        self._open = self._begun = False
        self._moved: dict[int, Stream] = {}
        self._heard: dict[str, tuple[float, int]] = {}
        self._arrivals = Arrivals(self._db, self._sealer)
        self._retention = Retention(self._db, policy)
        self.upkeep_failed: Callable[[], None] = lambda: None
        """Told of each failure that only means more room and slower reading."""
        self._rest_until = self._failed_until = 0.0
        self._in_wal = 0
        self._last_frame = 0
        self._tidy_while(lambda: self._arrivals.due)  # what an earlier life left, while nobody waits

    def close(self) -> None:
        """Roll back what was not committed and close the file."""
        self.rollback()
        self._db.close()
        self._owner.close()

    # -- transactions -----------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._open:
            self._db.execute("BEGIN IMMEDIATE")
            self._open = True
            (self._last_frame,) = self._db.execute("SELECT number FROM last_frame").fetchone()
            if not self._begun:
                begin_life(self._db, self._last_frame)

    def commit(self) -> None:
        """Make everything since the last commit durable. Somebody waits to be told: what can be done later is left to `tidy`."""
        if self._open:
            self._flush()
            self._end()
            self._tidy_while(lambda: self._arrivals.overdue)

    def _end(self) -> None:
        self._same_file.check()
        self._db.execute("COMMIT")
        self._open, self._begun = False, True
        self._in_wal += PAGES
        self._sealer.committed()
        self.damage.committed()

    def check(self) -> None:
        """Make something durable that changes nothing.

        Raises:
            sqlite3.Error: the disk is full, the file is gone, or whatever else keeps a report from being kept.
        """
        try:
            self._begin()
            self._db.execute("UPDATE last_frame SET number = number")
            self.commit()
        finally:
            self.rollback()

    def rollback(self) -> None:
        """Forget everything since the last commit."""
        if self._open:
            self._open = False
            self._moved.clear()
            self._heard.clear()
            if self._db.in_transaction:  # SQLite itself may have rolled back, on a full disk for instance
                self._db.execute("ROLLBACK")
            self._sealer.rolled_back()
            self.damage.look_again()
            self._arrivals.look_again()
            self._retention.forget()

    @property
    def unsealed(self) -> int:
        """Streams of which more is in the log than need be."""
        return self._sealer.waiting

    def tidy(self, now: float) -> list[str]:
        """Between two commits, one piece of what keeps the store small and quick to read; each is short, for reports wait meanwhile.

        What has come is put in its place, and what that leaves in the write-ahead log moved to the file, as soon as there is
        enough; all else never takes more than a fifth of the time. Returns the runs that are gone. What fails is undone and tried
        again later: it never undoes a report.
        """
        began = time.monotonic()
        if self._open or began < self._failed_until:
            return []
        gone: list[str] = []
        unsealed = self._sealer.failures
        try:
            if self._in_wal >= CHECKPOINT:
                self._in_wal = 0
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            elif self._arrivals.due:
                self._begin()
                self._in_wal += self._arrivals.settle()
                self._seal()
                self._end()
            elif began >= self._rest_until and (self.unsealed or self.damage.to_look or self._retention.wants(now)):
                gone = self._make_room(now)
                self._retention.give_back()
                self._rest_until = time.monotonic() + 4 * (time.monotonic() - began)
        except Exception:  # noqa: BLE001 - whatever it stumbles over, reports go on being kept
            logger.exception("store.tidying_failed")
            self.upkeep_failed()
            self._failed_until = began + 60
            self.rollback()
            self._arrivals.look_again()  # or what waits meanwhile would be held in memory, however much it is
        for _ in range(self._sealer.failures - unsealed):
            self.upkeep_failed()
        return gone

    def _tidy_while(self, wanted: Callable[[], bool]) -> None:
        while wanted() and time.monotonic() >= self._failed_until:
            self.tidy(0.0)

    def _make_room(self, now: float) -> list[str]:
        self._begin()
        self._seal()
        if self.damage.to_look and not self._arrivals.moving:
            self.damage.look()
        gone = self._retention.step(now) if self._retention.wants(now) else []
        self._end()
        if gone:
            self._arrivals.look_again()
        return gone

    def _seal(self) -> None:
        if not self._arrivals.moving:
            self._sealer.seal()

    # -- writing ----------------------------------------------------------------------------------

    def put_hello(self, hello: Hello, now: float, owner: str = "", *, in_memory: bool = False) -> Stream:
        """Open the stream, or find it again; see `open_stream`."""
        self._begin()
        self._flush()
        return open_stream(self._db, hello, now, owner, in_memory=in_memory)

    def is_newest(self, stream: Stream) -> bool:
        """Whether its rank began no later life."""
        return is_newest(self._db, stream)

    def put_schema(self, stream: Stream, schema: Schema, body: bytes) -> None:
        """Keep a schema and its series.

        Raises:
            BadMessage: the stream has another schema of this id, against which its reports are read.
        """
        known = stream.schemas.get(schema.id)
        if known == schema:  # said after every greeting: all of it is kept
            return
        self._begin()
        if known is not None and [(c.quantity, c.labels) for c in known.columns] != [
            (c.quantity, c.labels) for c in schema.columns
        ]:
            raise BadMessage(
                f"Got another schema {schema.id} than before in the same stream; give it an id of its own."
            )
        self._db.execute(
            "INSERT OR REPLACE INTO schemas (stream_id, id, body) VALUES (?, ?, ?)", (stream.id, schema.id, body)
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO quantities (run_id, name, unit, help, title, scale) VALUES (?, ?, ?, ?, ?, ?)",
            [(stream.run_id, q.name, q.unit, q.help, q.title, q.scale) for q in schema.quantities],
        )
        self._bind(stream, schema)
        stream.learn(schema, body)

    def _bind(self, stream: Stream, schema: Schema) -> None:
        """See that each column of a schema has its series."""
        self._db.executemany(
            "INSERT INTO series (run_id, rank, quantity, labels, settings, position) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET settings = excluded.settings",
            [
                (
                    stream.run_id,
                    stream.rank,
                    column.quantity,
                    json.dumps(column.labels, sort_keys=True),
                    json.dumps(column.settings, sort_keys=True),
                    position,
                )
                for position, column in enumerate(schema.columns)
            ],
        )

    def put_report(self, stream: Stream, report: Report, body: bytes, now: float) -> int:
        """Keep a report. Returns the frame's number in the order of commit."""
        return self._put_frame(stream, report, body, now, report.schema)

    def put_goodbye(self, stream: Stream, goodbye: Goodbye, body: bytes, now: float) -> int:
        """Keep the end of a stream."""
        frame_id = self._put_frame(stream, goodbye, body, now, None)
        self._db.execute("UPDATE streams SET finished = ? WHERE id = ?", (goodbye.reason, stream.id))
        stream.finished = True
        self._sealer.ended(stream.id)
        return frame_id

    def _put_frame(
        self, stream: Stream, message: Report | Goodbye, body: bytes, now: float, schema_id: int | None
    ) -> int:
        self._begin()
        if message.seq <= stream.high:
            raise sqlite3.IntegrityError(f"number {message.seq} of stream {stream.id} is stored or counted as lost")
        frame = self._last_frame + 1
        row = (place(stream.id, message.seq), frame, message.step, now, body)
        self._arrivals.put((*row, checksum(*row)), schema_id)
        self._last_frame = frame
        self._in_wal += 1
        self._moved[stream.id] = stream
        self._heard[stream.run_id] = now, max(message.step, self._heard.get(stream.run_id, (now, 0))[1])
        stream.high = message.seq
        return frame

    def _flush(self) -> None:
        """Write once a commit, and not once a report: what came, how far each stream has come, and the step of its run."""
        self._arrivals.write()
        if self._moved:
            self._db.execute("UPDATE last_frame SET number = ?", (self._last_frame,))
        update(self._db, "streams", "high", [(stream.id, stream.high) for stream in self._moved.values()])
        self._db.executemany(
            "UPDATE runs SET last_heard = ?, step = MAX(step, ?) WHERE id = ?",
            [(now, step, run_id) for run_id, (now, step) in self._heard.items()],
        )
        self._moved.clear()
        self._heard.clear()

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

    def put_order(self, order: OrderRow) -> bool:
        """Keep what a person asked of a run, at once and with whatever waits; False where its id is known.

        Raises:
            sqlite3.Error, OSError: it cannot be kept; what waited is undone.
        """
        try:
            self._begin()
            new = put_order(self._db, order)
            self.commit()
        finally:
            self.rollback()
        return new

    def put_states(self, run_id: str, phases: dict[str, Any], live: bytes, frame_id: int) -> None:
        """Keep what a run's engine and its memory need to go on after a frame, in place of what was kept before."""
        self._begin()
        rows = (("phase_states", json.dumps(phases)), ("live_states", live))
        for table, body in rows:
            self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", (run_id, frame_id, body))  # noqa: S608 - of two names
