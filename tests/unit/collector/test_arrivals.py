"""Arrivals: what has come waits until it is worth its while to put it in place; no reader can tell the difference."""

import sqlite3
from pathlib import Path

import pytest
from msgspec import structs

from collector.store import arrivals
from collector.store.batch import WHERE, parts
from collector.store.examination import examine
from collector.store.queries import Reader
from collector.store.retention import Policy
from collector.store.sqlite import PAGES
from probe_wire import Estimate
from tests.stored_reports import Writer
from tests.stored_truth import Put, assert_holds


def places(writer: Writer) -> tuple[int, int]:
    """How many messages wait, and how many are in their place."""
    db = writer.store._db
    waiting = sum(len(places) // WHERE.itemsize for (places,) in db.execute("SELECT places FROM arrived"))
    return waiting, db.execute("SELECT COUNT(*) FROM log").fetchone()[0]


def in_order(*writers: Writer) -> list[Put]:
    return sorted((put for writer in writers for put in writer.committed), key=lambda put: put.frame)


def assert_well(writer: Writer, *others: Writer) -> None:
    assert_holds(writer.path, "run-1", in_order(writer, *others))
    assert [one for one in examine(writer.path) if one.remedy] == []


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of each stream, of one stream six, of all twenty."""
    monkeypatch.setattr(arrivals, "EACH", 4)
    monkeypatch.setattr(arrivals, "LEAST", 6)
    monkeypatch.setattr(arrivals, "MOST", 20)


def second(writer: Writer, rank: int) -> Writer:
    """Another rank that writes to the same store."""
    other = object.__new__(Writer)
    other.__dict__.update(writer.__dict__, place=(rank, "a"), committed=[], put=[])
    other.greet()
    other.commit()
    return other


def test_one_stream_waits_for_some_and_is_then_put_in_place(tmp_path: Path, few: None) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(5)
    assert places(writer) == (5, 0)
    assert_well(writer)
    writer.fill(1)
    assert places(writer) == (0, 6)
    writer.fill(2)
    assert places(writer) == (2, 6)
    assert_well(writer)


def test_many_streams_wait_until_there_are_several_of_each(tmp_path: Path, few: None) -> None:
    first = Writer(tmp_path / "s.db")
    writers = [first, *(second(first, rank) for rank in range(1, 4))]
    for _ in range(3):
        for writer in writers:
            writer.fill(1)
    assert places(first) == (12, 0)
    assert_well(*writers)
    for writer in writers:
        writer.fill(1)
    assert places(first) == (0, 16)
    assert_well(*writers)


def test_of_ever_so_many_streams_no_more_wait_than_may(tmp_path: Path, few: None) -> None:
    first = Writer(tmp_path / "s.db")
    writers = [first, *(second(first, rank) for rank in range(1, 20))]
    for writer in writers:
        writer.fill(1)
    assert places(first) == (0, 20)


def test_large_messages_do_not_wait_for_many(tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MOST_BYTES", 300)
    writer = Writer(tmp_path / "s.db")
    writer.fill(1)
    assert places(writer) == (1, 0)
    writer.fill(1)
    assert places(writer) == (0, 2)


def test_a_goodbye_puts_everything_in_place(tmp_path: Path, few: None) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(1)
    writer.goodbye()
    writer.commit()
    assert places(writer) == (0, 2)
    assert_well(writer)


def test_what_waited_when_the_collector_went_is_put_in_place_when_it_is_back(tmp_path: Path, few: None) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(4)
    writer.restart()
    assert places(writer) == (0, 4)
    writer.fill(2)
    assert places(writer) == (2, 4)
    assert_well(writer)


@pytest.mark.parametrize("killed_after", [1, 6, 7, 8])
def test_slice_by_slice_no_reader_can_tell_how_far_it_is_nor_does_it_matter_where_a_kill_ends_it(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    monkeypatch.setattr(arrivals, "SLICE", 2)
    first = Writer(tmp_path / "s.db")
    writers = [first, *(second(first, rank) for rank in range(1, 3))]
    for step in range(12):
        writers[step % 3].report([Estimate(step)] * 3)
        if step % 4 == 3:
            first.store.commit()
    for writer in writers:
        writer.committed += writer.put
        writer.put = []
    seen = [places(first)]
    for _ in range(killed_after):
        first.store.tidy(0.0)
        seen.append(places(first))
        assert_well(*writers)
        assert Reader(first.path).reports_after("run-1", 0) == 12
    assert seen == [*((12, placed) for placed in range(0, 13, 2)), (4, 12), (0, 12)][: killed_after + 1]
    first.restart()
    for _ in range(9):
        first.store.tidy(0.0)
        assert_well(*writers)
    assert places(first) == (0, 12)


def test_what_is_half_way_to_its_place_is_not_sealed(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "SLICE", 2)
    monkeypatch.setattr("collector.store.sealing.BLOCK", 4)
    writer = Writer(tmp_path / "s.db")
    for step in range(8):
        writer.report([Estimate(step)] * 3)
    writer.store.commit()
    writer.committed += writer.put
    writer.store._sealer.ended(writer.stream.id)
    writer.store.tidy(0.0)
    assert places(writer) == (8, 2)
    writer.store._make_room(0.0)
    assert writer.store.unsealed == 1
    assert_well(writer)
    while writer.store.unsealed:
        writer.store.tidy(0.0)
    assert places(writer) == (0, 0)
    assert_well(writer)


def test_what_is_half_way_is_not_sealed_either_when_something_was_undone_meanwhile(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "SLICE", 4)
    monkeypatch.setattr("collector.store.sealing.BLOCK", 4)
    writer = Writer(tmp_path / "s.db")
    for step in range(8):
        writer.report([Estimate(step)] * 3)
    writer.store.commit()
    writer.committed += writer.put
    writer.store._sealer.ended(writer.stream.id)
    writer.store.tidy(0.0)
    assert places(writer) == (8, 4)
    writer.report([Estimate(9.0)] * 3)
    writer.store.rollback()
    while writer.store.unsealed:
        writer.store.tidy(0.0)
        assert_well(writer)
    assert places(writer) == (0, 0)


def test_what_was_left_is_read_and_put_in_place_a_little_at_a_time_and_sealed_when_all_of_it_is(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.store.sealing.BLOCK", 4)
    monkeypatch.setattr(arrivals, "SLICE", 1)
    monkeypatch.setattr(arrivals, "MOST", 4)
    writer = Writer(tmp_path / "s.db")
    for step in range(8):
        writer.report([Estimate(step)] * 3)
        if step % 2:
            writer.store.commit()
    writer.committed += writer.put
    writer.store._arrivals.look_again()
    writer.store._sealer.ended(writer.stream.id)
    seen = []
    while writer.store.unsealed:
        writer.store.tidy(0.0)
        seen.append(places(writer))
    assert seen[:9] == [(8, 1), (8, 2), (8, 3), (8, 4), (4, 4), (4, 5), (4, 6), (4, 7), (4, 8)]
    assert seen[-1] == (0, 0)
    assert_well(writer)


def test_what_waits_of_a_run_that_is_dropped_is_not_given_to_the_next(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db", policy=Policy(max_bytes=1))
    writer.fill(3)
    assert writer.store.tidy(1e9) == ["run-1"]
    assert places(writer) == (3, 0)
    other = object.__new__(Writer)
    other.__dict__.update(writer.__dict__, run=structs.replace(writer.run, id="run-2"), committed=[], put=[])
    other.greet()
    assert other.stream.id == writer.stream.id
    other.store.commit()
    assert list(Reader(writer.path).frames("run-2")) == []
    other.fill(2)
    assert places(writer) == (0, 2)
    assert_holds(writer.path, "run-2", other.committed)
    assert [one for one in examine(writer.path) if one.remedy] == []


@pytest.mark.parametrize("damage", ["places = x'00'", "bodies = x'00'"])
def test_where_what_waits_is_damaged_reports_go_on_being_kept_and_the_doctor_says_so(
    tmp_path: Path, few: None, damage: str
) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(2)
    writer.store._db.execute(f"UPDATE arrived SET {damage}")  # noqa: S608 - of these
    writer.restart()
    held = writer.store._arrivals
    for _ in range(arrivals.OVERDUE * arrivals.MOST):
        writer.report([Estimate(1.0)] * 3)
        writer.store.commit()
        assert held._rows == [], "what cannot be put in place does not fill the memory"
    assert Reader(writer.path).last_frame() == 2 + arrivals.OVERDUE * arrivals.MOST
    with pytest.raises(sqlite3.DatabaseError, match="messages that wait to be put in their place are damaged"):
        list(Reader(writer.path).frames("run-1"))
    assert [one.remedy for one in examine(writer.path) if one.remedy]


def test_a_slice_is_as_short_where_few_messages_are_large() -> None:
    rows = [(place, 1, 1, 1.0, bytes(size)) for place, size in enumerate([1, 1, 1, 1, 1, 900, 2000, 900, 100, 1])]
    assert [[row[0] for row in part] for part in parts(rows, 4, 1000)] == [[0, 1, 2, 3], [4, 5], [6], [7, 8], [9]]
    assert list(parts([], 4, 1000)) == []


def test_what_is_undone_does_not_count(tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(1)

    def fail() -> None:
        raise sqlite3.OperationalError

    with monkeypatch.context() as patched:
        patched.setattr(writer.store._same_file, "check", fail)
        with pytest.raises(sqlite3.OperationalError):
            writer.fill(4)
    writer.rollback()
    writer.fill(4)
    assert places(writer) == (4, 1)
    assert_well(writer)


def test_a_commit_does_not_wait_until_all_is_in_its_place_and_what_is_moved_is_in_the_file_soon(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.store.tidy(0.0)
    monkeypatch.setattr("collector.store.sqlite.CHECKPOINT", writer.store._in_wal + 6 + PAGES + 1)
    for step in range(6):
        writer.report([Estimate(step)] * 3)
    writer.store.commit()
    assert places(writer) == (6, 0)
    writer.store.tidy(0.0)
    assert places(writer) == (0, 6)
    writer.store.tidy(0.0)
    db = sqlite3.connect(f"file:{writer.path}?immutable=1", uri=True)  # without the write-ahead log
    assert db.execute("SELECT COUNT(*) FROM log").fetchone() == (6,)
    db.close()


def test_the_end_of_a_stream_that_was_not_put_in_place_before_a_kill_is_after_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(arrivals.LEAST // 2)
    writer.goodbye()
    writer.store.commit()
    writer.committed += writer.put
    assert places(writer) == (arrivals.LEAST // 2 + 1, 0)
    writer.restart()
    writer.store.tidy(0.0)
    assert places(writer) == (0, 1), "its reports are sealed; the goodbye stays"
    assert_well(writer)


def test_what_is_in_its_place_already_keeps_nothing_else_waiting(tmp_path: Path, few: None) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(5)
    writer.store._db.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", writer.store._arrivals._rows[1])
    writer.fill(1)
    assert places(writer) == (0, 6)
    assert_well(writer)


def test_where_nothing_can_be_put_in_place_between_commits_they_wait_for_it_in_the_end(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "SLICE", 4)
    writer = Writer(tmp_path / "s.db")
    most = arrivals.OVERDUE * arrivals.MOST
    waited = []
    for _ in range(4 * arrivals.OVERDUE):
        for step in range(arrivals.MOST):
            writer.report([Estimate(step)] * 3)
        writer.store.commit()
        waited.append(places(writer)[0])
    assert waited[: arrivals.OVERDUE - 1] == [20, 40, 60]
    assert max(waited) < 2 * most


def test_nor_do_ever_more_wait_after_something_was_undone_before_it_is_known_what_there_was(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "SLICE", 1)
    writer = Writer(tmp_path / "s.db")
    writer.fill(arrivals.MOST)
    writer.store._arrivals.look_again()
    waited = []
    for _ in range(4 * arrivals.OVERDUE):
        for step in range(arrivals.MOST):
            writer.report([Estimate(step)] * 3)
        writer.store.commit()
        waited.append(places(writer)[0])
    assert max(waited) < 3 * arrivals.OVERDUE * arrivals.MOST
