"""Reader: questions to the store over connections that can only read, so that none can disturb the writer."""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from collector.errors import StoreError
from collector.phases.transition import Transition
from probe_wire import Goodbye, Quantity, Report, Schema, decode_for_collector


class RunRow(msgspec.Struct, frozen=True):
    """A run as stored. ``finished`` is the goodbye's reason once every stream of the run has said one.

    ``reports`` is how many are in the store; a goodbye, though numbered like them, is none.
    """

    id: str
    name: str
    host: str
    pid: int
    started_at: float
    labels: dict[str, str]
    git_revision: str
    agent_version: str
    world_size: int
    first_heard: float
    last_heard: float
    step: int
    reports: int
    lost: int
    finished: str | None


class SeriesRow(msgspec.Struct, frozen=True):
    """A series as stored."""

    id: int
    rank: int
    quantity: str
    labels: dict[str, str]
    settings: dict[str, str]
    position: int


class Points(msgspec.Struct, frozen=True):
    """Points of one series in the order they were committed; NaN where a number is unknown.

    ``frame`` is the commit number of the report each point came in: ask again with ``after`` set to
    the last one to get what is new.
    """

    frame: list[int]
    step: list[int]
    value: list[float]
    stderr: list[float]
    paired: list[float]
    n: list[int]
    outcome: list[int]


class StoredTransition(msgspec.Struct, frozen=True):
    """A transition with when it was known, Unix seconds by the collector's clock."""

    known_at: float
    transition: Transition


class StoredFrame(msgspec.Struct, frozen=True):
    """One committed message with what is needed to read it again."""

    id: int
    stream_id: int
    rank: int
    received_at: float
    message: Report | Goodbye


class Reader:
    """Read-only access to a store, from any thread; each question opens its own connection."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise StoreError(
                f"Got the store {path}, which does not exist. Start `probe-collector serve` once, or pass --store."
            )
        self._path = path

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=5.0)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def runs(self, run_id: str | None = None) -> list[RunRow]:
        """Every run, the latest heard first; or the one of this id, or of this name."""
        where = "" if run_id is None else "WHERE r.id = :id OR r.name = :id"
        query = f"""
            SELECT r.id, r.name, r.host, r.pid, r.started_at, r.labels, r.git_revision, r.agent_version, r.world_size,
                   r.first_heard, r.last_heard, r.step,
                   (SELECT COALESCE(SUM(high - lost - (finished IS NOT NULL)), 0) FROM streams s WHERE s.run_id = r.id),
                   (SELECT COALESCE(SUM(lost), 0) FROM streams s WHERE s.run_id = r.id),
                   (SELECT CASE WHEN COUNT(*) = COUNT(finished) THEN MAX(finished) END FROM streams s WHERE s.run_id = r.id)
            FROM runs r {where} ORDER BY r.last_heard DESC, r.id
        """  # noqa: S608 - `where` is one of two constants
        with closing(self._connect()) as db:
            rows = db.execute(query, {"id": run_id}).fetchall()
        return [_run_row(*row) for row in rows]

    def quantities(self, run_id: str) -> list[Quantity]:
        """What the run measures, in the order it was declared."""
        with closing(self._connect()) as db:
            rows = db.execute(
                "SELECT q.name, q.unit, q.help, q.title, q.scale FROM quantities q WHERE q.run_id = ? "
                "ORDER BY (SELECT MIN(position) FROM series s WHERE s.run_id = q.run_id AND s.quantity = q.name), q.name",
                (run_id,),
            ).fetchall()
        return [Quantity(*row) for row in rows]

    def series(self, run_id: str) -> list[SeriesRow]:
        """The series of a run in the order the agent reports them."""
        with closing(self._connect()) as db:
            rows = db.execute(
                "SELECT id, rank, quantity, labels, settings, position FROM series WHERE run_id = ? ORDER BY rank, position, id",
                (run_id,),
            ).fetchall()
        return [SeriesRow(a, b, c, json.loads(d), json.loads(e), f) for a, b, c, d, e, f in rows]

    def points(self, series_ids: Sequence[int], after: int = 0) -> dict[int, Points]:
        """The points of each series that came in frames numbered beyond ``after``."""
        found: dict[int, Points] = {}
        with closing(self._connect()) as db:
            db.execute("BEGIN")  # one view of the store for all series: none may be behind the frame another shows
            for series_id in series_ids:
                rows = db.execute(
                    "SELECT frame_id, step, value, stderr, paired, n, outcome FROM points "
                    "WHERE series_id = ? AND frame_id > ? ORDER BY frame_id",
                    (series_id, after),
                ).fetchall()
                columns = list(zip(*rows, strict=True)) or [()] * 7
                frame, step, value, stderr, paired, n, outcome = columns
                found[series_id] = Points(
                    list(frame), list(step), _floats(value), _floats(stderr), _floats(paired), list(n), list(outcome)
                )
        return found

    def transitions(self, run_id: str) -> list[StoredTransition]:
        """The transitions of a run in the order they became known."""
        with closing(self._connect()) as db:
            rows = db.execute(
                "SELECT known_at, body FROM transitions WHERE run_id = ? ORDER BY id",
                (run_id,),
            ).fetchall()
        return [StoredTransition(known_at, msgspec.json.decode(body, type=Transition)) for known_at, body in rows]

    def phase_state(self, run_id: str) -> tuple[int, dict[str, Any]] | None:
        """The newest state of a run's phase engine and the frame after which it was that; None where there is none."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT frame_id, body FROM phase_states WHERE run_id = ?", (run_id,)).fetchone()
        return row and (row[0], json.loads(row[1]))

    def lost(self, run_id: str) -> dict[int, int]:
        """How many reports of each rank were lost."""
        with closing(self._connect()) as db:
            return dict(
                db.execute("SELECT rank, SUM(lost) FROM streams WHERE run_id = ? GROUP BY rank", (run_id,)).fetchall()
            )

    def schemas(self, run_id: str) -> dict[tuple[int, int], Schema]:
        """Every schema of a run by ``(stream_id, schema id)``."""
        with closing(self._connect()) as db:
            rows = db.execute(
                "SELECT c.stream_id, c.id, c.body FROM schemas c JOIN streams s ON s.id = c.stream_id WHERE s.run_id = ?",
                (run_id,),
            ).fetchall()
        schemas = {}
        for stream_id, schema_id, body in rows:
            message = decode_for_collector(body)
            assert isinstance(message, Schema)  # noqa: S101 - the table holds nothing else
            schemas[stream_id, schema_id] = message
        return schemas

    def frames(self, run_id: str) -> Iterator[StoredFrame]:
        """Every committed message of a run, in the order of commit: what replay folds over."""
        with closing(self._connect()) as db:
            rows = db.execute(
                "SELECT f.id, f.stream_id, s.rank, f.received_at, f.body FROM frames f JOIN streams s ON s.id = f.stream_id "
                "WHERE s.run_id = ? ORDER BY f.id",
                (run_id,),
            )
            for frame_id, stream_id, rank, received_at, body in rows:
                message = decode_for_collector(body)
                assert isinstance(message, Report | Goodbye)  # noqa: S101 - the table holds nothing else
                yield StoredFrame(frame_id, stream_id, rank, received_at, message)


def _run_row(*columns: Any) -> RunRow:
    return RunRow(*(json.loads(column) if i == 5 else column for i, column in enumerate(columns)))


def _floats(column: Sequence[float | None]) -> list[float]:
    return [math.nan if x is None else x for x in column]
