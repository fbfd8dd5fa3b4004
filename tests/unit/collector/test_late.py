"""What a dead life left and somebody delivers while a later life reports stands before that one's points, and takes none of them away."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from collector.live import Live
from collector.store import arrivals, late, sealing
from collector.store.queries import Points, Reader
from collector.web.app import create_app
from collector.web.feed import Feed
from probe_wire import Estimate, Hello
from tests.stored_reports import SMALL, Writer
from tests.web_client import Client

POINTS, TIMES = "/api/runs/run-1/points", "/api/runs/run-1/times"


def reported(writer: Writer, epoch: str, *steps: int, ended: bool = False) -> None:
    writer.place = (0, epoch)
    writer.greet()
    writer.stream = writer.store.put_hello(Hello(writer.run, 0, epoch, 1, ended=ended), 50.0, in_memory=False)
    for step in steps:
        writer.report([Estimate(float(step))], schema=SMALL, step=step)
    writer.commit()


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    """A life that died when it had told two reports, a later one that began from a checkpoint, and what the first had left."""
    writer = Writer(tmp_path / "s.db")
    reported(writer, "dead", 10, 20)
    reported(writer, "alive", 50, 60)
    reported(writer, "dead", 30, 40, 55, ended=True)
    return writer


def points(writer: Writer, after: int = 0, most: int | None = 100) -> Points:
    reader = Reader(writer.path)
    (series,) = [row.id for row in reader.series("run-1") if row.quantity == "fisher_trace" and not row.labels]
    return reader.points([series], after, most)[series]


def test_for_a_chart_they_stand_in_the_order_of_lives_and_for_whoever_copies_the_store_in_that_of_commit(
    writer: Writer,
) -> None:
    assert (points(writer).step, points(writer).late) == ([10, 20, 30, 40, 55, 50, 60], True)
    assert points(writer, most=None).step == [10, 20, 50, 60, 30, 40, 55]
    assert points(writer).value == [float(step) for step in points(writer).step]
    reported(writer, "alive", 70)
    assert (points(writer, 7).step, points(writer, 7).late) == ([70], False)
    writer.store.close()


def test_sealed_they_stand_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MOST", 1)
    monkeypatch.setattr(sealing, "BLOCK", 2)
    writer = Writer(tmp_path / "s.db")
    reported(writer, "dead", 10, 20, 25)
    reported(writer, "alive", 50, 60)
    reported(writer, "dead", 30, 40, 45, ended=True)
    for _ in range(6):
        writer.store._rest_until = 0.0
        writer.store.tidy(0.0)
    assert points(writer).step == [10, 20, 25, 30, 40, 45, 50, 60]
    writer.store.close()


def test_who_asks_again_and_nothing_came_has_nobody_look_at_the_lives_and_of_what_was_told_no_block_is_read(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError

    reported(writer, "alive", 70)
    frames_of = late._frames
    asked: list[int] = []

    def seen(db: sqlite3.Connection, beyond: Mapping[int, int], arrived: Any) -> Any:
        asked.extend(beyond.values())
        return frames_of(db, beyond, arrived)

    monkeypatch.setattr(late, "_frames", seen)
    assert (points(writer, 7).step, asked) == ([70], [7])
    monkeypatch.setattr(late, "unplaced", refused)
    assert points(writer, 8).step == []
    assert Reader(writer.path).moments("run-1", 8, 100)[0] == []
    writer.store.close()


def test_of_several_that_are_late_the_earlier_stands_first(writer: Writer) -> None:
    reported(writer, "between", 45, ended=True)
    writer.store._db.execute(
        "UPDATE streams SET started_at = CASE epoch WHEN 'dead' THEN 1 WHEN 'between' THEN 2 ELSE 3 END"
    )
    reported(writer, "dead", 41, ended=True)
    assert points(writer).step == [10, 20, 30, 40, 55, 41, 45, 50, 60]
    writer.store.close()


def test_two_that_live_at_once_stay_as_they_came(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    for step in (10, 20, 30):
        reported(writer, "one", step)
        reported(writer, "other", step + 1)
    assert (points(writer).step, points(writer).late) == ([10, 11, 20, 21, 30, 31], False)
    writer.store.close()


def test_lives_that_told_all_by_themselves_stay_as_they_came_whatever_the_clocks_of_their_machines_say(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path / "s.db")
    reported(writer, "first", 10, 20)
    reported(writer, "second", 30, 40)
    writer.store._db.execute("UPDATE streams SET finished = 'finished', started_at = 5 - id")
    assert (points(writer).step, points(writer).late) == ([10, 20, 30, 40], False)
    writer.store.close()


def test_who_asked_before_they_came_is_told_all_again_once(writer: Writer) -> None:
    client = Client(create_app(Reader(writer.path), Live(), Feed(), lambda: b"", lambda: True))
    whole = [10, 20, 30, 40, 55, 50, 60]
    for after, wanted in ((4, (True, 7, whole)), (7, (False, 7, [])), (0, (False, 7, whole))):
        told = client.get(POINTS, params={"quantity": "fisher_trace", "series": "whole", "after": after}).json()
        assert (told["again"], told["frame"], told["series"][0]["step"]) == wanted
        times = client.get(TIMES, params={"after": after}).json()
        assert (times["again"], times["frame"], times["step"]) == wanted
    writer.store.close()
