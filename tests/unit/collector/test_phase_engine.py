"""The engine says what happened, says nothing when nothing did, and says it again the same way."""

import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from collector.phases import MACHINES, Machine, MachineError, PhaseEngine, Transition, detector, engine
from probe_wire import Column, Estimate, Outcome
from tests import curves
from tests.curves import Curve

FISHER, COMPLEXITY = Column("fisher_trace"), Column("local_complexity")


def follow(curve: Curve, column: Column = FISHER, phases: PhaseEngine | None = None) -> list[Transition]:
    phases = phases or PhaseEngine()
    rows = zip(curve.steps.tolist(), curve.values.tolist(), curve.paired.tolist(), strict=True)
    return [t for step, value, paired in rows for t in phases.update(step, [(column, Estimate(value, paired=paired))])]


def entered(transitions: list[Transition]) -> list[str]:
    return [t.to_phase for t in transitions]


def test_what_never_rises_and_declines_is_not_said_to_have_peaked() -> None:
    false, runs = [], 0
    for (name, family), seed in itertools.product(curves.NULLS.items(), range(27)):
        transitions = follow(family(seed))
        runs += 1
        if "after_critical_period" in entered(transitions) or (
            transitions and name in {"constant", "monotone decline"}
        ):
            false.append((name, seed))
    assert len(false) <= binom.ppf(0.99, runs, 0.01), f"{len(false)} false alarms in {runs} runs: {false}"


@pytest.fixture(scope="module")
def peaks() -> list[tuple[Curve, list[Transition]]]:
    return [(curve, follow(curve)) for curve in (curves.rise_peak_decay(seed, snr=20.0) for seed in range(60))]


def test_a_peak_is_found_in_at_least_95_of_100_runs(peaks: list[tuple[Curve, list[Transition]]]) -> None:
    found = [entered(t) == ["critical_period", "after_critical_period"] for _, t in peaks]
    assert np.mean(found) >= 0.95


def test_a_peak_is_known_within_two_rise_times_and_not_before_it(peaks: list[tuple[Curve, list[Transition]]]) -> None:
    delays = np.array([(t[1].known_step - c.turns[0]) / c.rise_steps for c, t in peaks if len(t) == 2])
    assert np.median(delays) <= 2.0
    assert np.mean(delays < 0.0) <= 0.02


def test_the_interval_of_the_peak_covers_the_truth(peaks: list[tuple[Curve, list[Transition]]]) -> None:
    told = [(t[1].happened_between, c.turns[0]) for c, t in peaks if len(t) == 2]
    assert np.mean([first <= truth <= last for (first, last), truth in told]) >= 0.8


def test_a_transition_is_back_dated_and_in_order(peaks: list[tuple[Curve, list[Transition]]]) -> None:
    for _, transitions in peaks:
        for before, after in itertools.pairwise(transitions):
            assert before.happened_step <= after.happened_step
            assert (before.ordinal, after.ordinal) == (1, 2)
        for t in transitions:
            assert t.happened_between[0] <= t.happened_step <= t.happened_between[1] <= t.known_step
            assert t.evidence.after.last_step == t.known_step
            assert t.evidence.log_e >= math.log(1 / t.evidence.alpha)
            assert t.confidence >= 1 - t.evidence.alpha


def test_a_rise_within_a_few_probes_is_seen() -> None:
    found = [entered(follow(curves.rise_peak_decay(seed, rise=(5.0, 8.0)))) for seed in range(20)]
    assert found.count(["critical_period", "after_critical_period"]) >= 19


def test_a_fisher_trace_that_only_declines_is_met_with_silence() -> None:
    assert not [t for seed in range(20) for t in follow(curves.monotone_decline(seed))]


def test_a_dip_before_the_rise_is_not_the_peak() -> None:
    for seed in range(20):
        curve = curves.dip_then_saturating(seed)
        transitions = follow(curve)
        assert entered(transitions) == ["critical_period"], seed
        first, last = transitions[0].happened_between
        assert first <= 2 * curve.turns[0]
        assert last > 0


def test_a_single_spike_is_not_a_phase() -> None:
    rng = np.random.default_rng(0)
    for at, factor in itertools.product([0, 5, 50, 99], [100.0, 0.01]):
        values = np.exp(0.05 * rng.standard_normal(100))
        values[at] *= factor
        assert follow(Curve(np.arange(100) * 10, values, np.full(100, np.nan))) == []


def test_not_a_number_and_gaps_survive() -> None:
    curve = curves.rise_peak_decay(3)
    rng = np.random.default_rng(0)
    curve.values[rng.random(150) < 0.15] = np.nan
    curve.values[40] = np.inf
    curve.values[41] = -1.0
    keep = rng.random(150) > 0.2
    phases = PhaseEngine()
    transitions = follow(Curve(curve.steps[keep], curve.values[keep], curve.paired[keep]), phases=phases)
    assert entered(transitions) == ["critical_period", "after_critical_period"]
    assert phases.unused.skipped == np.sum(~(curve.values[keep] > 0) | np.isinf(curve.values[keep]))


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize(("family", "column"), [(curves.rise_peak_decay, FISHER), (curves.double_descent, COMPLEXITY)])
def test_the_unit_of_the_quantity_does_not_matter(family: curves.Family, column: Column, unit: float) -> None:
    for seed in range(3):
        curve = family(seed)
        told, again = (
            [(t.to_phase, t.happened_step, t.happened_between, t.known_step) for t in follow(c, column)]
            for c in (curve, Curve(curve.steps, unit * curve.values, unit * curve.paired))
        )
        assert told == again
        assert len(told) >= 2


def test_a_restart_from_what_was_stored_gives_the_same_bytes() -> None:
    for family, column in ((curves.rise_peak_decay, FISHER), (curves.double_descent, COMPLEXITY)):
        curve = family(11)
        whole = msgspec.json.encode(follow(curve, column))
        for cut in range(5, curve.steps.size, 23):
            head, tail = (
                Curve(curve.steps[part], curve.values[part], curve.paired[part])
                for part in (slice(None, cut), slice(cut, None))
            )
            restarted = PhaseEngine()
            told = follow(head, column, restarted)
            assert msgspec.json.encode(told + follow(tail, column, restarted)) == whole


def test_a_restart_that_recalls_instead_of_judging_again_goes_on_with_the_same_bytes() -> None:
    for family, column in ((curves.rise_peak_decay, FISHER), (curves.double_descent, COMPLEXITY)):
        curve = family(11)
        whole = PhaseEngine()
        known = follow(curve, column, whole)
        for cut in range(5, curve.steps.size, 23):
            restarted = PhaseEngine()
            for step, value, paired in zip(
                curve.steps[:cut].tolist(), curve.values[:cut].tolist(), curve.paired[:cut].tolist(), strict=True
            ):
                restarted.recall(step, [(column, Estimate(value, paired, paired, 100))])
            before = [t for t in known if t.known_step <= curve.steps[cut - 1]]
            for transition in before:
                restarted.enter(transition)
            rest = Curve(curve.steps[cut:], curve.values[cut:], curve.paired[cut:])
            after = follow(rest, column, restarted)
            assert msgspec.json.encode(before + after) == msgspec.json.encode(known)
            assert restarted.phases == whole.phases


def test_local_complexity_descends_ascends_and_descends_again() -> None:
    orders = [entered(follow(curves.double_descent(seed), COMPLEXITY)) for seed in range(20)]
    assert orders.count(["descent", "ascent", "final_descent"]) >= 19


def test_a_double_descent_has_its_turns_inside_their_intervals() -> None:
    told = [(curves.double_descent(seed), follow(curves.double_descent(seed), COMPLEXITY)) for seed in range(20)]
    inside = [
        t.happened_between[0] <= truth <= t.happened_between[1]
        for curve, transitions in told
        for truth, t in zip(curve.turns, transitions[1:], strict=False)
    ]
    assert np.mean(inside) >= 0.8


def test_a_rise_that_saturates_has_no_final_descent() -> None:
    for seed in range(30):
        assert entered(follow(curves.batch_norm_rise(seed), COMPLEXITY)) == ["ascent"]


def test_a_second_ascent_arms_the_final_descent_again() -> None:
    mean = np.concatenate([np.linspace(a, b, 30) for a, b in ((10, 30), (30, 18), (18, 40), (40, 15))])
    values = mean + 0.4 * np.random.default_rng(0).standard_normal(mean.size)
    steps = np.unique(np.round(10 ** np.linspace(1, 6, mean.size))).astype(np.int64)
    transitions = follow(Curve(steps, values, np.full(values.size, np.nan)), COMPLEXITY)
    assert entered(transitions) == ["ascent", "final_descent", "ascent", "final_descent"]


def test_phases_are_spans_that_meet() -> None:
    phases = PhaseEngine()
    transitions = follow(curves.rise_peak_decay(0), phases=phases)
    spans = phases.phases
    assert [s.phase for s in spans] == ["early", "critical_period", "after_critical_period"]
    assert [s.since_step for s in spans] == [0, *(t.happened_step for t in transitions)]
    assert [s.until_step for s in spans] == [*(t.happened_step for t in transitions), None]
    assert {s.machine for s in spans} == {"critical_period"}


def test_the_sentence_can_be_checked_on_the_chart() -> None:
    curve = curves.rise_peak_decay(0)
    evidence = follow(curve)[1].evidence
    before, after = evidence.before, evidence.after
    for window in (before, after):
        inside = (curve.steps >= window.first_step) & (curve.steps <= window.last_step)
        assert inside.sum() == window.n
        assert np.exp(np.log(curve.values[inside]).mean()) == pytest.approx(window.mean, rel=0.03)
        assert f"over steps {window.first_step}–{window.last_step} ({window.n} probes)" in evidence.sentence
    assert after.mean / before.mean - 1 == pytest.approx(evidence.change, rel=1e-3)
    assert evidence.sentence.startswith("fisher_trace averaged ")
    assert f"{-100 * evidence.change:.1f} % lower, e = " in evidence.sentence
    assert evidence.sentence.endswith(" against alpha 0.5 %")
    assert evidence.noise == pytest.approx(0.06, abs=0.03)


def test_only_sound_estimates_of_the_whole_network_are_judged() -> None:
    phases = PhaseEngine()
    layer, other = Column("fisher_trace", {"layer": "fc1"}), Column("train_loss")
    bound = Estimate(1.0, outcome=Outcome.NOT_CONVERGED)
    assert phases.update(0, [(layer, Estimate(1.0)), (other, Estimate(1.0)), (FISHER, bound)]) == []
    assert phases.phases == []
    assert phases.unused.not_ok == 1


def test_layers_are_judged_apart() -> None:
    per_layer = msgspec.structs.replace(MACHINES[0], subject="layer")
    phases = PhaseEngine([per_layer])
    peak, flat = curves.rise_peak_decay(1), curves.constant(1)
    told = [
        t
        for i, step in enumerate(peak.steps.tolist())
        for t in phases.update(
            step,
            [
                (Column("fisher_trace", {"layer": "a"}), Estimate(float(peak.values[i]))),
                (Column("fisher_trace", {"layer": "b"}), Estimate(float(flat.values[i]))),
            ],
        )
    ]
    assert [(t.subject["layer"], t.to_phase) for t in told] == [
        ("a", "critical_period"),
        ("a", "after_critical_period"),
    ]
    assert "fisher_trace of a averaged" in told[0].evidence.sentence
    assert [s.phase for s in phases.phases if s.subject == {"layer": "b"}] == ["early"]


def test_a_resumed_run_is_ignored_until_it_passes_its_own_past() -> None:
    curve = curves.rise_peak_decay(5)
    rows = list(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
    phases = PhaseEngine()
    relived = [*rows[:60], *rows[40:]]
    told = [t for step, value in relived for t in phases.update(step, [(FISHER, Estimate(value))])]
    straight = PhaseEngine()
    assert told == [t for step, value in rows for t in straight.update(step, [(FISHER, Estimate(value))])]
    assert phases.unused.behind == 20


def test_of_several_ranks_the_lowest_that_has_a_value_is_judged() -> None:
    curve, phases = curves.rise_peak_decay(0, snr=20.0), PhaseEngine()
    rows = zip(curve.steps.tolist(), curve.values.tolist(), curve.paired.tolist(), strict=True)
    told = []
    for step, value, paired in rows:
        told += phases.update(step, [(FISHER, Estimate.without_value(Outcome.NOT_APPLICABLE))], rank=0)
        told += phases.update(step, [(FISHER, Estimate(value, paired=paired))], rank=2)
        told += phases.update(step, [(FISHER, Estimate(-value))], rank=3)
    assert told == follow(curve)
    assert entered(told) == ["critical_period", "after_critical_period"]


def test_a_long_run_stays_within_its_cap_and_still_sees_its_peak() -> None:
    curve = curves.rise_peak_decay(2, n=1500, rise=(300.0, 300.0))
    phases = PhaseEngine()
    assert entered(follow(curve, phases=phases)) == ["critical_period", "after_critical_period"]
    assert phases.unused.thinned > 0


def test_subjects_beyond_the_cap_are_refused_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_TRACKS", 3)
    phases = PhaseEngine([msgspec.structs.replace(MACHINES[0], subject="layer")])
    for i in range(5):
        phases.update(1, [(Column("fisher_trace", {"layer": f"l{i}"}), Estimate(1.0))])
    assert len(phases.phases) == 3
    assert phases.unused.refused == 2


def test_two_machines_of_one_name_are_refused() -> None:
    with pytest.raises(MachineError, match="two machines named 'critical_period'"):
        PhaseEngine([MACHINES[0], MACHINES[0]])


@pytest.mark.parametrize("shipped", MACHINES, ids=lambda m: m.name)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(), min_size=12, max_size=40),
    paired=st.floats(),
    stretch=st.sampled_from([1, 7, 2**50]),
)
def test_no_number_crashes_it(shipped: Machine, values: list[float], paired: float, stretch: int) -> None:
    phases = PhaseEngine([shipped])
    for i, value in enumerate(values):
        estimate = Estimate(value, paired=paired if i % 3 else math.nan)
        for t in phases.update(i * stretch, [(Column(shipped.quantity), estimate)]):
            assert msgspec.json.decode(msgspec.json.encode(t), type=Transition) == t


def test_one_series_can_be_followed_by_hand() -> None:
    curve = curves.rise_peak_decay(0)
    judge = detector("critical_period")
    rows = zip(curve.steps.tolist(), curve.values.tolist(), curve.paired.tolist(), strict=True)
    found = [d for step, value, stderr in rows for d in judge(step, value, stderr=stderr)]
    assert [(d.kind, d.state) for d in found] == [
        ("critical_period", "detected"),
        ("after_critical_period", "detected"),
    ]
    assert [d.transition for d in found] == follow(curve)
    assert [d.step for d in found] == [d.transition.happened_step for d in found]
    assert detector("local_complexity")(0, 3.0) == []
