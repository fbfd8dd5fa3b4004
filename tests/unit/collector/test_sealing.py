"""Sealing: whatever is put, in whatever order, is read back to the last bit, from the log and from blocks alike."""

import math
import os
import random
import signal
import sqlite3
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.store import archive, arrivals, block, examination, sealing
from collector.store.backup import back_up
from collector.store.examination import examine
from collector.store.log import Row
from collector.store.queries import Reader
from collector.store.sqlite import Store
from probe_wire import BadMessage, Estimate, Hello, Outcome, Report, encode, pack
from tests.stored_reports import RUN, SMALL, WHOLE, Writer
from tests.stored_truth import Put, assert_holds

NUMBERS = st.floats(width=64) | st.sampled_from([math.nan, -math.nan, math.inf, -0.0, 5e-324, 1.5])
ESTIMATES = st.builds(Estimate, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 2**32 - 1), st.sampled_from(list(Outcome)))
REPORT = st.tuples(st.just(WHOLE), st.lists(ESTIMATES, min_size=3, max_size=3), st.integers(0, 2**62)) | st.tuples(
    st.just(SMALL), st.lists(ESTIMATES, min_size=1, max_size=1), st.integers(0, 2**62)
)
DOINGS = st.lists(REPORT | st.sampled_from(["commit", "commit", "rollback", "restart", "goodbye"]), max_size=60)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight, and of four where a stream has ended, made as soon as they can be."""
    monkeypatch.setattr(arrivals, "LEAST", 1)
    monkeypatch.setattr(arrivals, "MOST", 1)
    monkeypatch.setattr(sealing, "BLOCK", 8)
    monkeypatch.setattr(sealing, "BUCKET", 4)
    monkeypatch.setattr(examination, "BUCKET", 4)


def blocks(path: Path) -> list[int]:
    """How many reports each block has."""
    db = sqlite3.connect(path)
    found = [reports for (reports,) in db.execute("SELECT reports FROM blocks ORDER BY first_frame")]
    db.close()
    return found


def assert_whole(path: Path) -> None:
    assert [one for one in examine(path) if one.remedy] == []


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(doings=DOINGS, together=st.sampled_from([1, 5, 12]))
def test_what_is_read_is_what_was_put_over_seals_rollbacks_and_restarts(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch, doings: list[object], together: int
) -> None:
    monkeypatch.setattr(arrivals, "MOST", together)
    monkeypatch.setattr(arrivals, "LEAST", together)
    path = tmp_path / f"{time.monotonic_ns()}.db"
    writer = Writer(path)
    for doing in doings:
        if isinstance(doing, tuple):
            schema, estimates, step = doing
            writer.report(estimates, schema=schema, step=step)
        else:
            getattr(writer, str(doing))()
    writer.commit()
    assert_holds(path, "run-1", writer.committed)
    assert_whole(path)
    writer.store.close()
    path.unlink()


def test_reports_of_one_schema_become_one_block_and_leave_the_log(tmp_path: Path, small_blocks: None) -> None:
    writer = Writer(tmp_path / "s.db")
    for _ in range(7):
        writer.fill(1)
        writer.fill(1, schema=SMALL)
    assert blocks(writer.path) == []
    writer.fill(1)
    assert blocks(writer.path) == [8]
    assert_holds(writer.path, "run-1", writer.committed)
    writer.fill(5, schema=SMALL)
    writer.goodbye()
    writer.commit()
    assert blocks(writer.path) == [8, 8, 4]
    assert_holds(writer.path, "run-1", writer.committed)
    assert_whole(writer.path)
    writer.store.close()


def test_a_seldom_used_schema_is_sealed_once_much_is_in_the_log(tmp_path: Path, small_blocks: None) -> None:
    writer = Writer(tmp_path / "s.db")
    db = writer.store._db
    for _ in range(40):
        writer.fill(1, schema=SMALL)
    assert sum(blocks(writer.path)) == 40
    writer.fill(5)
    assert sum(blocks(writer.path)) == 40
    for _ in range(40):
        writer.fill(1, schema=SMALL)
    writer.fill(30)
    assert_holds(writer.path, "run-1", writer.committed)
    assert db.execute("SELECT COUNT(*) FROM log").fetchone()[0] < 4 * sealing.BLOCK
    writer.store.close()


def test_a_message_that_would_not_come_back_to_the_byte_stays_as_it_came(tmp_path: Path, small_blocks: None) -> None:
    writer = Writer(tmp_path / "s.db")
    estimates = [Estimate(1.0, 0.1, 0.01, 8)]
    report = Report(1, 10, 0.1, 2, *pack(estimates))
    odd = encode(report).replace(b"\xc4\x08" + report.values, b"\xc6\x00\x00\x00\x08" + report.values)
    writer.report(estimates, schema=SMALL, body=odd)
    writer.fill(12, schema=SMALL)
    assert blocks(writer.path) == []
    assert writer.committed[0].message == report
    assert_holds(writer.path, "run-1", writer.committed)
    writer.store.close()


def test_a_message_of_a_newer_release_comes_back_with_what_this_one_does_not_know(
    tmp_path: Path, small_blocks: None
) -> None:
    writer = Writer(tmp_path / "s.db")
    bodies = []
    for seq in range(1, 9):
        report = Report(seq, seq, 0.0, 2, *pack([Estimate(1.0 * seq)]))
        fields = msgspec.msgpack.decode(encode(report)[1:])
        bodies.append(encode(report)[:1] + msgspec.msgpack.encode([*fields, "more", {"of": seq}]))
        writer.report([Estimate(1.0 * seq)], schema=SMALL, body=bodies[-1])
    writer.commit()
    assert blocks(writer.path) == [8]
    db = writer.store._db
    (first,) = db.execute("SELECT first_frame FROM blocks").fetchone()
    series = sealing.series_of(db, writer.stream.id, 2)
    assert archive.block_bodies(db, first, series) == bodies
    writer.store.close()


def test_what_cannot_be_sealed_is_kept_all_the_same(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    writer = Writer(tmp_path / "s.db")
    with monkeypatch.context() as patched:
        patched.setattr(sealing, "extremes", fail)  # when half of a block is written
        writer.fill(20)
    assert (blocks(writer.path), writer.store._sealer.failures) == ([], 1)
    assert "store.sealing_failed" in caplog.text
    assert_holds(writer.path, "run-1", writer.committed)
    writer.restart()
    writer.fill(1)
    assert sum(blocks(writer.path)) == 16
    assert_holds(writer.path, "run-1", writer.committed)
    writer.store.close()


def test_nothing_leaves_the_log_that_was_not_put_together_again_first(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "s.db")
    monkeypatch.setattr(block, "join", lambda _: [])
    writer.fill(20)
    assert blocks(writer.path) == []
    monkeypatch.undo()
    assert_holds(writer.path, "run-1", writer.committed)
    writer.store.close()


def test_what_a_failed_commit_had_sealed_is_sealed_by_the_next(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise sqlite3.OperationalError

    writer = Writer(tmp_path / "s.db")
    with monkeypatch.context() as patched:
        patched.setattr(sealing.Sealer, "seal", lambda _: None)
        writer.fill(8)
    with monkeypatch.context() as patched:
        patched.setattr(writer.store._same_file, "check", fail)
        with pytest.raises(sqlite3.OperationalError):
            writer.fill(1)
    assert blocks(writer.path) == []
    writer.rollback()
    writer.report([Estimate(1.0)], schema=SMALL)
    writer.commit()
    assert blocks(writer.path) == [8]
    assert_holds(writer.path, "run-1", writer.committed)
    writer.store.close()


def test_another_schema_of_the_same_id_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    other = msgspec.structs.replace(SMALL, id=1)
    with pytest.raises(
        BadMessage, match="Got another schema 1 than before in the same stream; give it an id of its own"
    ):
        writer.store.put_schema(writer.stream, other, encode(other))
    writer.store.close()


# -- faults ---------------------------------------------------------------------------------------


def _write_until_killed(path: Path, acknowledge: int) -> None:
    writer = Writer(path)
    rng = random.Random(os.getpid())
    while True:
        writer.put, writer.committed = [], []
        writer.fill(rng.randint(1, 30))
        os.write(acknowledge, struct.pack("q", writer.stream.high))


def test_a_writer_killed_twenty_times_loses_nothing_it_had_acknowledged(tmp_path: Path, small_blocks: None) -> None:
    path = tmp_path / "s.db"
    rng = random.Random(1)
    acknowledged = 0
    for _ in range(20):
        hear, say = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _write_until_killed(path, say)
            finally:
                os._exit(1)
        os.close(say)
        os.read(hear, 8)  # it writes
        time.sleep(0.02 * rng.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while told := os.read(hear, 8):
            (acknowledged,) = struct.unpack("q", told)
        os.close(hear)
    reader = Reader(path)
    (loss,) = (row.id for row in reader.series("run-1") if row.quantity == "loss")
    points = reader.points([loss])[loss]
    assert points.step == [10 * seq for seq in range(1, len(points.step) + 1)]
    assert points.value == [math.sin(0.1 * seq) for seq in range(1, len(points.step) + 1)]
    assert len(points.step) >= acknowledged > 20
    assert_whole(path)
    assert len(blocks(path)) > 10


def test_a_full_disk_heals_without_a_restart_and_costs_nothing_committed(tmp_path: Path, small_blocks: None) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(20)
    db = writer.store._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        list(map(writer.fill, [1] * 200))
    writer.put = []
    writer.rollback()
    assert_holds(writer.path, "run-1", writer.committed)
    db.execute("PRAGMA max_page_count = 100000")
    writer.fill(40)
    assert_holds(writer.path, "run-1", writer.committed)
    assert_whole(writer.path)
    writer.store.close()


def test_a_reader_beside_the_writer_sees_every_report_once_whatever_is_sealed(
    tmp_path: Path, small_blocks: None
) -> None:
    writer = Writer(tmp_path / "s.db")
    reader = Reader(writer.path)
    wrong: list[object] = []
    seen = 0
    done = threading.Event()

    def read() -> None:
        nonlocal seen
        (loss,) = (row.id for row in reader.series("run-1") if row.quantity == "loss")
        while not done.is_set():
            steps = reader.points([loss])[loss].step
            numbers = [frame.message.seq for frame in reader.frames("run-1")]
            if steps != [10 * (i + 1) for i in range(len(steps))] or numbers != list(range(1, len(numbers) + 1)):
                wrong.append((steps, numbers))
            seen += 1

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(60):
        writer.fill(5)
    done.set()
    thread.join(20)
    assert wrong == []
    assert seen > 5
    writer.store.close()


def test_what_is_sealed_between_two_questions_of_a_reader_is_still_read_once(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(7)
    original = archive.messages

    def late(db: sqlite3.Connection, stream_id: int, arrived: Iterable[Row], after: int) -> Iterator[Row]:
        writer.fill(1)  # seals all that the reader is about to ask the log for
        return original(db, stream_id, arrived, after)

    monkeypatch.setattr(archive, "messages", late)
    read = [frame.message.seq for frame in Reader(writer.path).frames("run-1")]
    assert blocks(writer.path) == [8]
    assert read == list(range(1, 8))
    writer.store.close()


def test_a_run_of_many_ranks_is_read_in_order_and_in_parts_that_are_the_smaller_the_more_ranks_there_are(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "s.db")
    streams = [writer.store.put_hello(Hello(RUN, rank, "b", 1), 1.0) for rank in range(3)]
    for stream in streams:
        writer.store.put_schema(stream, SMALL, encode(SMALL))
    for seq in range(1, 20):
        for stream in streams:
            report = Report(seq, seq, 0.0, SMALL.id, *pack([Estimate(float(seq))]))
            writer.store.put_report(stream, report, encode(report), 1.0)
        writer.commit()
    assert len(blocks(writer.path)) == 6
    held: list[int] = []
    whole = archive.block_bodies

    def watched(*asked: Any) -> list[bytes] | None:
        bodies = whole(*asked)
        held.append(len(bodies or ()))
        return bodies

    monkeypatch.setattr(archive, "block_bodies", watched)
    monkeypatch.setattr(archive, "LEAST_HELD", 1)
    monkeypatch.setattr(archive, "HELD_BYTES", 3 * 3 * 350)  # three messages of each of three streams
    read = [(frame.id, frame.rank, frame.message.seq) for frame in Reader(writer.path).frames("run-1")]
    assert read == [(3 * i + rank + 1, rank, i + 1) for i in range(19) for rank in range(3)]
    assert held == [3, 3, 3, 3, 3, 3, 2, 2, 2] * 2
    writer.store.close()


def test_a_store_put_back_from_an_old_copy_counts_what_the_agent_no_longer_has(
    tmp_path: Path, small_blocks: None
) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(10)
    assert back_up(writer.path, tmp_path / "old.db") == 1
    old: list[Put] = list(writer.committed)
    writer.fill(10)
    writer.store.close()
    restored = Store(tmp_path / "old.db")
    stream = restored.put_hello(Hello(writer.run, 0, "a", first=21), 300.0)
    assert (stream.high, stream.lost, stream.gap) == (20, 10, 10)
    restored.commit()
    assert_holds(tmp_path / "old.db", "run-1", old)
    assert Reader(tmp_path / "old.db").runs()[0].lost == 10
    restored.close()
