"""Filling a database: what retention was quicker with is counted, and what was judged again is handed over again."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from collector.engines import forwarder as forwarding
from collector.engines.engine import Curve, Joined, Source, joined
from collector.engines.forwarder import Forwarder
from collector.store.backup import back_up
from collector.store.queries import Points, Reader, RunRow, StoredTransition
from collector.store.retention import Policy
from collector.store.sealing import BLOCK
from collector.store.timeline import Life, Timeline, in_common
from probe_wire import Quantity
from tests.stored_reports import SMALL, WHOLE, Writer


class InMemory:
    """An engine that keeps what it is given."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.frames: dict[Curve, list[int]] = {}

    def join(self, timeline: Timeline, last_frame: int) -> Joined:
        return Joined(0, new=False, same_until=0)

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


# -- stores that were put back, and other ones -------------------------------------------------------


def lives(*lives: tuple[str, int]) -> Timeline:
    return tuple(Life(*life) for life in lives)


HELD = Source(0, lives(("a", 0), ("b", 500)), 1500)


@pytest.mark.parametrize(
    ("timeline", "last_frame", "wanted"),
    [
        (lives(("a", 0), ("b", 500)), 1600, Joined(0, new=False, same_until=1500)),
        (lives(("a", 0), ("b", 500), ("c", 1600)), 1700, Joined(0, new=False, same_until=1500)),
        (lives(("a", 0), ("b", 500), ("c", 1200)), 9999, Joined(1, new=True, same_until=1200, like=0)),
        (lives(("a", 0), ("c", 700)), 9999, Joined(1, new=True, same_until=500, like=0)),
        (lives(("a", 0), ("b", 500)), 1400, Joined(0, new=False, same_until=1500)),
        (lives(("x", 0)), 9999, Joined(1, new=True, same_until=0)),
    ],
    ids=[
        "the same",
        "opened again",
        "a copy, opened",
        "a copy of an earlier life",
        "a copy, only read, or another forwarder was quicker",
        "another",
    ],
)
def test_a_store_is_known_by_its_lives_and_one_that_was_put_back_by_the_last_they_have_in_common(
    timeline: Timeline, last_frame: int, wanted: Joined
) -> None:
    assert joined([HELD], timeline, last_frame) == wanted


def test_of_several_sources_a_store_is_the_one_it_goes_on_from() -> None:
    copy = Source(1, lives(("a", 0), ("b", 500), ("c", 1200)), 1800)
    assert joined([HELD, copy], HELD.timeline, 1600) == Joined(0, new=False, same_until=1500)
    assert joined([HELD, copy], copy.timeline, 1900) == Joined(1, new=False, same_until=1800)
    assert joined([HELD, copy], lives(("a", 0), ("b", 500), ("c", 1200), ("d", 1700)), 1900) == Joined(
        2, new=True, same_until=1700, like=1
    )
    unwritten = Source(1, copy.timeline, 1200)
    assert joined([HELD, unwritten], HELD.timeline, 1600).number == 0, "what both are the whole of"


def test_what_an_older_release_filled_is_taken_to_be_from_the_first_store_that_comes_unless_it_is_further() -> None:
    old = Source(0, (), 100)
    assert joined([old], lives(("a", 0)), 100) == Joined(0, new=False, same_until=100)
    assert joined([old], lives(("a", 0)), 99) == Joined(1, new=True, same_until=0)
    assert joined([old, Source(1, lives(("a", 0)), 5)], lives(("a", 0)), 200).number == 1


def test_a_store_that_is_opened_and_written_to_begins_a_life_that_no_copy_of_it_has(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(3)
    first, last = Reader(writer.path).timeline()
    assert ([life.since for life in first], last) == ([0], 3)
    back_up(writer.path, tmp_path / "copy.db")
    assert Reader(tmp_path / "copy.db").timeline() == (first, 3)
    writer.fill(1)
    for since in (4, 4):  # a life in which nothing was committed leaves nothing
        writer.restart()
        again, _ = Reader(writer.path).timeline()
        assert [life.since for life in again] == [0, since]
        assert again[0] == first[0]
    copy = Writer(tmp_path / "copy.db")
    branch, _ = Reader(copy.path).timeline()
    assert in_common(again, 4, branch, 3) == 3
    for each in (writer, copy):
        each.store.close()
