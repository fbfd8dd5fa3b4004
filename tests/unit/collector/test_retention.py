"""Retention: what is over and old is thinned, then dropped, counted and told; what lives is never touched."""

import math
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collector.cli import app
from collector.errors import StoreError
from collector.health import Health
from collector.live import Live
from collector.phases import MACHINES
from collector.pipeline import Pipeline
from collector.store import retention, sealing
from collector.store.backtest import backtest
from collector.store.examination import examine
from collector.store.queries import Reader
from collector.store.replay import replayed
from collector.store.retention import DAY, OVER_AFTER, Policy
from collector.store.sqlite import Store
from probe_wire import Estimate, Hello, Run
from tests.stored_reports import RUN, SMALL, Writer
from tests.stored_truth import assert_holds

OLD = 100.0 + 0.1 * 2048
"""When the writer's reports came, in seconds of 1970."""


def over(path: Path, name: str, count: int = 2048, *, finished: bool = True) -> Writer:
    """A run of noise of some length, the end of which is said or not."""
    writer = Writer(path, run=Run(name, name, "host", 1, 10.0))
    rng = random.Random(name)
    for i in range(count):
        writer.report([Estimate(rng.gauss(0, 1), rng.random(), rng.random(), 64)], schema=SMALL)
        if i % 512 == 511:
            writer.commit()
    writer.commit()
    if finished:
        writer.goodbye()
        writer.commit()
    writer.store.close()
    return writer


def tidied(path: Path, policy: Policy, now: float, *, times: int = 30) -> list[str]:
    """What is gone after some tidying with a policy."""
    store = Store(path, policy)
    gone = []
    for _ in range(times):
        store._rest_until = 0.0
        gone += store.tidy(now)
    store.close()
    return gone


def thinned(path: Path) -> set[str]:
    return {row.id for row in Reader(path).runs() if row.thinned_at is not None}


def test_an_old_run_that_is_over_keeps_its_curves_extremes_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    whole = over(path, "old")
    before = Reader(path).space().stored
    curve = Reader(path).points([3])[3]
    assert tidied(path, Policy(keep_days=10), OLD + 9 * DAY) == []
    assert thinned(path) == set()
    assert_holds(path, "old", whole.committed)
    tidied(path, Policy(keep_days=10), OLD + 11 * DAY)
    assert thinned(path) == {"old"}
    assert Reader(path).space().stored < before - 15 * 2048
    points = Reader(path).points([3])[3]
    assert len(points.step) + points.folded == len(curve.step)
    assert (max(points.value), min(points.value)) == (max(curve.value), min(curve.value))
    assert set(points.step) < set(curve.step)
    assert [one for one in examine(path) if one.remedy] == []
    shown = CliRunner().invoke(app, ["runs", "--store", str(path)], env={"COLUMNS": "200"})
    assert "finished, thinned" in shown.output


def test_what_was_thinned_is_not_judged_again_and_a_collector_starts_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    over(path, "old")
    tidied(path, Policy(keep_days=1), OLD + 2 * DAY)
    reader = Reader(path)
    with pytest.raises(
        StoreError, match="Got the run old, which was thinned: only the extremes of its curves are kept"
    ):
        replayed(reader, "old")
    assert all(one.score.labelled == 0 for one in backtest(reader, MACHINES))
    store = Store(path)
    live = Live()
    pipeline = Pipeline(store, live, Health(), (), tick=lambda *_: None)
    pipeline.recover()
    assert live.runs == {}
    stream = pipeline.hello(Hello(Run("old", "old", "host", 1, 10.0), 0, "a", 1))
    assert stream.high == 2049, "its numbers are remembered"
    pipeline.commit()
    store.close()


def test_a_run_that_lives_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    living = over(path, "living", finished=False)
    assert tidied(path, Policy(keep_days=0.001, max_bytes=1), OLD + OVER_AFTER - DAY) == []
    assert_holds(path, "living", living.committed)
    assert tidied(path, Policy(keep_days=0.001), OLD + OVER_AFTER + DAY) == []
    assert thinned(path) == {"living"}, "after a month of silence it lives no more"


def test_no_policy_takes_nothing_away(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    whole = over(path, "old")
    assert tidied(path, Policy(), 1e12) == []
    assert_holds(path, "old", whole.committed)


def test_a_store_too_large_thins_the_oldest_and_drops_runs_only_when_nothing_is_left_to_thin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.db"
    names = ["first", "second", "third"]
    for name in names:
        over(path, name)
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany("UPDATE runs SET last_heard = ? WHERE id = ?", [(OLD + i, name) for i, name in enumerate(names)])
    size = Reader(path).space().stored
    assert tidied(path, Policy(max_bytes=size - 20_000), OLD + DAY) == []
    assert thinned(path) == {"first"}
    assert Reader(path).dropped() == []
    with caplog.at_level("INFO"):
        assert tidied(path, Policy(max_bytes=1), OLD + DAY) == names
    told = [record.message for record in caplog.records if record.message in {"store.thinned", "store.dropped"}]
    assert told == ["store.thinned"] * 2 + ["store.dropped"] * 3
    assert Reader(path).runs() == []
    assert [(run.id, run.reports) for run in Reader(path).dropped()] == [(name, 2048) for name in reversed(names)]
    assert path.stat().st_size < size - 100_000, "the disk has its pages back"
    assert [one for one in examine(path) if one.remedy] == []
    over(path, "fourth")
    shown = CliRunner().invoke(app, ["runs", "--store", str(path)], env={"COLUMNS": "200"})
    assert "3 older runs with 6,144 reports were dropped to make room, the last " in shown.output


def test_a_run_half_thinned_when_the_collector_stops_is_read_and_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    over(path, "old")
    monkeypatch.setattr(retention, "CHUNKS", 1)
    tidied(path, Policy(keep_days=1), OLD + 2 * DAY, times=1)
    points = Reader(path).points([3])[3]
    assert 1024 < len(points.step) < 2048
    assert len(points.step) + points.folded == 2048
    assert list(Reader(path).frames("old"))
    assert [one for one in examine(path) if one.remedy] == []
    tidied(path, Policy(keep_days=1), OLD + 2 * DAY)
    assert len(Reader(path).points([3])[3].step) < 1024


def test_what_is_behind_is_sealed_while_nothing_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "SEAL_SECONDS", 0.0)
    writer = Writer(tmp_path / "s.db")
    monkeypatch.setattr(writer.store._sealer, "seal", lambda: None)
    writer.fill(2100, schema=SMALL)
    monkeypatch.undo()
    db = writer.store._db
    assert db.execute("SELECT COUNT(*) FROM blocks").fetchone() == (0,)
    until = time.monotonic() + 20
    while (writer.store._arrivals.due or writer.store.unsealed) and time.monotonic() < until:
        writer.store.tidy(0.0)
    assert db.execute("SELECT SUM(reports) FROM blocks").fetchone() == (2048,)
    assert_holds(writer.path, RUN.id, writer.committed)
    writer.store.close()


def test_a_run_dropped_from_the_store_is_dropped_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    over(path, "old", 300)
    store = Store(path, Policy(max_bytes=1))
    live = Live()
    pipeline = Pipeline(store, live, Health(), (), tick=lambda *_: None, clock=lambda: OLD + DAY)
    pipeline.recover()
    assert set(live.runs) == {"old"}
    for _ in range(5):
        store._rest_until = 0.0
        pipeline.upkeep()
    assert live.runs == {}
    assert Reader(path).runs() == []
    stream = pipeline.hello(Hello(Run("old", "old", "host", 1, 10.0), 0, "a", first=302))
    assert (stream.high, stream.lost) == (301, 301), "what it knew of that run is gone, and counted"
    pipeline.commit()
    store.close()


@pytest.mark.parametrize("error", [sqlite3.OperationalError, ZeroDivisionError])
def test_a_tidying_that_fails_takes_nothing_away_and_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    path = tmp_path / "s.db"
    whole = over(path, "old", 100)
    store = Store(path, Policy(max_bytes=1))

    def drop(run_id: str, now: float) -> None:
        original(run_id, now)
        raise error

    original = store._retention._drop
    monkeypatch.setattr(store._retention, "_drop", drop)
    assert store.tidy(OLD) == store.tidy(OLD) == []
    assert caplog.text.count("store.tidying_failed") == 1
    assert_holds(path, "old", whole.committed)
    monkeypatch.undo()
    store._failed_until = 0.0
    assert store.tidy(OLD) == [], "what waits is looked at first"
    assert store.tidy(OLD) == ["old"]
    store.close()


def test_how_full_the_disk_is_can_be_asked(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(10)
    space = Reader(writer.path).space()
    assert 0 < space.stored <= writer.path.stat().st_size + 2**22
    assert 0 < space.disk_used_ratio < 1
    assert space._replace(disk=100, disk_free=10).nearly_full
    assert not space._replace(disk=100, disk_free=11).nearly_full
    assert math.isclose(space._replace(disk=100, disk_free=25).disk_used_ratio, 0.75)
    writer.store.close()
