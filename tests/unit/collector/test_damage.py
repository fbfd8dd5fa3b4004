"""A bit that changes while a message waits is noticed wherever the message is read; the message is lost, and counted."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from collector.config import Config, Inlet, StoreFile, Web
from collector.daemon import Daemon
from collector.store import arrivals, batch, damage, sealing
from collector.store.damage import Damaged
from collector.store.examination import examine
from collector.store.queries import Reader
from tests.stored_reports import Writer
from tests.stored_truth import Put, assert_holds

FLIPPED = 4
"""The frame whose message is damaged."""


def flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


def damaged(writer: Writer, where: str = "body = flipped(body, 0.5)") -> Writer:
    """A collector that was stopped, a bit that flipped in one message that waited, and the next."""
    writer.store.close()
    at = (2 * FLIPPED - 1) / (2 * len(writer.committed))
    with closing(sqlite3.connect(writer.path)) as db, db:
        db.create_function("flipped", 2, lambda blob, part: flipped(blob, int(part * len(blob))))
        db.execute("UPDATE arrived SET bodies = flipped(bodies, ?)", (at,))
        db.execute(f"UPDATE log SET {where} WHERE frame = {FLIPPED}")  # noqa: S608 - the test's own words
    return writer


def written(folder: Path) -> Writer:
    """Seven reports that came together."""
    writer = Writer(folder / "s.db")
    writer.fill(7)
    return writer


def others(writer: Writer) -> list[Put]:
    return [put for put in writer.committed if put.frame != FLIPPED]


def remedies(path: Path) -> list[str]:
    return [one.what for one in examine(path) if one.remedy]


def tidied(writer: Writer) -> list[Damaged]:
    """What the collector counts as lost once it had time."""
    told: list[Damaged] = []
    writer.store.damage.lost = told.append
    for _ in range(6):
        writer.store._rest_until = 0.0
        writer.store.tidy(0.0)
    return told


@pytest.mark.parametrize("where", ["body = flipped(body, 0.5)", "step = step + 1", "received_at = received_at + 1"])
def test_a_message_that_changed_in_the_log_is_read_by_nobody_named_by_the_doctor_and_counted_as_lost_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    monkeypatch.setattr(arrivals, "MOST", 1)
    writer = Writer(tmp_path / "s.db")
    writer.fill(7)
    damaged(writer, where)
    for _ in range(2):
        assert_holds(writer.path, "run-1", others(writer))
    assert caplog.messages.count("store.damaged_message") == 1
    assert remedies(writer.path) == ["waiting messages"]
    writer.open()
    assert tidied(writer) == [Damaged("run-1", 0, 1)]
    assert (Reader(writer.path).lost("run-1"), Reader(writer.path).runs()[0].reports) == ({0: 1}, 6)
    assert remedies(writer.path) == []
    (said,) = [one.found for one in examine(writer.path) if one.what == "waiting messages"]
    assert said == "6 are as they came; 1 were not, are set aside and counted as lost"
    writer.restart()
    assert tidied(writer) == []
    writer.fill(1)
    assert_holds(writer.path, "run-1", others(writer))
    assert caplog.messages.count("reports.lost") == 1


def test_one_that_changed_before_it_was_put_in_its_place_is_lost_as_well(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(7)
    damaged(writer)
    assert_holds(writer.path, "run-1", others(writer))
    assert remedies(writer.path) == ["waiting messages"]
    writer.open()
    assert tidied(writer) == [Damaged("run-1", 0, 1)]
    assert_holds(writer.path, "run-1", others(writer))
    assert remedies(writer.path) == []


def turned(writer: Writer, field: str, bit: int) -> Writer:
    """A collector that was stopped, and a bit that flipped in where the second message of those that came stands."""
    writer.store.close()
    at = batch.WHERE.itemsize + 8 * (batch.WHERE.names or ()).index(field) + bit // 8
    with closing(sqlite3.connect(writer.path)) as db, db:
        db.create_function("turned", 1, lambda blob: blob[:at] + bytes([blob[at] ^ 1 << bit % 8]) + blob[at + 1 :])
        db.execute("UPDATE arrived SET places = turned(places)")
    return writer


@pytest.mark.parametrize("bit", [0, 1, 5, 33, 63])
def test_a_place_that_changed_before_its_message_was_put_there_is_known_by_the_checksum_and_no_other_message_gives_way(
    tmp_path: Path, bit: int
) -> None:
    writer = turned(written(tmp_path), "place", bit)
    assert len(list(Reader(writer.path).frames("run-1"))) == 6
    writer.open()
    assert tidied(writer) == []
    assert_holds(writer.path, "run-1", writer.committed)
    assert remedies(writer.path) == []


@pytest.mark.parametrize("bit", [0, 7, 40, 63])
def test_a_size_that_changed_is_what_the_others_leave_and_hides_no_message(tmp_path: Path, bit: int) -> None:
    writer = turned(written(tmp_path), "size", bit)
    assert_holds(writer.path, "run-1", writer.committed)
    writer.open()
    assert tidied(writer) == []
    assert_holds(writer.path, "run-1", writer.committed)
    assert remedies(writer.path) == []


def test_of_sizes_that_no_longer_tell_anything_a_reader_is_told(tmp_path: Path) -> None:
    writer = written(tmp_path)
    writer.store._db.execute("UPDATE arrived SET bodies = substr(bodies, 1, 3)")
    with pytest.raises(sqlite3.DatabaseError, match="are damaged"):
        list(Reader(writer.path).frames("run-1"))


def test_one_that_lies_elsewhere_in_the_log_is_counted_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "MOST", 1)
    writer = written(tmp_path)
    damaged(writer, "place = place + (1 << 50)")
    writer.open()
    assert tidied(writer) == [Damaged("run-1", 0, 1)]
    assert Reader(writer.path).lost("run-1") == {0: 1}
    assert remedies(writer.path) == []


@pytest.mark.parametrize("part", [0.01, 0.5], ids=["nothing can decode it", "its numbers"])
def test_one_that_changes_while_the_collector_runs_is_found_before_it_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    monkeypatch.setattr(arrivals, "MOST", 1)
    monkeypatch.setattr(sealing, "BLOCK", 8)
    writer = Writer(tmp_path / "s.db")
    writer.fill(7)
    told = tidied(writer)
    (body,) = writer.store._db.execute("SELECT body FROM log WHERE frame = ?", (FLIPPED,)).fetchone()
    changed = (flipped(body, int(part * len(body))), FLIPPED)
    writer.store._db.execute("UPDATE log SET body = ? WHERE frame = ?", changed)
    writer.fill(2)
    tidied(writer)
    assert told == [Damaged("run-1", 0, 1)]
    with closing(sqlite3.connect(writer.path)) as db:
        assert db.execute("SELECT SUM(reports) FROM blocks").fetchone() == (8,)
    assert_holds(writer.path, "run-1", others(writer))
    assert remedies(writer.path) == []


def test_a_long_log_is_looked_at_a_little_at_a_time_and_again_when_something_was_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "MOST", 1)
    monkeypatch.setattr(damage, "LOOK", 3)
    writer = Writer(tmp_path / "s.db")
    writer.fill(7)
    damaged(writer)
    writer.open()
    looks = []
    for _ in range(4):
        writer.store._begin()
        writer.store.damage.look()
        looks.append((Reader(writer.path).lost("run-1")[0], writer.store.damage.to_look))
        writer.store._end()
    assert looks[0] == (0, True)
    assert looks[-1] == (1, False)
    writer.rollback()
    writer.store._begin()
    writer.store.rollback()
    assert writer.store.damage.to_look


def test_what_is_lost_so_is_on_the_page_and_a_number_of_the_collectors(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(1)
    writer.store.close()
    daemon = Daemon(
        Config(store=StoreFile(path=str(writer.path)), inlet=Inlet(address="tcp://127.0.0.1:*"), web=Web(port=0))
    )
    with closing(daemon._store), closing(daemon._web_socket):
        daemon._pipeline.recover()
        daemon._store.damage.lost(Damaged("run-1", 0, 2))
        daemon._store.damage.lost(Damaged("dropped since", 0, 1))
        assert daemon._live.runs["run-1"].ranks[0].lost == 2
        assert daemon._health.registry.get_sample_value("phasewatch_lost_reports_total") == 3
        daemon._inlet.stop()
