"""The store forwarded to a real PostgreSQL: every point once, whoever is killed in between."""

import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from collector.engines.forwarder import Forwarder
from collector.engines.postgresql import PostgreSQL
from collector.store.backup import back_up
from collector.store.queries import Reader, StoredTransition
from collector.store.sqlite import Store
from collector.store.timeline import Life
from probe_agent.outbox import ZmqOutbox
from probe_wire import Column, Estimate, Hello, Quantity, Report, Run, Schema, encode, pack
from tests import warm
from tests.collector_fixtures import transition
from tests.integration.collector_process import ROOT, WITHOUT_TORCH, CollectorProcess
from tests.integration.postgresql import PostgreSQLServer
from tests.integration.reporter import draft
from tests.patience import eventually
from tests.stored_reports import Writer

ALL = (
    "SELECT s.rank, p.step, p.value, p.stderr FROM phasewatch_points p JOIN phasewatch_series s ON s.id = p.series_id "
    "WHERE s.quantity = 'probe_loss' ORDER BY s.rank, p.step"
)


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQLServer]:
    with PostgreSQLServer() as server:
        yield server


def forwarding(store: Path, to: str, *more: str) -> warm.Process:
    with (store.parent / "forward.log").open("a") as log:
        return warm.Process(
            warm.COLLECTOR,
            ["-c", WITHOUT_TORCH, "forward", to, "--store", str(store), "--every", "0.1", *more],
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )


def finish(outbox: ZmqOutbox) -> None:
    eventually(lambda: not outbox._queue and outbox.undelivered == 0, seconds=20, what="all to be acknowledged")
    outbox.close("finished")


def test_every_point_is_in_the_database_once_though_forwarder_and_database_are_killed(
    tmp_path: Path, database: PostgreSQLServer
) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        outboxes = [
            ZmqOutbox(collector.inlet, Run("kept", "kept", "host", 1, 0.0), rank, lambda: 0) for rank in range(2)
        ]
        process = forwarding(store, database.address)
        step = 0
        for fault in ("forwarder", "database", "forwarder", "none"):
            for _ in range(150):
                step += 1
                for outbox in outboxes:
                    outbox.put(draft(step))
                time.sleep(0.002)
            if fault == "forwarder":
                process.kill()
                process.wait()
                process = forwarding(store, database.address)
            if fault == "database":
                database.end(signal.SIGKILL)
                database.start()
        for outbox in outboxes:
            finish(outbox)
        wanted = [(rank, each, float(each), 0.125) for rank in range(2) for each in range(1, step + 1)]
        told = "SELECT id, reports, finished FROM phasewatch_runs WHERE id = 'kept'"
        try:
            eventually(
                lambda: database.rows(told) == [("kept", 1200, "finished")], seconds=30, what="the run to be there"
            )
            eventually(lambda: len(database.rows(ALL)) >= len(wanted), seconds=30, what="all points to be there")
        finally:
            process.terminate()
            process.wait(10)
        assert database.rows(ALL) == wanted
        assert database.rows(
            "SELECT title FROM phasewatch_quantities WHERE run_id = 'kept' AND name = 'probe_loss'"
        ) == [("Loss",)]


def test_a_run_with_the_longest_names_is_forwarded_and_one_with_names_no_database_takes_holds_up_no_other(
    tmp_path: Path, database: PostgreSQLServer
) -> None:
    longest = {f"label_{i}": "".join(chr(0x1F300 + (i * 200 + j) % 700) for j in range(200)) for i in range(16)}
    store = Store(tmp_path / "store.db")
    for i, (run_id, labels) in enumerate(
        {"longest": longest, "nul": {"layer": "\0"}, "plain": {"layer": "fc"}}.items()
    ):
        stream = store.put_hello(Hello(Run(run_id, run_id, "host", 1, 0.0), 0, "a", 1), float(i))
        schema = Schema(1, (Quantity("loss_of_names", "1", "Loss.", "Loss"),), (Column("loss_of_names", labels),))
        store.put_schema(stream, schema, encode(schema))
        report = Report(1, 1, 0.0, 1, *pack([Estimate(1.0)]))
        store.put_report(stream, report, encode(report), float(i))
    store.commit()
    store.close()
    engine = PostgreSQL(database.address)
    forwarder = Forwarder(Reader(tmp_path / "store.db"), engine)
    assert (forwarder.round(), forwarder.round()) == (2, 0)
    engine.close()
    query = (
        "SELECT run_id, labels FROM phasewatch_series JOIN phasewatch_cursors ON series_id = id "
        "WHERE quantity = 'loss_of_names' ORDER BY run_id"
    )
    assert database.rows(query) == [
        ("longest", longest),
        ("plain", {"layer": "fc"}),
    ]


def test_two_forwarders_at_once_double_nothing(tmp_path: Path, database: PostgreSQLServer) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        outbox = ZmqOutbox(collector.inlet, Run("twice", "twice", "host", 1, 0.0), 7, lambda: 0)
        for step in range(1, 501):
            outbox.put(draft(step))
        finish(outbox)
    both = [forwarding(store, database.address, "--once") for _ in range(2)]
    assert [process.wait(30) for process in both] == [0, 0]
    (series,) = Reader(store).series("twice")
    assert series.rank == 7
    found = database.rows(
        "SELECT COUNT(*), COUNT(DISTINCT step) FROM phasewatch_points p JOIN phasewatch_series s ON s.id = p.series_id WHERE rank = 7"
    )
    assert found == [(500, 500)]


def test_a_database_that_is_not_there_is_said_without_its_password(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        done = collector.command("forward", "postgresql://me:secret@127.0.0.1:1/nothing", "--once")
    assert done.returncode == 2
    assert "Got the database postgresql://me@127.0.0.1:1/nothing, which cannot be filled" in done.stderr
    assert "secret" not in done.stderr


def test_tables_of_an_older_release_are_brought_up_to_date_and_then_left_to_those_who_read_them(
    database: PostgreSQLServer,
) -> None:
    PostgreSQL(database.address).close()
    with psycopg.connect(database.address) as db:
        db.execute("ALTER TABLE phasewatch_transitions DROP COLUMN superseded")
        db.execute(
            "ALTER TABLE phasewatch_series ADD CONSTRAINT phasewatch_series_run_id_rank_quantity_labels_key CHECK (rank >= 0)"
        )
    PostgreSQL(database.address).close()
    constraint = "SELECT 1 FROM pg_constraint WHERE conname = 'phasewatch_series_run_id_rank_quantity_labels_key'"
    column = "SELECT data_type FROM information_schema.columns WHERE table_name = 'phasewatch_transitions' AND column_name = 'superseded'"
    assert database.rows(column) == [("boolean",)]
    assert database.rows(constraint) == []
    with psycopg.connect(database.address) as reader:
        reader.execute("SELECT 1 FROM phasewatch_transitions, phasewatch_series LIMIT 1")  # and thinks about it
        PostgreSQL(make_conninfo(database.address, options="-c lock_timeout=2s")).close()


def test_what_was_told_and_is_superseded_says_so_in_the_database(tmp_path: Path, database: PostgreSQLServer) -> None:
    store = Store(tmp_path / "store.db")
    store.put_hello(Hello(Run("judged", "judged", "host", 1, 0.0), 0, "a", 1), 1.0)
    store.commit()
    store.close()
    (run,) = Reader(tmp_path / "store.db").runs()
    engine = PostgreSQL(database.address)
    told = transition()
    query = "SELECT place, superseded FROM phasewatch_transitions WHERE run_id = 'judged' ORDER BY place"
    for superseded in (False, True):
        engine.put_run(run, (), [StoredTransition(1.0, told, superseded), StoredTransition(2.0, told)])
        assert database.rows(query) == [(0, superseded), (1, False)]
    engine.close()


# -- stores that were put back, and other ones -------------------------------------------------------


def steps(database: PostgreSQLServer, run_id: str) -> list[tuple[int, int, int]]:
    """Of the points of a run: step, the store they are from, and their frame there."""
    query = (
        "SELECT run_id, p.step, p.frame >> 44, p.frame & ((1::bigint << 44) - 1) FROM phasewatch_points p "
        "JOIN phasewatch_series s ON s.id = p.series_id WHERE quantity = 'loss' AND labels = '{}' ORDER BY 2, 3"
    )
    return [(step, store, frame) for run, step, store, frame in database.rows(query) if run == run_id]


def forwarded(path: Path, address: str) -> int:
    engine = PostgreSQL(address)
    try:
        return Forwarder(Reader(path), engine).round()
    finally:
        engine.close()


@pytest.fixture
def empty(database: PostgreSQLServer) -> str:
    PostgreSQL(database.address).close()
    with psycopg.connect(database.address) as db:
        db.execute("TRUNCATE phasewatch_runs, phasewatch_stores CASCADE")
    return database.address


def in_place_of(writer: Writer, copy: Path) -> None:
    """Put a copy back in the place of the store, and have the agent greet."""
    writer.store.close()
    for old in writer.path.parent.glob(writer.path.name + "*"):
        old.unlink()
    copy.rename(writer.path)
    writer.open()


def test_after_a_backup_is_put_back_what_is_sent_again_is_there_once_and_what_is_new_is_there_too(
    tmp_path: Path, database: PostgreSQLServer, empty: str, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(tmp_path / "s.db", run=Run("restored", "restored", "host", 1, 0.0))
    writer.fill(10)
    back_up(writer.path, tmp_path / "copy.db")
    writer.fill(10)
    assert forwarded(writer.path, empty) == 20 * 3
    in_place_of(writer, tmp_path / "copy.db")
    writer.store._db.execute(
        "UPDATE streams SET high = 15"
    )  # 11 to 15 are with nobody any more, 16 to 20 are sent again
    writer.restart()
    writer.fill(10)
    assert Reader(writer.path).last_frame() == 20, "as far as the database has come: nothing would be taken for new"
    assert forwarded(writer.path, empty) == 10 * 3
    assert steps(database, "restored") == [(10 * i, 0, i) for i in range(1, 21)] + [
        (10 * i, 1, i - 5) for i in range(21, 26)
    ]
    assert "forward.store_was_restored" in caplog.messages
    writer.fill(1)
    assert [forwarded(writer.path, empty) for _ in range(2)] == [3, 0]
    assert [step for step, *_ in steps(database, "restored")] == list(range(10, 261, 10))
    writer.store.close()


def test_a_copy_that_is_put_back_while_points_are_forwarded_is_noticed(
    tmp_path: Path, database: PostgreSQLServer, empty: str
) -> None:
    writer = Writer(tmp_path / "s.db", run=Run("swapped", "swapped", "host", 1, 0.0))
    writer.fill(2)
    back_up(writer.path, tmp_path / "copy.db")
    writer.fill(3)
    engine = PostgreSQL(empty)
    forwarder = Forwarder(Reader(writer.path), engine)
    assert forwarder.round() == 15
    in_place_of(writer, tmp_path / "copy.db")
    for _ in range(5):
        writer.fill(1)
        assert forwarder.round() == 3
    assert [step for step, *_ in steps(database, "swapped")] == list(range(10, 71, 10))
    engine.close()
    writer.store.close()


def test_a_run_that_moves_from_one_collector_to_another_is_there_whole_and_nobody_says_a_store_is_older(
    tmp_path: Path, database: PostgreSQLServer, empty: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    moved = Run("moved", "moved", "host", 1, 0.0)
    first, second = (Writer(tmp_path / f"{name}.db", run=moved) for name in "ab")
    first.fill(20)
    assert forwarded(first.path, empty) == 60
    for step in range(20, 31):  # the last was committed there, but not acknowledged
        x = 0.1 * step
        second.stream.high = step - 1
        second.report([Estimate(math.sin(x + i), 0.1 + 0.01 * i, 0.01, 64) for i in range(3)])
    second.commit()
    assert forwarded(second.path, empty) == 33
    assert [step for step, *_ in steps(database, "moved")] == list(range(10, 301, 10))
    assert [forwarded(each.path, empty) for each in (first, second)] == [0, 0]
    assert database.rows("SELECT step, reports FROM phasewatch_runs WHERE id = 'moved'")
    assert caplog.messages.count("forward.another_store") == 1
    assert "forward.store_was_restored" not in caplog.messages
    for each in (first, second):
        each.store.close()


def test_what_an_older_release_put_into_a_database_stays_and_is_gone_on_from(
    tmp_path: Path, database: PostgreSQLServer, empty: str
) -> None:
    writer = Writer(tmp_path / "s.db", run=Run("older", "older", "host", 1, 0.0))
    writer.fill(5)
    assert forwarded(writer.path, empty) == 15
    with psycopg.connect(empty) as db:
        db.execute("ALTER TABLE phasewatch_series ADD COLUMN cursor bigint NOT NULL DEFAULT 0")
        db.execute("UPDATE phasewatch_series SET cursor = frame FROM phasewatch_cursors WHERE series_id = id")
        db.execute("DROP TABLE phasewatch_cursors, phasewatch_stores")
    writer.fill(2)
    assert forwarded(writer.path, empty) == 6
    assert steps(database, "older") == [(10 * i, 0, i) for i in range(1, 8)]
    writer.store.close()


def test_a_transition_that_two_stores_tell_is_there_once_and_each_keeps_its_own(
    tmp_path: Path, database: PostgreSQLServer, empty: str
) -> None:
    store = Store(tmp_path / "store.db")
    store.put_hello(Hello(Run("told", "told", "host", 1, 0.0), 0, "a", 1), 1.0)
    store.commit()
    store.close()
    (run,) = Reader(tmp_path / "store.db").runs()
    both, one, other = (transition(ordinal=i) for i in range(3))
    query = "SELECT place >> 20, body->'ordinal', superseded FROM phasewatch_transitions WHERE run_id = 'told' ORDER BY place"
    for number, told in ((0, (both, one)), (1, (both, other)), (0, (both, one))):
        engine = PostgreSQL(empty)
        engine.join((Life(str(number), 0),), 0)
        engine.put_run(run, (), [StoredTransition(1.0, each, superseded=number == 1) for each in told])
        engine.close()
    assert database.rows(query) == [(0, 0, False), (0, 1, False), (1, 2, True)]
