"""Filling a database: what retention was quicker with is counted, and what was judged again is handed over again."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from collector.engines import forwarder as forwarding
from collector.engines.engine import Curve
from collector.engines.forwarder import Forwarder
from collector.store.queries import Points, Reader, RunRow, StoredTransition
from collector.store.retention import Policy
from collector.store.sealing import BLOCK
from probe_wire import Quantity
from tests.stored_reports import SMALL, WHOLE, Writer


class InMemory:
    """An engine that keeps what it is given."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.frames: dict[Curve, list[int]] = {}

    def put_run(self, run: RunRow, quantities: Sequence[Quantity], transitions: Sequence[StoredTransition]) -> None:
        self.runs.append(run.id)

    def cursors(self, run_id: str) -> dict[Curve, int]:
        return {curve: frames[-1] for curve, frames in self.frames.items() if curve.run_id == run_id}

    def put_points(self, curve: Curve, points: Points) -> None:
        self.frames.setdefault(curve, []).extend(points.frame)

    def close(self) -> None:
        """Nothing to let go of."""


def thin(writer: Writer) -> None:
    """Have retention come to a run that is over."""
    writer.goodbye()
    writer.commit()
    writer.store.close()
    writer.settings["policy"] = Policy(keep_days=1)
    writer.store = writer.store.__class__(writer.path, **writer.settings)
    for _ in range(50):
        writer.store._rest_until = 0.0
        writer.store.tidy(1e6)


def test_points_that_were_thinned_before_they_were_forwarded_are_counted_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    writer = Writer(tmp_path / "s.db")
    writer.fill(1200, schema=SMALL)
    engine = InMemory()
    forwarder = Forwarder(Reader(writer.path), engine)
    assert forwarder.round() == 1200
    writer.fill(1000, schema=SMALL)
    thin(writer)
    assert Reader(writer.path).runs()[0].thinned_at is not None
    assert forwarder.round() == 0
    assert 1000 <= (missed := forwarder.missed) <= 1000 + BLOCK
    assert (forwarder.round(), forwarder.missed) == (0, missed)
    assert caplog.text.count("forward.missed") == 1
    (frames,) = engine.frames.values()
    assert frames == list(range(1, 1201)), "the extremes that are left are not its points"
    writer.place = (0, "resumed")
    writer.greet()
    for _ in range(2):
        writer.fill(3, schema=SMALL)
        assert forwarder.round() == 3, "nothing was taken away of what came since"
    assert (forwarder.missed, caplog.text.count("forward.missed")) == (missed, 1)
    assert Forwarder(Reader(writer.path), engine).round() == 0, "nor is it handed over twice"
    writer.store.close()


def test_a_run_that_was_forwarded_in_time_and_then_thinned_misses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    writer = Writer(tmp_path / "s.db")
    writer.fill(1200, schema=SMALL)
    forwarder = Forwarder(Reader(writer.path), InMemory())
    forwarder.round()
    thin(writer)
    forwarder.round()
    assert (forwarder.missed, "forward.missed" in caplog.text) == (0, False)
    writer.place = (0, "resumed")
    writer.greet()
    writer.fill(3, schema=SMALL)
    assert forwarder.round() == 3, "nothing was taken away of what came since"
    assert (forwarder.missed, "forward.missed" in caplog.text) == (0, False)
    writer.store.close()


def test_retention_that_comes_between_two_questions_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(1200, schema=SMALL)
    reader, engine = Reader(writer.path), InMemory()
    before = reader.runs()
    thin(writer)
    forwarder = Forwarder(reader, engine)
    with monkeypatch.context() as a_moment_ago:
        a_moment_ago.setattr(reader, "runs", lambda: before)
        assert (forwarder.round(), engine.frames) == (0, {})
    assert (forwarder.round(), forwarder.missed) == (0, 1200)
    writer.store.close()


def test_series_that_are_not_equally_far_each_go_on_where_they_were(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(5)
    engine = InMemory()
    forwarder = Forwarder(Reader(writer.path), engine)
    assert forwarder.round() == 15
    first = next(iter(engine.frames))
    del engine.frames[first][2:]
    writer.fill(4)
    assert forwarder.round() == 3 * 4 + 3
    assert list(engine.frames.values()) == [list(range(1, 10))] * len(WHOLE.columns)
    writer.store.close()


def test_transitions_are_handed_over_again_though_nothing_was_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "LOOK_AGAIN_SECONDS", 0.0)
    writer = Writer(tmp_path / "s.db")
    writer.fill(3)
    engine = InMemory()
    forwarder = Forwarder(Reader(writer.path), engine)
    assert [forwarder.round() for _ in range(3)] == [9, 0, 0]
    assert engine.runs == ["run-1"] * 3
    writer.store.close()


def test_a_store_that_is_older_than_the_database_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(3)
    engine = InMemory()
    Forwarder(Reader(writer.path), engine).round()
    assert "forward.store_is_older" not in caplog.text
    engine.frames = {curve: [*frames, 1000] for curve, frames in engine.frames.items()}
    forwarder = Forwarder(Reader(writer.path), engine)
    for _ in range(3):
        writer.fill(1)
        forwarder.round()
    assert caplog.text.count("forward.store_is_older") == 1
    writer.store.close()
