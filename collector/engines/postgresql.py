"""PostgreSQL as an Engine: one table of points in the order of steps, filled by COPY, each batch with its cursor in one transaction."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from collector.engines.engine import Curve, Unfit
from collector.store.queries import Points, RunRow, StoredTransition
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
    run_id text NOT NULL REFERENCES phasewatch_runs (id) ON DELETE CASCADE, place integer NOT NULL,
    known_at double precision NOT NULL, body jsonb NOT NULL,
    superseded boolean NOT NULL DEFAULT false,  -- told by rules of another version: the run was judged again, and it was not found
    PRIMARY KEY (run_id, place)
);
CREATE TABLE IF NOT EXISTS phasewatch_series (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL REFERENCES phasewatch_runs (id) ON DELETE CASCADE,
    rank bigint NOT NULL, quantity text NOT NULL, labels jsonb NOT NULL,
    cursor bigint NOT NULL DEFAULT 0  -- the frame of the collector's store up to which all points are here
);
CREATE UNIQUE INDEX IF NOT EXISTS phasewatch_series_of_labels ON phasewatch_series (run_id, rank, quantity, md5(labels::text));
CREATE TABLE IF NOT EXISTS phasewatch_points (
    series_id bigint NOT NULL REFERENCES phasewatch_series (id) ON DELETE CASCADE,
    step bigint NOT NULL, frame bigint NOT NULL, value double precision NOT NULL, stderr double precision NOT NULL,
    paired double precision NOT NULL, n bigint NOT NULL, outcome smallint NOT NULL,
    PRIMARY KEY (series_id, step, frame)
);
-- What older releases made; only where it is so, for ALTER waits for everybody who reads the table, and they for it.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'phasewatch_transitions'::regclass AND attname = 'superseded') THEN
        ALTER TABLE phasewatch_transitions ADD COLUMN superseded boolean NOT NULL DEFAULT false;
    END IF;
    -- Labels may be longer than the 2,704 bytes that an index takes.
    IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'phasewatch_series'::regclass
               AND conname = 'phasewatch_series_run_id_rank_quantity_labels_key') THEN
        ALTER TABLE phasewatch_series DROP CONSTRAINT phasewatch_series_run_id_rank_quantity_labels_key;
    END IF;
END $$;
"""
_LOCK = 0x50484153
"""Two forwarders that start at once must not both make the tables."""


@final
class PostgreSQL:
    """See the module.

    Args:
        address: of the database, as libpq takes it: ``postgresql://USER@HOST/NAME`` or ``host=… dbname=…``.

    Raises:
        psycopg.Error: it cannot be reached, or lets nobody make tables.
    """

    def __init__(self, address: str) -> None:
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

    def put_run(self, run: RunRow, quantities: Sequence[Quantity], transitions: Sequence[StoredTransition]) -> None:
        """See `Engine.put_run`."""
        told = [
            (run.id, i, each.known_at, msgspec.json.encode(each.transition).decode(), each.superseded)
            for i, each in enumerate(transitions)
        ]
        with self._transaction() as db:
            db.execute(
                "INSERT INTO phasewatch_runs VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE "
                "SET last_heard = excluded.last_heard, step = excluded.step, reports = excluded.reports, lost = excluded.lost, "
                "finished = excluded.finished",
                (
                    *(run.id, run.name, run.host, Jsonb(run.labels), run.git_revision, run.world_size, run.started_at),
                    *(run.first_heard, run.last_heard, run.step, run.reports, run.lost, run.finished),
                ),
            )
            db.executemany(
                "INSERT INTO phasewatch_quantities VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [(run.id, q.name, q.unit, q.help, q.title, q.scale) for q in quantities],
            )
            db.executemany(
                "INSERT INTO phasewatch_transitions (run_id, place, known_at, body, superseded) VALUES (%s, %s, %s, %s, %s) "
                "ON CONFLICT (run_id, place) DO UPDATE SET known_at = excluded.known_at, body = excluded.body, superseded = excluded.superseded",
                told,
            )

    def cursors(self, run_id: str) -> dict[Curve, int]:
        """See `Engine.cursors`."""
        with self._db.transaction():
            rows = self._db.execute(
                "SELECT rank, quantity, labels, cursor FROM phasewatch_series WHERE run_id = %s", (run_id,)
            ).fetchall()
        return {Curve.of(run_id, rank, quantity, labels): cursor for rank, quantity, labels, cursor in rows}

    def put_points(self, curve: Curve, points: Points) -> None:
        """See `Engine.put_points`."""
        with self._transaction() as db:
            found = db.execute(
                "INSERT INTO phasewatch_series (run_id, rank, quantity, labels) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (run_id, rank, quantity, md5(labels::text)) DO UPDATE SET rank = excluded.rank RETURNING id, cursor",
                (curve.run_id, curve.rank, curve.quantity, Jsonb(dict(curve.labels))),
            ).fetchone()
            assert found is not None  # noqa: S101 - RETURNING gives a row
            series_id, cursor = found
            columns = (points.step, points.frame, points.value, points.stderr, points.paired, points.n, points.outcome)
            with db.copy("COPY phasewatch_points FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "int8", "int8", "float8", "float8", "float8", "int8", "int2"])
                for row in zip(*columns, strict=True):
                    if row[1] > cursor:  # another forwarder was here since we asked
                        copy.write_row((series_id, *row))
            db.execute(
                "UPDATE phasewatch_series SET cursor = GREATEST(cursor, %s) WHERE id = %s",
                (points.frame[-1], series_id),
            )

    def close(self) -> None:
        """See `Engine.close`."""
        self._db.close()
