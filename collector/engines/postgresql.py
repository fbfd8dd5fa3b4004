"""PostgreSQL as an Engine: one table of points in the order of steps, filled by COPY, each batch with its cursor in one transaction.

The number of the store that a point or a transition is from stands in the upper bits of its frame or place; that of the first is 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from collector.engines.engine import Curve, Joined, Source, Unfit, joined
from collector.store.queries import Points, RunRow, StoredTransition
from collector.store.timeline import Life, Timeline
from probe_wire import Quantity

TABLES = """
CREATE TABLE IF NOT EXISTS phasewatch_runs (
    id text PRIMARY KEY, name text NOT NULL, host text NOT NULL, labels jsonb NOT NULL, git_revision text NOT NULL,
    world_size bigint NOT NULL, started_at double precision NOT NULL, first_heard double precision NOT NULL,
    last_heard double precision NOT NULL, step bigint NOT NULL, reports bigint NOT NULL, lost bigint NOT NULL, finished text
);
CREATE TABLE IF NOT EXISTS phasewatch_quantities (
    run_id text NOT NULL REFERENCES phasewatch_runs (id) ON DELETE CASCADE, name text NOT NULL, unit text NOT NULL, help text NOT NULL,
    title text NOT NULL, scale text NOT NULL, PRIMARY KEY (run_id, name)
);
CREATE TABLE IF NOT EXISTS phasewatch_transitions (
    run_id text NOT NULL REFERENCES phasewatch_runs (id) ON DELETE CASCADE,
    place integer NOT NULL,  -- in the order in which they became known, and 2^20 times the number of the store
    known_at double precision NOT NULL, body jsonb NOT NULL,
    superseded boolean NOT NULL DEFAULT false,  -- told by rules of another version: the run was judged again, and it was not found
    PRIMARY KEY (run_id, place)
);
CREATE TABLE IF NOT EXISTS phasewatch_series (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL REFERENCES phasewatch_runs (id) ON DELETE CASCADE,
    rank bigint NOT NULL, quantity text NOT NULL, labels jsonb NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS phasewatch_series_of_labels ON phasewatch_series (run_id, rank, quantity, md5(labels::text));
CREATE TABLE IF NOT EXISTS phasewatch_points (
    series_id bigint NOT NULL REFERENCES phasewatch_series (id) ON DELETE CASCADE,
    step bigint NOT NULL,
    frame bigint NOT NULL,  -- the number of its report in the collector's store, and 2^44 times the number of the store
    value double precision NOT NULL, stderr double precision NOT NULL,
    paired double precision NOT NULL, n bigint NOT NULL, outcome smallint NOT NULL,
    PRIMARY KEY (series_id, step, frame)
);
CREATE TABLE IF NOT EXISTS phasewatch_stores (
    number bigint PRIMARY KEY,
    timeline jsonb NOT NULL  -- its lives: of each its mark and the last frame before it; none where an older release filled the database
);
CREATE TABLE IF NOT EXISTS phasewatch_cursors (
    series_id bigint NOT NULL REFERENCES phasewatch_series (id) ON DELETE CASCADE,
    store bigint NOT NULL REFERENCES phasewatch_stores (number),
    frame bigint NOT NULL,  -- up to which all points of that store are here
    PRIMARY KEY (series_id, store)
);
-- What older releases made; only where it is so, for ALTER waits for everybody who reads the table, and they for it.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'phasewatch_transitions'::regclass AND attname = 'superseded') THEN
        ALTER TABLE phasewatch_transitions ADD COLUMN superseded boolean NOT NULL DEFAULT false;
    END IF;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'phasewatch_series'::regclass AND attname = 'cursor') THEN
        IF EXISTS (SELECT FROM phasewatch_series WHERE cursor > 0) THEN
            INSERT INTO phasewatch_stores VALUES (0, '[]');
            INSERT INTO phasewatch_cursors SELECT id, 0, cursor FROM phasewatch_series WHERE cursor > 0;
        END IF;
        ALTER TABLE phasewatch_series DROP COLUMN cursor;
    END IF;
    -- Labels may be longer than the 2,704 bytes that an index takes.
    IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'phasewatch_series'::regclass
               AND conname = 'phasewatch_series_run_id_rank_quantity_labels_key') THEN
        ALTER TABLE phasewatch_series DROP CONSTRAINT phasewatch_series_run_id_rank_quantity_labels_key;
    END IF;
END $$;
"""
_LOCK = 0x50484153
"""Two forwarders that start at once must not both make the tables, nor take the same number."""
_FRAMES, _PLACES = 44, 20
"""Bits below the number of the store; the statements have them too."""
_DOUBLES = """
    DELETE FROM phasewatch_points new USING phasewatch_points old
    WHERE new.series_id = %(series)s AND new.step BETWEEN %(first)s AND %(last)s AND new.frame BETWEEN %(after)s + 1 AND %(until)s
    AND old.series_id = new.series_id AND old.step = new.step AND old.frame >> 44 <> new.frame >> 44
    AND (old.value, old.stderr, old.paired, old.n, old.outcome) = (new.value, new.stderr, new.paired, new.n, new.outcome)
"""
"""What has come that was there from another store. A NaN is equal to a NaN."""

_TOLD_BY_ANOTHER = """
    UPDATE phasewatch_transitions SET superseded = %(superseded)s
    WHERE run_id = %(run)s AND place >> 20 <> %(store)s AND body = %(body)s::jsonb
"""
_TOLD = """
    INSERT INTO phasewatch_transitions (run_id, place, known_at, body, superseded)
    SELECT %(run)s, %(place)s::integer, %(known_at)s::double precision, %(body)s::jsonb, %(superseded)s WHERE NOT EXISTS (
        SELECT FROM phasewatch_transitions WHERE run_id = %(run)s AND place >> 20 <> %(store)s AND body = %(body)s::jsonb
    )
    ON CONFLICT (run_id, place) DO UPDATE
    SET known_at = excluded.known_at, body = excluded.body, superseded = excluded.superseded
"""


@final
class PostgreSQL:
    """See the module.

    Args:
        address: of the database, as libpq takes it: ``postgresql://USER@HOST/NAME`` or ``host=… dbname=…``.

    Raises:
        psycopg.Error: it cannot be reached, or lets nobody make tables.
    """

    def __init__(self, address: str) -> None:
        self._store = 0
        self._db = psycopg.connect(address, connect_timeout=10)
        try:
            with self._db.transaction():
                self._db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                self._db.execute(TABLES)
        except psycopg.Error:
            self._db.close()
            raise

    @contextmanager
    def _transaction(self) -> Iterator["psycopg.Cursor[Any]"]:
        try:
            with self._db.transaction(), self._db.cursor() as db:
                yield db
        except psycopg.DataError as error:  # a NUL in a name, say
            raise Unfit(str(error).strip()) from error

    def join(self, timeline: Timeline, last_frame: int) -> Joined:
        """See `Engine.join`."""
        with self._transaction() as db:
            db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            db.execute(
                "SELECT number, timeline, (SELECT COALESCE(MAX(frame), 0) FROM phasewatch_cursors WHERE store = number) "
                "FROM phasewatch_stores ORDER BY number"
            )
            sources = [Source(number, tuple(Life(*life) for life in lives), last) for number, lives, last in db]
            found = joined(sources, timeline, last_frame)
            db.execute(
                "INSERT INTO phasewatch_stores VALUES (%s, %s) ON CONFLICT (number) DO UPDATE SET timeline = excluded.timeline",
                (found.number, Jsonb(timeline)),
            )
            if found.like is not None:
                db.execute(
                    "INSERT INTO phasewatch_cursors SELECT series_id, %s, LEAST(frame, %s) FROM phasewatch_cursors WHERE store = %s",
                    (found.number, found.same_until, found.like),
                )
        self._store = found.number
        return found

    def put_run(self, run: RunRow, quantities: Sequence[Quantity], transitions: Sequence[StoredTransition]) -> None:
        """See `Engine.put_run`."""
        told = [
            {
                "run": run.id,
                "place": self._store << _PLACES | i,
                "store": self._store,
                "known_at": each.known_at,
                "body": msgspec.json.encode(each.transition).decode(),
                "superseded": each.superseded,
            }
            for i, each in enumerate(transitions)
        ]
        with self._transaction() as db:
            db.execute(
                "INSERT INTO phasewatch_runs VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE "
                "SET last_heard = excluded.last_heard, step = excluded.step, reports = excluded.reports, lost = excluded.lost, "
                "finished = excluded.finished WHERE excluded.last_heard >= phasewatch_runs.last_heard",
                (
                    *(run.id, run.name, run.host, Jsonb(run.labels), run.git_revision, run.world_size, run.started_at),
                    *(run.first_heard, run.last_heard, run.step, run.reports, run.lost, run.finished),
                ),
            )
            db.executemany(
                "INSERT INTO phasewatch_quantities VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [(run.id, q.name, q.unit, q.help, q.title, q.scale) for q in quantities],
            )
            db.executemany(_TOLD_BY_ANOTHER, told)
            db.executemany(_TOLD, told)

    def cursors(self, run_id: str) -> dict[Curve, int]:
        """See `Engine.cursors`."""
        with self._db.transaction():
            rows = self._db.execute(
                "SELECT rank, quantity, labels, frame FROM phasewatch_series JOIN phasewatch_cursors ON series_id = id "
                "WHERE run_id = %s AND store = %s",
                (run_id, self._store),
            ).fetchall()
        return {Curve.of(run_id, rank, quantity, labels): frame for rank, quantity, labels, frame in rows}

    def put_points(self, curve: Curve, points: Points) -> None:
        """See `Engine.put_points`."""
        with self._transaction() as db:
            found = db.execute(
                "INSERT INTO phasewatch_series (run_id, rank, quantity, labels) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (run_id, rank, quantity, md5(labels::text)) DO UPDATE SET rank = excluded.rank RETURNING id",
                (curve.run_id, curve.rank, curve.quantity, Jsonb(dict(curve.labels))),
            ).fetchone()
            assert found is not None  # noqa: S101 - RETURNING gives a row
            (series_id,) = found
            cursors = dict(
                db.execute("SELECT store, frame FROM phasewatch_cursors WHERE series_id = %s", (series_id,)).fetchall()
            )
            cursor, above = cursors.pop(self._store, 0), self._store << _FRAMES
            columns = (points.step, points.frame, points.value, points.stderr, points.paired, points.n, points.outcome)
            with db.copy("COPY phasewatch_points FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "int8", "int8", "float8", "float8", "float8", "int8", "int2"])
                for row in zip(*columns, strict=True):
                    if row[1] > cursor:  # another forwarder was here since we asked
                        copy.write_row((series_id, row[0], above + row[1], *row[2:]))
            until = points.frame[-1]
            if cursors:
                steps = {"first": min(points.step), "last": max(points.step)}
                db.execute(_DOUBLES, {"series": series_id, **steps, "after": above + cursor, "until": above + until})
            db.execute(
                "INSERT INTO phasewatch_cursors AS known VALUES (%s, %s, %s) "
                "ON CONFLICT (series_id, store) DO UPDATE SET frame = GREATEST(known.frame, excluded.frame)",
                (series_id, self._store, until),
            )

    def close(self) -> None:
        """See `Engine.close`."""
        self._db.close()
