"""Arrivals: what has come waits until it is worth its while to put it in place; no reader can tell the difference."""

import sqlite3
from pathlib import Path

import pytest

from collector.store import arrivals
from collector.store.examination import examine
from probe_wire import Estimate
from tests.stored_reports import Writer
from tests.stored_truth import Put, assert_holds


def places(writer: Writer) -> tuple[int, int]:
    """How many messages wait, and how many are in their place."""
    db = writer.store._db
    return tuple(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("arrived", "log"))  # type: ignore[return-value]  # noqa: S608 - of two names


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


def test_what_waited_when_the_collector_went_counts_when_it_is_back(tmp_path: Path, few: None) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(4)
    writer.restart()
    writer.fill(2)
    assert places(writer) == (0, 6)
    assert_well(writer)


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
    assert places(writer) == (5, 0)
    assert_well(writer)


def test_a_commit_does_not_wait_until_all_is_in_its_place_and_what_is_moved_is_in_the_file_soon(
    tmp_path: Path, few: None
) -> None:
    writer = Writer(tmp_path / "s.db")
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
    writer.store._db.execute(
        "INSERT INTO log SELECT place, frame, step, received_at, body FROM arrived WHERE frame = 2"
    )
    writer.fill(1)
    assert places(writer) == (0, 6)
    assert_well(writer)


def test_where_nothing_can_be_put_in_place_between_commits_they_wait_for_it_in_the_end(
    tmp_path: Path, few: None
) -> None:
    writer = Writer(tmp_path / "s.db")
    for _ in range(arrivals.OVERDUE):
        assert places(writer)[1] == 0
        for step in range(arrivals.MOST):
            writer.report([Estimate(step)] * 3)
        writer.store.commit()
    assert places(writer) == (0, arrivals.OVERDUE * arrivals.MOST)
