"""What a collector knows of a run's phases survives its restarts, its upgrades and its failed commits."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from collector import judges as judges_module
from collector import keepsake
from collector.health import Health
from collector.keepsake import packed
from collector.live import Live, LiveRun
from collector.phases import PhaseEngine, Transition
from collector.pipeline import Pipeline
from collector.store.archive import StoredFrame
from collector.store.queries import Reader
from collector.store.sqlite import Store
from probe_wire import Column, Estimate, Hello, Losses, Quantity, Report, Run, Schema, Tighten, encode, pack

RUN = Run("run-1", "test", "host", 1, 0.0)
SCHEMA = Schema(1, (Quantity("fisher_trace", "1", "Help.", "Title", "log"),), (Column("fisher_trace"),))


def peak() -> list[float]:
    rng = np.random.default_rng(1)
    t = np.arange(150)
    mean = np.where(t < 40, 0.2 + 0.8 * np.sin(np.pi * t / 80) ** 2, 0.2 + 0.8 / (1 + ((t - 40) / 30) ** 2))
    return [float(value) for value in mean * np.exp(0.05 * rng.normal(size=t.size))]


class Collector:
    """A pipeline over a store, without its sockets."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "s.db")
        self.live = Live()
        self.wishes: list[tuple[str, int, Tighten]] = []
        self.pipeline = Pipeline(self.store, self.live, Health(), (), tick=lambda *_: None)
        self.pipeline.wish = lambda *wish: self.wishes.append(wish)
        self.pipeline.recover()
        self.stream = self.pipeline.hello(Hello(RUN, 0, "a", 1))
        self.pipeline.schema(self.stream, SCHEMA, encode(SCHEMA))

    def take(self, values: Sequence[float]) -> None:
        for value in values:
            seq = self.stream.high + 1
            report = Report(seq, seq * 10, 0.0, 1, *pack([Estimate(value, paired=0.05 * value)]))
            self.pipeline.report(self.stream, report, encode(report))

    def stop(self) -> None:
        self.pipeline.commit()
        self.store.close()


def told(folder: Path) -> list[Transition]:
    return [each.transition for each in Reader(folder / "s.db").transitions("run-1")]


def test_a_collector_restarted_after_every_few_reports_tells_what_one_that_never_was_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, often = tmp_path / "once", tmp_path / "often"
    collector = Collector(once)
    collector.take(peak())
    collector.pipeline.commit()
    spans = collector.live.runs["run-1"].spans
    collector.stop()
    monkeypatch.setattr(judges_module, "STATE_EVERY", 16)
    judged = 0
    for i in range(0, 150, 7):
        collector = Collector(often)
        judged = (Reader(often / "s.db").phase_state("run-1") or (0, {}))[0]
        collector.take(peak()[i : i + 7])
        collector.pipeline.commit()
        kept = collector.live.runs["run-1"].spans
        collector.stop()
    assert {t.state for t in told(once)} >= {"suspected", "detected", "confirmed"}
    assert repr(told(often)) == repr(told(once))
    assert [(s.machine, s.phase, s.until_step) for s in kept] == [(s.machine, s.phase, s.until_step) for s in spans]
    assert judged > 100, "the state is kept anew as the run goes on"


def views_of(collector: Collector) -> dict[str, object]:
    """All that the views show of the run."""
    run = collector.live.runs["run-1"]
    return {name: repr(getattr(run, name)) for name in ("ranks", "quantities", "latest", "probes", "series", "claims")}


def test_a_run_recalled_from_what_was_kept_of_it_is_what_it_was_and_only_what_came_since_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges_module, "STATE_EVERY", 16)
    collector = Collector(tmp_path)
    collector.take(peak()[:100])
    collector.pipeline.commit()
    was = views_of(collector)
    collector.stop()
    read: list[int] = []
    frames = Reader.frames

    def watched(reader: Reader, run_id: str, after: int = 0) -> Iterator[StoredFrame]:
        for frame in frames(reader, run_id, after):
            read.append(frame.id)
            yield frame

    monkeypatch.setattr(Reader, "frames", watched)
    again = Collector(tmp_path)
    now = views_of(again)
    assert {name: text for name, text in now.items() if name != "ranks"} == {
        name: text for name, text in was.items() if name != "ranks"
    }
    rank = again.live.runs["run-1"].ranks[0]
    assert (rank.step, rank.reports, rank.finished, rank.losses) == (1000, 100, False, Losses())
    assert read == list(range(97, 101))
    again.stop()


def test_what_was_kept_of_a_run_by_another_release_is_passed_over(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    collector.take(peak()[:20])
    collector.store.put_states("run-1", collector.pipeline.judges["run-1"].state(), b"of another release", 20)
    collector.pipeline.commit()
    was = views_of(collector)
    collector.stop()
    again = Collector(tmp_path)
    assert views_of(again)["latest"] == was["latest"]
    assert again.live.runs["run-1"].ranks[0].reports == 20
    again.stop()


def test_a_state_of_another_version_of_the_machines_is_not_gone_on_from(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    collector.take(peak()[:60])
    engine = collector.pipeline.judges["run-1"]
    state = engine.state() | {"versions": {"critical_period": "of_another_release"}}
    collector.store.put_states("run-1", state, packed(collector.live.runs["run-1"]), 60)
    collector.stop()
    again = Collector(tmp_path)
    again.take(peak()[60:])
    again.stop()
    whole = Collector(tmp_path / "whole")
    whole.take(peak())
    whole.stop()
    assert repr(told(tmp_path)) == repr(told(tmp_path / "whole"))


def test_a_suspected_transition_is_asked_after_once_committed_and_not_where_the_commit_failed(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    collector.take(peak())
    assert collector.wishes == []
    collector.pipeline.rollback()
    collector.pipeline.commit()
    assert collector.wishes == [], "what was not kept was not suspected"
    collector.stream = collector.pipeline.hello(Hello(RUN, 0, "a", 1))
    collector.pipeline.schema(collector.stream, SCHEMA, encode(SCHEMA))
    collector.take(peak())
    collector.stop()
    suspected = [t for t in told(tmp_path) if t.state == "suspected"]
    assert len(collector.wishes) == len(suspected) > 0
    run_id, rank, wish = collector.wishes[0]
    assert (run_id, rank, wish.quantity) == ("run-1", 0, "fisher_trace")
    assert suspected[0].known_step < wish.until_step <= suspected[0].known_step + 200


def test_a_state_that_is_damaged_and_an_engine_that_stumbles_do_not_stop_a_collector_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector(tmp_path)
    collector.take(peak()[:60])
    state = collector.pipeline.judges["run-1"].state()
    state["tracks"][0]["span"] = [{"machine": 7}]
    collector.store.put_states("run-1", state, packed(collector.live.runs["run-1"]), 60)
    collector.stop()
    again = Collector(tmp_path)
    again.take(peak()[60:])
    again.stop()
    whole = Collector(tmp_path / "whole")
    whole.take(peak())
    whole.stop()
    assert repr(told(tmp_path)) == repr(told(tmp_path / "whole"))

    def stumble(*_: object) -> list[Transition]:
        raise ZeroDivisionError

    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("UPDATE phase_states SET body = '{'")
    db.close()
    monkeypatch.setattr(PhaseEngine, "update", stumble)
    last = Collector(tmp_path)
    last.take([1.0])
    last.stop()
    assert last.stream.high == 151, "reports go on being kept"


def test_no_view_looks_at_a_run_while_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges_module, "STATE_EVERY", 1)
    monkeypatch.setattr(judges_module, "OF_EACH_RANK", 1)
    collector = Collector(tmp_path)
    let_in: list[bool] = []

    def packed(run: LiveRun) -> bytes:
        looking = threading.Thread(target=lambda: let_in.append(collector.live.lock.acquire(blocking=False)))
        looking.start()
        looking.join()
        return keepsake.packed(run)

    monkeypatch.setattr(judges_module, "packed", packed)
    collector.take(peak()[:3])
    collector.stop()
    assert let_in == [False] * 3
