"""Reader: questions to the store over connections that can only read, so that none can disturb the writer."""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from collector.errors import StoreError
from collector.phases.transition import Transition
from collector.store.archive import StoredFrame, curves, frames
from collector.store.batch import unplaced
from collector.store.late import in_order_of_lives
from collector.store.layout import LAYOUT
from collector.store.log import schema_of
from collector.store.orders import OrderRow, order_of
from collector.store.pyramid import KEPT
from collector.store.space import Space, space_of
from collector.store.streams import OLDEST_FIRST
from collector.store.stretch import Ends, stretch
from collector.store.timeline import Timeline, timeline
from collector.store.times import Moment, moments
from probe_wire import Quantity, Schema


class RunRow(msgspec.Struct, frozen=True):
    """A run as stored. ``finished`` is the goodbye's reason once the newest life of every rank has said one.

    ``reports`` is how many were stored; a goodbye, though numbered like them, is none. Since ``thinned_at``, Unix seconds,
    only the extremes of their curves are kept.
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
    thinned_at: float | None = None


class DroppedRun(msgspec.Struct, frozen=True):
    """A run that retention took away, with how many reports."""

    id: str
    name: str
    reports: int
    last_heard: float
    dropped_at: float


class Life(NamedTuple):
    """One life of a rank: its stream, whether it has said goodbye, and whether it was heard by the frame that was asked for."""

    rank: int
    stream_id: int
    finished: bool
    heard: bool


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
    the last one to get what is new. ``folded`` more points lie between these. ``late``: some are of an earlier life of the rank and
    came when a later one had begun; for a chart they stand before that one's.
    """

    frame: list[int]
    step: list[int]
    value: list[float]
    stderr: list[float]
    paired: list[float]
    n: list[int]
    outcome: list[int]
    folded: int = 0
    late: bool = False


class StoredTransition(msgspec.Struct, frozen=True):
    """A transition with when it was known, Unix seconds by the collector's clock.

    ``superseded`` says that it was told by rules of another version: the run was judged again, and it was not found.
    """

    known_at: float
    transition: Transition
    superseded: bool = False


class Reader:
    """Read-only access to a store, from any thread; each question opens its own connection."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise StoreError(
                f"Got the store {path}, which does not exist. Start `probe-collector serve` once, or pass --store."
            )
        self._path = path
        self._ends: Ends = {}
        try:
            with closing(self._connect()) as db:
                layout = db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise StoreError(
                f"Got the store {path}, which cannot be read: {error}. Name another with --store."
            ) from error
        if layout != LAYOUT:
            raise StoreError(
                f"Got the store {path} of layout {layout}; this release reads layout {LAYOUT}. "
                "An older one is taken over when `probe-collector serve` is started on it; for a newer one install that release."
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def runs(self, run_id: str | None = None) -> list[RunRow]:
        """Every run, the latest heard first; or the one of this id, or of this name."""
        where = "" if run_id is None else "WHERE r.id = :id OR r.name = :id"
        place = f"ROW_NUMBER() OVER (PARTITION BY rank ORDER BY {OLDEST_FIRST}) = COUNT(*) OVER (PARTITION BY rank)"
        newest = f"SELECT finished FROM (SELECT finished, {place} AS newest FROM streams s WHERE s.run_id = r.id) WHERE newest"  # noqa: S608
        query = f"""
            SELECT r.id, r.name, r.host, r.pid, r.started_at, r.labels, r.git_revision, r.agent_version, r.world_size,
                   r.first_heard, r.last_heard, r.step,
                   (SELECT COALESCE(SUM(high - lost - (finished IS NOT NULL)), 0) FROM streams s WHERE s.run_id = r.id),
                   (SELECT COALESCE(SUM(lost), 0) FROM streams s WHERE s.run_id = r.id),
                   (SELECT CASE WHEN COUNT(*) = COUNT(finished) THEN MAX(finished) END FROM ({newest})),
                   r.thinned_at
            FROM runs r {where} ORDER BY r.last_heard DESC, r.id
        """  # noqa: S608 - `where` is one of two constants
        with closing(self._connect()) as db:
            rows = db.execute(query, {"id": run_id}).fetchall()
        return [RunRow(*(json.loads(column) if i == 5 else column for i, column in enumerate(row))) for row in rows]

    def dropped(self) -> list[DroppedRun]:
        """The runs that retention took away, the latest first."""
        query = "SELECT run_id, name, reports, last_heard, dropped_at FROM dropped_runs ORDER BY id DESC"
        with closing(self._connect()) as db:
            return [DroppedRun(*row) for row in db.execute(query)]

    def space(self) -> Space:
        """How much the store takes of its disk, and how much is left."""
        return space_of(self._path)

    def quantities(self, run_id: str) -> list[Quantity]:
        """What the run measures, in the order it was declared."""
        order = "(SELECT MIN(position) FROM series s WHERE s.run_id = q.run_id AND s.quantity = q.name), q.name"
        query = f"SELECT name, unit, help, title, scale FROM quantities q WHERE run_id = ? ORDER BY {order}"  # noqa: S608
        with closing(self._connect()) as db:
            return [Quantity(*row) for row in db.execute(query, (run_id,))]

    def series(self, run_id: str) -> list[SeriesRow]:
        """The series of a run in the order the agent reports them."""
        query = "SELECT id, rank, quantity, labels, settings, position FROM series WHERE run_id = ? ORDER BY rank, position, id"
        with closing(self._connect()) as db:
            rows = db.execute(query, (run_id,)).fetchall()
        return [SeriesRow(a, b, c, json.loads(d), json.loads(e), f) for a, b, c, d, e, f in rows]

    def points(
        self, series_ids: Sequence[int], after: int = 0, most: int | None = None, within: tuple[int, int] | None = None
    ) -> dict[int, Points]:
        """The points of each series that came in frames numbered beyond ``after``.

        With ``most``, ten or more, so many of each at the most: all where they fit, else those that a chart must not lose
        (see `pyramid.py`). ``within`` two steps, whenever they came.
        """
        with closing(self._connect()) as db:
            db.execute("BEGIN")  # one view of the store for all series: none may be behind the frame another shows
            found = stretch(db, series_ids, within, most, self._ends) if within else curves(db, series_ids, after, most)
            ordered = in_order_of_lives(db, found, after) if most else {each: (found[each], False) for each in found}
        return {
            series_id: Points(**{name: points[name].tolist() for name in KEPT.names or ()}, folded=left_out, late=late)
            for series_id, ((points, left_out), late) in ordered.items()
        }

    def moments(self, run_id: str, after: int, most: int) -> tuple[list[Moment], bool, bool]:
        """When reports of a run were made, whether by the job's clock, and whether some came late: see `times.py`."""
        with closing(self._connect()) as db:
            db.execute("BEGIN")  # what is sealed in the meantime is still found where it was
            return moments(db, run_id, after, most)

    def transitions(self, run_id: str) -> list[StoredTransition]:
        """The transitions of a run in the order they became known."""
        superseding = (
            "SELECT json_extract(body, '$.superseded') FROM phase_states WHERE run_id = ? AND json_valid(body)"
        )
        query = "SELECT machine, subject, ordinal, state, known_at, body FROM transitions WHERE run_id = ? ORDER BY id"
        with closing(self._connect()) as db:
            db.execute("BEGIN")  # what is superseded is kept together with what took its place
            rows = db.execute(query, (run_id,)).fetchall()
            kept = db.execute(superseding, (run_id,)).fetchone()
        superseded = {tuple(each) for each in json.loads((kept and kept[0]) or "[]")}
        return [
            StoredTransition(known_at, msgspec.json.decode(body, type=Transition), tuple(claim) in superseded)
            for *claim, known_at, body in rows
        ]

    def standing(self, run_id: str) -> list[Transition]:
        """The same but for what is superseded: what the run is held to be by the rules it was judged by last."""
        return [each.transition for each in self.transitions(run_id) if not each.superseded]

    def order(self, order_id: str) -> OrderRow | None:
        """The order of this id, where one was carried out."""
        with closing(self._connect()) as db:
            return order_of(db, order_id)

    def phase_state(self, run_id: str) -> tuple[int, dict[str, Any]] | None:
        """The newest state of a run's phase engine and the frame after which it was that; None where there is none."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT frame_id, body FROM phase_states WHERE run_id = ?", (run_id,)).fetchone()
        return row and (row[0], json.loads(row[1]))

    def holds(self, run_id: str) -> bool:
        """Whether there is a run of this id."""
        with closing(self._connect()) as db:
            return db.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone() is not None

    def last_frame(self) -> int:
        """The number of the newest message of all."""
        return self.timeline()[1]

    def timeline(self) -> tuple[Timeline, int]:
        """Every life of the file, in order, and the last frame of all."""
        with closing(self._connect()) as db:
            return timeline(db)

    def claims(self, run_id: str, after: int) -> dict[tuple[str, str], set[tuple[int, str, str, int]]]:
        """What was told of a run's reports beyond a frame: ``(ordinal, state, to_phase, happened_step)`` by machine and subject as JSON."""
        query = (
            "SELECT machine, subject, ordinal, state, json_extract(body, '$.to_phase'), json_extract(body, '$.happened_step') "
            "FROM transitions WHERE run_id = ? AND frame_id > ?"
        )
        found: dict[tuple[str, str], set[tuple[int, str, str, int]]] = {}
        with closing(self._connect()) as db:
            for machine, subject, *claim in db.execute(query, (run_id, after)):
                found.setdefault((machine, subject), set()).add(tuple(claim))
        return found

    def reports_after(self, run_id: str, frame: int) -> int:
        """How many messages of a run lie beyond a frame, about: those of a block are taken to have come evenly."""
        query = """
            SELECT (SELECT COALESCE(SUM(b.reports * MIN(1.0, (b.last_frame - :frame) / (b.last_frame - b.first_frame + 1.0))), 0)
                    FROM streams s JOIN blocks b ON b.stream_id = s.id
                    WHERE s.run_id = :run AND b.last_frame > :frame AND b.envelopes <> x'')
                 + (SELECT COUNT(*) FROM streams s JOIN log l ON l.place BETWEEN s.id << 32 AND (s.id << 32) + 4294967295
                    WHERE s.run_id = :run AND l.frame > :frame)
        """
        with closing(self._connect()) as db:
            db.execute("BEGIN")
            count: float = db.execute(query, {"run": run_id, "frame": frame}).fetchone()[0]
            streams = [stream_id for (stream_id,) in db.execute("SELECT id FROM streams WHERE run_id = ?", (run_id,))]
            return math.ceil(count) + int((unplaced(db, streams)["frame"] > frame).sum())

    def lives(self, run_id: str, frame: int = 0) -> list[Life]:
        """Every life of every rank of a run, the earlier ones first."""
        query = f"""
            SELECT rank, id, finished IS NOT NULL,
                EXISTS (SELECT 1 FROM blocks b WHERE b.stream_id = s.id AND b.first_frame <= :frame)
                OR EXISTS (SELECT 1 FROM log l WHERE l.place BETWEEN s.id << 32 AND (s.id << 32) + 4294967295 AND l.frame <= :frame)
            FROM streams s WHERE run_id = :run ORDER BY {OLDEST_FIRST}
        """  # noqa: S608 - a constant
        with closing(self._connect()) as db:
            db.execute("BEGIN")
            rows = db.execute(query, {"run": run_id, "frame": frame}).fetchall()
            arrived = unplaced(db, [stream_id for _, stream_id, *_ in rows])
        come = set((arrived["place"][arrived["frame"] <= frame] >> 32).tolist())
        return [Life(rank, id_, bool(finished), bool(heard) or id_ in come) for rank, id_, finished, heard in rows]

    def lost(self, run_id: str) -> dict[int, int]:
        """How many reports of each rank were lost."""
        query = "SELECT rank, SUM(lost) FROM streams WHERE run_id = ? GROUP BY rank"
        with closing(self._connect()) as db:
            return dict(db.execute(query, (run_id,)).fetchall())

    def schemas(self, run_id: str) -> dict[tuple[int, int], Schema]:
        """Every schema of a run by ``(stream_id, schema id)``."""
        query = "SELECT stream_id, c.id, body FROM schemas c JOIN streams s ON s.id = stream_id WHERE run_id = ?"
        with closing(self._connect()) as db:
            rows = db.execute(query, (run_id,)).fetchall()
        return {(stream_id, schema_id): schema_of(body) for stream_id, schema_id, body in rows}

    def need_reports(self, run_id: str) -> None:
        """See that a run still has its reports.

        Raises:
            StoreError: it was thinned.
        """
        if any(row.id == run_id and row.thinned_at is not None for row in self.runs(run_id)):
            raise StoreError(
                f"Got the run {run_id}, which was thinned: only the extremes of its curves are kept, and they cannot be judged. "
                "Choose a younger run, or a backup made before."
            )

    def live_state(self, run_id: str) -> tuple[int, bytes] | None:
        """What was last kept of a run's memory and the frame after which it was that; None where there is none."""
        with closing(self._connect()) as db:
            row = db.execute("SELECT frame_id, body FROM live_states WHERE run_id = ?", (run_id,)).fetchone()
        return row and (row[0], row[1])

    def frames(self, run_id: str, after: int = 0) -> Iterator[StoredFrame]:
        """Every committed message of a run beyond a frame, in the order of commit: what replay folds over."""
        with closing(self._connect()) as db:
            db.execute("BEGIN")  # what is sealed in the meantime is still found where it was
            yield from frames(db, run_id, after)
