"""A run whose engine is of another version is judged again beside the inlet: once, in order, and nothing is told twice."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from collector import judges as judges_module
from collector import retrials as retrials_module
from collector.health import Health
from collector.hearing import Hearing
from collector.keepsake import packed
from collector.live import Live
from collector.phases import MACHINES, Machine, PhaseEngine, Transition
from collector.pipeline import Pipeline
from collector.retrials import Retrial
from collector.store import arrivals, sealing
from collector.store.archive import StoredFrame
from collector.store.queries import Reader, StoredTransition
from collector.store.sqlite import Store
from collector.web.api import Api
from probe_wire import Column, Estimate, Hello, Report, encode, pack
from tests.inlets import RUN, SCHEMA
from tests.unit.collector.test_phases_kept import peak


class Life:
    """One life of a collector: a pipeline over a store, without its sockets."""

    def __init__(self, folder: Path, machines: tuple[Machine, ...] = MACHINES) -> None:
        self.path = folder / "s.db"
        folder.mkdir(exist_ok=True)
        self.store = Store(self.path)
        self.live = Live()
        self.health = Health()
        self.pipeline = Pipeline(self.store, self.live, self.health, (), tick=lambda *_: None, machines=machines)
        self.pipeline.recover()
        self.greet()

    def greet(self) -> None:
        self.stream = self.pipeline.hello(Hello(RUN, 0, "a", 1))
        self.pipeline.schema(self.stream, SCHEMA, encode(SCHEMA))

    def take(self, values: Sequence[float]) -> None:
        for value in values:
            seq = self.stream.high + 1
            report = Report(seq, seq * 10, 0.0, 1, *pack([Estimate(value, paired=0.05 * value)]))
            self.pipeline.report(self.stream, report, encode(report))
        self.pipeline.commit()

    def catch_up(self) -> int:
        """Go on until the run is judged as its reports come; how often it was looked at."""
        rounds = 0
        while self.live.runs[RUN.id].retrial is not None:
            wait_for(lambda: self.pipeline.judges.caught_up)
            self.pipeline.take_over()
            self.pipeline.commit()
            rounds += 1
        return rounds

    def end(self) -> None:
        self.pipeline.judges.close()
        self.store.close()

    @property
    def told(self) -> list[Transition]:
        return [each.transition for each in Reader(self.path).transitions(RUN.id)]

    @property
    def stored(self) -> list[StoredTransition]:
        return Reader(self.path).transitions(RUN.id)

    @property
    def failures(self) -> float | None:
        return self.health.registry.get_sample_value("phasewatch_phase_failures_total")


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.01)


@cache
def told_at_once() -> list[Transition]:
    """What a collector tells that was never stopped."""
    with TemporaryDirectory() as folder:
        whole = Life(Path(folder))
        whole.take(peak())
        whole.end()
        return whole.told


@pytest.fixture
def upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    """A collector of another version than the one that took the first sixty reports; few are judged while agents wait."""
    before = Life(tmp_path)
    before.take(peak()[:60])
    state = before.pipeline.judges["run-1"].state() | {"versions": {"critical_period": "of_another_release"}}
    before.store.put_states("run-1", state, packed(before.live.runs["run-1"]), 60)
    before.store.commit()
    before.end()
    monkeypatch.setattr(judges_module, "AT_ONCE", 20)
    after = Life(tmp_path)
    yield after
    after.end()


def test_reports_that_come_while_a_run_is_judged_again_are_shown_and_judged_once_in_their_order(
    upgraded: Life, tmp_path: Path
) -> None:
    before = upgraded.told
    upgraded.take(peak()[60:110])
    run = upgraded.live.runs["run-1"]
    assert (run.step, run.ranks[0].reports) == (1100, 110)
    assert run.retrial is not None
    assert upgraded.told == before
    answer = json.loads(Api(Reader(upgraded.path), upgraded.live, "").run("run-1"))
    assert answer["run"]["judging_again"].keys() == {"judged", "reports"}
    assert answer["run"]["phases"], "what was told of its phases is shown meanwhile"
    wait_for(lambda: upgraded.pipeline.judges.caught_up)
    assert upgraded.told == before, "the inlet's thread alone writes to the store"
    upgraded.catch_up()
    assert upgraded.pipeline.judges.waiting == 0
    assert b'"judging_again":null' in Api(Reader(upgraded.path), upgraded.live, "").run("run-1")
    assert "confirmed" in {t.state for t in upgraded.told[len(before) :]}
    upgraded.take(peak()[110:])
    assert repr(upgraded.told) == repr(told_at_once())


def test_a_collector_that_is_killed_while_it_judges_again_begins_anew_and_nothing_is_left_out_or_told_twice(
    upgraded: Life, tmp_path: Path
) -> None:
    upgraded.take(peak()[60:100])
    upgraded.store.close()  # as if killed: nobody took over
    second = Life(tmp_path)
    second.take(peak()[100:110])
    second.catch_up()
    second.store.close()
    third = Life(tmp_path)
    third.take(peak()[110:])
    third.end()
    assert repr(third.told) == repr(told_at_once())


def test_what_was_missed_is_also_told_where_it_is_little_enough_to_be_judged_at_once(
    upgraded: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgraded.take(peak()[60:110])
    upgraded.store.close()
    monkeypatch.setattr(judges_module, "AT_ONCE", 10_000)
    second = Life(tmp_path)
    assert second.live.runs["run-1"].retrial is None
    second.take([])
    second.store.close()
    third = Life(tmp_path)
    third.take(peak()[110:])
    third.end()
    assert repr(third.told) == repr(told_at_once())


def test_a_commit_that_fails_does_not_set_back_what_judges_again(upgraded: Life, tmp_path: Path) -> None:
    wait_for(lambda: upgraded.pipeline.judges.caught_up)
    upgraded.pipeline.rollback()
    assert not upgraded.live.runs
    upgraded.pipeline.hello(Hello(msgspec.structs.replace(RUN, id="another"), 0, "a", 1))
    upgraded.greet()
    assert upgraded.live.runs["run-1"].retrial is not None
    assert upgraded.pipeline.judges.caught_up, "it has not begun anew"
    upgraded.catch_up()
    upgraded.take(peak()[60:])
    assert repr(upgraded.told) == repr(told_at_once())


def test_retrials_of_runs_that_do_not_come_back_are_bounded(upgraded: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrials_module, "MOST_ASIDE", 1)
    retrials = upgraded.pipeline.judges._retrials
    for name in ("a", "b"):
        retrials.begin(Retrial(Hearing(name, PhaseEngine(), 0, 0, {}, failed=int), Reader(upgraded.path), (True, 0.0)))
    retrials.forget_all_but({"run-1"})
    assert [run_id for run_id in ("run-1", "a", "b") if retrials.get(run_id)] == ["run-1", "b"]


def test_where_more_came_than_can_be_judged_while_agents_wait_it_is_judged_beside_them_again(
    upgraded: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrials_module, "MOST_FOUND", 1)
    wait_for(lambda: upgraded.pipeline.judges.caught_up)
    upgraded.take(peak()[60:])
    assert upgraded.catch_up() > 3
    assert repr(upgraded.told) == repr(told_at_once())


def test_what_was_told_in_between_is_not_told_again_after_a_kill_nor_lost_with_a_commit_that_fails(
    upgraded: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrials_module, "MOST_FOUND", 1)
    upgraded.take(peak()[60:])
    before = len(upgraded.told)
    while len(upgraded.told) < before + 2:
        wait_for(lambda: upgraded.pipeline.judges.caught_up)
        upgraded.pipeline.take_over()
        upgraded.pipeline.commit()
    assert upgraded.live.runs["run-1"].retrial is not None
    upgraded.store.close()  # as if killed
    second = Life(tmp_path)
    wait_for(lambda: second.pipeline.judges.caught_up)
    second.pipeline.take_over()
    second.pipeline.rollback()
    second.greet()
    second.catch_up()
    second.end()
    assert repr(second.told) == repr(told_at_once())


def test_an_engine_that_fails_on_the_past_is_counted_and_the_run_goes_on_unjudged(
    upgraded: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgraded.catch_up()

    def stumble(*_: object) -> list[Transition]:
        raise ZeroDivisionError

    upgraded.pipeline.rollback()
    upgraded.store.put_states("run-1", {"versions": {}}, b"", 0)
    upgraded.store.commit()
    monkeypatch.setattr(PhaseEngine, "update", stumble)
    upgraded.greet()
    upgraded.catch_up()
    assert upgraded.failures == 1
    upgraded.take([1.0])
    assert upgraded.stream.high == 61


def test_a_store_that_cannot_be_read_for_a_while_only_delays_what_is_judged_again(
    upgraded: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrials_module, "RETRY_SECONDS", 0.01)
    upgraded.catch_up()
    frames = Reader.frames
    failed: list[int] = []

    def unreadable(reader: Reader, run_id: str, after: int = 0) -> Iterator[StoredFrame]:
        if after < 40 and not failed:
            failed.append(after)
            raise OSError(5, "Input/output error")
        return frames(reader, run_id, after)

    shown = packed(upgraded.live.runs["run-1"])
    upgraded.pipeline.rollback()
    upgraded.store.put_states("run-1", {"versions": {}}, shown, 60)
    upgraded.store.commit()
    monkeypatch.setattr(Reader, "frames", unreadable)
    upgraded.greet()
    upgraded.catch_up()
    assert (failed, upgraded.failures) == ([0], 0)


def test_reports_that_are_thinned_before_they_are_judged_again_keep_nobody_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("BLOCK", 8), ("BUCKET", 4)):
        monkeypatch.setattr(sealing, name, size)
    monkeypatch.setattr(arrivals, "MOST", 1)
    before = Life(tmp_path)
    before.take(peak()[:64])
    before.store.put_states("run-1", {"versions": {}}, packed(before.live.runs["run-1"]), 64)
    before.store._db.execute("DELETE FROM chunks WHERE first_frame > 8")  # a little of it is left, as between two steps
    before.store.commit()
    before.end()
    monkeypatch.setattr(judges_module, "AT_ONCE", 20)
    after = Life(tmp_path)
    assert after.live.runs["run-1"].retrial is not None
    assert after.catch_up() <= 3
    after.take(peak()[64:70])
    assert after.stream.high == 70
    after.end()


def test_claims_of_another_version_have_numbers_of_their_own(tmp_path: Path) -> None:
    before = Life(tmp_path)
    before.take(peak())
    before.end()
    told = len(before.told)
    sterner = tuple(
        msgspec.structs.replace(each, turns=tuple(msgspec.structs.replace(t, min_effect=0.9) for t in each.turns))
        if each.name == "critical_period"
        else each
        for each in MACHINES
    )
    after = Life(tmp_path, sterner)
    after.take([0.2 * 0.975**i + 1e-4 for i in range(200)])
    after.end()
    again = Life(tmp_path, sterner)
    again.take([0.2 * 0.975**i + 1e-4 for i in range(200, 260)])
    again.end()
    claims = [(t.machine, t.ordinal, t.state) for t in again.told]
    assert len(claims) == len(set(claims)) > told
    versions = {(t.machine, t.ordinal): t.machine_version for t in again.told if t.machine == "critical_period"}
    assert len(set(versions.values())) == 2
    assert [number for _, number in versions] == sorted(number for _, number in versions)


def test_a_collector_that_judges_again_stops_at_once(upgraded: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    upgraded.catch_up()
    update = PhaseEngine.update

    def slowly(engine: PhaseEngine, step: int, measured: list[tuple[Column, Estimate]], rank: int) -> list[Transition]:
        time.sleep(0.05)
        return update(engine, step, measured, rank)

    monkeypatch.setattr(PhaseEngine, "update", slowly)
    upgraded.pipeline.rollback()
    upgraded.store.put_states("run-1", {"versions": {}}, b"", 0)
    upgraded.store.commit()
    upgraded.greet()
    thread = upgraded.pipeline.judges._retrials._thread
    assert thread is not None
    upgraded.pipeline.judges.close()
    assert not thread.is_alive()
    assert upgraded.pipeline.judges.waiting > 0
