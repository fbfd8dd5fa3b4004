"""The store: what was committed is there, once; what was not is gone; a reader never disturbs."""

import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from collector.errors import NotOwner, StoreError
from collector.store.layout import LAYOUT
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.store.streams import Stream
from probe_wire import Column, Estimate, Goodbye, Hello, Outcome, Quantity, Report, Run, Schema, encode, pack

RUN = Run("run-1", "digits", "host", 1, 10.0, {"dataset": "digits"})
SCHEMA = Schema(
    1,
    (Quantity("probe_loss", "1", "Loss.", "Loss"), Quantity("fisher_trace", "1", "Fisher.", "Fisher", "log")),
    (Column("probe_loss"), Column("fisher_trace"), Column("fisher_trace", {"layer": "fc1"}, {"n": "256"})),
)


def hello(first: int = 1, epoch: str = "a", rank: int = 0) -> Hello:
    return Hello(RUN, rank, epoch, first)


def open_stream(store: Store, **kwargs: object) -> Stream:
    stream = store.put_hello(hello(**kwargs), 100.0)  # type: ignore[arg-type]
    store.put_schema(stream, SCHEMA, encode(SCHEMA))
    return stream


def put(store: Store, stream: Stream, seq: int, estimates: list[Estimate] | None = None) -> int:
    estimates = estimates or [Estimate(float(seq), 0.1, 0.01, 8)] * 3
    report = Report(seq, seq * 10, 0.0, 1, *pack(estimates))
    return store.put_report(stream, report, encode(report), 100.0 + seq)


def test_what_was_committed_is_read_back_with_its_nans_and_outcomes(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    stream = open_stream(store)
    odd = [
        Estimate(1.5, 0.1, math.nan, 8),
        Estimate(math.nan, outcome=Outcome.FAILED),
        Estimate(math.inf, outcome=Outcome.NON_FINITE),
    ]
    put(store, stream, 1, odd)
    store.put_goodbye(stream, Goodbye(2, 20, 0.0, "finished"), encode(Goodbye(2, 20, 0.0, "finished")), 102.0)
    store.commit()
    reader = Reader(tmp_path / "s.db")
    (run,) = reader.runs()
    assert (run.id, run.name, run.labels) == ("run-1", "digits", {"dataset": "digits"})
    assert (run.step, run.reports, run.lost, run.finished) == (20, 1, 0, "finished")
    assert [q.name for q in reader.quantities("run-1")] == ["probe_loss", "fisher_trace"]
    series = reader.series("run-1")
    assert [(s.quantity, s.labels, s.settings) for s in series] == [
        ("probe_loss", {}, {}),
        ("fisher_trace", {}, {}),
        ("fisher_trace", {"layer": "fc1"}, {"n": "256"}),
    ]
    points = reader.points([s.id for s in series])
    assert points[series[0].id].value == [1.5]
    assert math.isnan(points[series[1].id].value[0])
    assert points[series[1].id].outcome == [int(Outcome.FAILED)]
    assert points[series[2].id].value == [math.inf]
    store.close()


def test_what_was_not_committed_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    stream = open_stream(store)
    put(store, stream, 1)
    store.commit()
    put(store, stream, 2)
    store.rollback()
    again = store.put_hello(hello(), 200.0)
    assert again.high == 1
    store.commit()
    assert Reader(tmp_path / "s.db").runs()[0].reports == 1
    store.close()


def test_one_number_of_a_stream_cannot_be_stored_twice(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    stream = open_stream(store)
    put(store, stream, 1)
    with pytest.raises(sqlite3.IntegrityError):
        put(store, stream, 1)
    store.rollback()
    store.close()


def test_numbers_the_agent_gave_up_are_counted_as_lost(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    stream = open_stream(store)
    put(store, stream, 1)
    later = store.put_hello(hello(first=5), 200.0)
    assert (later.high, later.lost) == (4, 3)
    store.commit()
    assert Reader(tmp_path / "s.db").runs()[0].lost == 3
    store.close()


def test_a_stream_found_again_knows_its_schemas(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    stream = open_stream(store)
    store.commit()
    store.close()
    reopened = Store(tmp_path / "s.db")
    found = reopened.put_hello(hello(), 200.0)
    assert found.schemas == stream.schemas == {1: SCHEMA}
    reopened.rollback()
    reopened.close()


def test_two_lives_of_one_rank_are_two_streams_of_one_series(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    first, second = open_stream(store, epoch="a"), open_stream(store, epoch="b")
    put(store, first, 1)
    put(store, second, 1)
    store.commit()
    reader = Reader(tmp_path / "s.db")
    series = reader.series("run-1")[0]
    assert reader.points([series.id])[series.id].step == [10, 10]
    store.close()


def test_points_after_a_frame_are_only_what_is_new(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    stream = open_stream(store)
    frames = [put(store, stream, seq) for seq in (1, 2, 3)]
    store.commit()
    reader = Reader(tmp_path / "s.db")
    series = reader.series("run-1")[0]
    assert reader.points([series.id], after=frames[0])[series.id].step == [20, 30]
    store.close()


def test_frames_come_back_in_the_order_of_commit_and_read_as_they_were_sent(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    stream = open_stream(store)
    for seq in (1, 2, 3):
        put(store, stream, seq)
    store.commit()
    frames = list(Reader(tmp_path / "s.db").frames("run-1"))
    assert [(f.message.seq, f.message.step) for f in frames] == [(1, 10), (2, 20), (3, 30)]
    store.close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    with pytest.raises(sqlite3.OperationalError, match="attempt to write a readonly database"):
        Reader(tmp_path / "s.db")._connect().execute("DELETE FROM runs")
    store.close()


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(StoreError, match="an SQLite file of another program"):
        Store(tmp_path / "other.db")
    (tmp_path / "text.db").write_text("this is no database, and long enough to be looked at" * 10)
    with pytest.raises(StoreError, match="cannot be opened: file is not a database"):
        Store(tmp_path / "text.db")


def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s.db").close()
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match=f"of layout 99; this release knows layouts up to {LAYOUT}"):
        Store(tmp_path / "s.db")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Choose a file in a writable folder"):
        Store(tmp_path / "file" / "s.db")


def test_reading_a_store_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Start `probe-collector serve` once"):
        Reader(tmp_path / "absent.db")


def test_a_store_whose_file_was_deleted_takes_nothing_more(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    stream = open_stream(store)
    put(store, stream, 1)
    store.commit()
    (tmp_path / "s.db").unlink()
    put(store, stream, 2)
    with pytest.raises(sqlite3.OperationalError, match="is gone: No such file or directory; restart the collector"):
        store.commit()
    store.close()


def test_a_run_belongs_to_the_key_that_opened_it_for_ever(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    store.put_hello(hello(), 100.0, owner="a")
    store.commit()
    for stranger in ("b", ""):
        with pytest.raises(NotOwner, match="Got the run run-1 from another key than the one that opened it"):
            store.put_hello(hello(epoch="c", rank=1), 200.0, owner=stranger)
    store.commit()
    store.close()
    again = Store(tmp_path / "s.db")
    with pytest.raises(NotOwner):
        again.put_hello(hello(), 200.0, owner="b")
    assert again.put_hello(hello(), 200.0, owner="a").high == 0
    again.commit()
    assert Reader(tmp_path / "s.db").runs()[0].last_heard == 200.0
    assert len(again._db.execute("SELECT * FROM streams").fetchall()) == 1, "a stranger leaves no trace"
    again.close()


def test_a_run_that_nobody_owns_is_the_first_keys_that_comes_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    store.put_hello(hello(), 100.0)
    store.put_hello(hello(), 101.0, owner="a")
    with pytest.raises(NotOwner):
        store.put_hello(hello(), 102.0)
    store.close()


HOLDER = """
import sys, time
from pathlib import Path
from collector.store.sqlite import Store
store = Store(Path(sys.argv[1]))
print("open", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_the_store_until_the_first_is_gone_even_killed(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "open\n"
        with pytest.raises(
            StoreError, match=rf"{path}, to which process {first.pid} writes already\. Stop that one, or"
        ):
            Store(path)
        assert Reader(path).runs() == []  # whoever only reads may do so
        first.kill()
    Store(path).close()
