"""What never turned is not said to have turned, and what did is found in time."""

import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from collector.phases import KINDS, MACHINES, Machine, PhaseEngine, Track, Transition
from probe_wire import Column, Estimate
from tests import curves
from tests.curves import Curve
from tests.phase_runs import COMPLEXITY, entered, follow, of, passed, plain

PERIOD = next(m for m in MACHINES if m.name == "critical_period")
SEEDS = 16
PEAK = ["critical_period", "after_critical_period"]


def told(curve: Curve, model: Machine = PERIOD, alpha: float = 0.01) -> list[Transition]:
    return passed(Track(model, {}, alpha), curve)


def test_what_never_rises_and_declines_is_not_said_to_have_peaked() -> None:
    false = [
        (name, seed)
        for (name, family), seed in itertools.product(curves.NULLS.items(), range(SEEDS))
        if "after_critical_period" in entered(told(family(seed)))
    ]
    runs = SEEDS * len(curves.NULLS)
    assert len(false) <= binom.ppf(0.99, runs, 0.01), f"{len(false)} false alarms in {runs} runs: {false}"


def test_noise_that_grows_with_the_level_is_not_read_as_a_fall() -> None:
    level = 0.1 + 1.0 / (1.0 + np.exp(-(np.arange(150.0) - 75.0) / 7.5))
    runs = 24
    noisy = (level * np.exp(0.3 * np.random.default_rng(seed).standard_normal(150)) for seed in range(runs))
    false = sum("peak_passed" in entered(told(plain(values), KINDS["peak_passed"])) for values in noisy)
    assert false <= 2  # a third of them, were such noise cleaned away


@pytest.mark.parametrize("name", ["constant", "monotone decline", "heavy tails"])
def test_noise_about_a_level_has_no_onset(name: str) -> None:
    false, runs = 0, 30
    for seed in range(runs):
        curve = curves.NULLS[name](seed)
        flat = Curve(curve.steps, np.exp(np.random.default_rng(seed).standard_normal(150) * 0.1), curve.paired * np.nan)
        if name == "monotone decline":
            false += bool(entered(told(curve)))
        else:
            false += bool(entered(told(flat, KINDS["onset_up"]))) + bool(entered(told(flat, KINDS["onset_down"])))
    assert false <= binom.ppf(0.99, 2 * runs, 0.01)


@pytest.fixture(scope="module")
def peaks() -> list[tuple[Curve, list[Transition]]]:
    return [(curve, told(curve)) for curve in (curves.rise_peak_decay(seed, snr=20.0) for seed in range(30))]


def delay(curve: Curve, transitions: list[Transition]) -> float:
    known = [t.known_step for t in transitions if t.state == "detected" and t.to_phase == "after_critical_period"]
    return (known[0] - curve.turns[0]) / curve.rise_steps if known else math.inf


def test_nine_of_ten_peaks_are_known_within_little_more_than_two_rise_times(
    peaks: list[tuple[Curve, list[Transition]]],
) -> None:
    delays = np.array([delay(*each) for each in peaks])
    assert np.mean((delays > 0.0) & (delays <= 2.2)) >= 0.9
    assert np.median(delays) <= 1.65


def test_the_interval_of_a_peak_mostly_covers_the_truth(peaks: list[tuple[Curve, list[Transition]]]) -> None:
    between = [
        (t.happened_between, c.turns[0]) for c, ts in peaks for t in ts if t.state == "detected" and t.ordinal == 2
    ]
    assert len(between) >= 27
    assert np.mean([first <= truth <= last for (first, last), truth in between]) >= 0.8


def test_the_sentence_can_be_checked_on_the_chart(peaks: list[tuple[Curve, list[Transition]]]) -> None:
    for curve, transitions in peaks[:10]:
        for evidence in (t.evidence for t in transitions if t.state == "detected"):
            for window in (evidence.before, evidence.after):
                inside = (curve.steps >= window.first_step) & (curve.steps <= window.last_step)
                assert inside.sum() == window.n
                assert np.exp(np.log(curve.values[inside]).mean()) == pytest.approx(window.mean, rel=0.05)
                assert f"over steps {window.first_step}–{window.last_step} ({window.n} probes)" in evidence.sentence
            assert evidence.after.mean / evidence.before.mean - 1 == pytest.approx(evidence.change, rel=1e-3)
            assert evidence.noise > 0.02
            said = f"{1 + evidence.change:.3g} times as high" if evidence.change >= 1 else None
            way = "lower" if evidence.change < 0 else "higher"
            assert f": {said or f'{100 * abs(evidence.change):.1f} % {way}'}, e " in evidence.sentence


@pytest.mark.parametrize("length", [200, 2000, 6000])
def test_a_rise_is_found_however_slow_it_is(length: int) -> None:
    way = np.minimum(np.arange(1.4 * length) / length, 1.0)
    curve = plain(5.0 + 3.0 * way + 0.1 * np.random.default_rng(0).standard_normal(way.size))
    (risen, *_) = [t for t in told(curve, KINDS["peak_passed"]) if t.state == "detected"]
    assert risen.to_phase == "rising"
    assert risen.known_step < 10 * length


def test_a_rise_within_a_few_probes_is_seen() -> None:
    found = [entered(told(curves.rise_peak_decay(seed, rise=(5.0, 8.0)))) for seed in range(20)]
    assert found.count(PEAK) >= 17


def test_a_dip_before_the_rise_is_not_the_peak() -> None:
    for seed in range(10):
        curve = curves.dip_then_saturating(seed)
        detected = [t for t in told(curve) if t.state == "detected"]
        assert entered(detected) == ["critical_period"], seed
        assert detected[0].happened_between[0] <= 2 * curve.turns[0]


def test_a_single_spike_is_not_a_phase() -> None:
    rng = np.random.default_rng(0)
    for at, factor in itertools.product([0, 5, 50, 99], [100.0, 0.01]):
        values = np.exp(0.05 * rng.standard_normal(100))
        values[at] *= factor
        assert told(plain(values)) == [], (at, factor)


def test_not_a_number_and_gaps_survive() -> None:
    curve, rng = curves.rise_peak_decay(3), np.random.default_rng(0)
    curve.values[rng.random(150) < 0.15] = np.nan
    curve.values[40:42] = [np.inf, -1.0]
    keep = rng.random(150) > 0.2
    judge = Track(PERIOD, {}, 0.01)
    assert entered(passed(judge, Curve(curve.steps[keep], curve.values[keep], curve.paired[keep]))) == PEAK
    assert judge.observed.skipped == np.sum(~(curve.values[keep] > 0) | np.isinf(curve.values[keep]))


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("name", ["critical_period", "local_complexity"])
def test_the_unit_of_the_quantity_does_not_matter(name: str, unit: float) -> None:
    model = next(m for m in MACHINES if m.name == name)
    for seed in range(3):
        curve = curves.rise_peak_decay(seed) if name == "critical_period" else curves.double_descent(seed)
        scaled = Curve(curve.steps, unit * curve.values, unit * curve.paired)
        found = [[(t.to_phase, t.state, t.known_step) for t in told(c, model)] for c in (curve, scaled)]
        assert found[0] == found[1]
        assert len(found[0]) >= 4


def test_local_complexity_descends_ascends_and_descends_again() -> None:
    for seed in range(10):
        curve = curves.double_descent(seed)
        detected = [t for t in of("local_complexity", follow(curve, COMPLEXITY)) if t.state == "detected"]
        if seed == 3:  # noise that is correlated by chance: a random walk is not ruled out by the last probe
            assert entered(detected) == ["descent", "ascent"]
            continue
        assert entered(detected) == ["descent", "ascent", "final_descent"], seed
        for truth, t in zip(curve.turns, detected[1:], strict=True):
            assert t.known_step > truth


def test_a_rise_that_saturates_has_no_final_descent() -> None:
    for seed in range(15):
        assert entered(of("local_complexity", follow(curves.batch_norm_rise(seed), COMPLEXITY))) == ["ascent"]


def test_a_second_ascent_arms_the_final_descent_again() -> None:
    mean = np.concatenate([np.linspace(a, b, 30) for a, b in ((10, 30), (30, 18), (18, 40), (40, 15))])
    values = mean + 0.4 * np.random.default_rng(0).standard_normal(mean.size)
    steps = np.unique(np.round(10 ** np.linspace(1, 6, mean.size))).astype(np.int64)
    found = of("local_complexity", follow(Curve(steps, values, np.full(values.size, np.nan)), COMPLEXITY))
    assert entered(found) == ["ascent", "final_descent", "ascent", "final_descent"]


@pytest.mark.parametrize("shipped", MACHINES, ids=lambda m: m.name)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(), min_size=12, max_size=40),
    paired=st.floats(),
    stretch=st.sampled_from([1, 7, 2**50]),
)
def test_no_number_crashes_it(shipped: Machine, values: list[float], paired: float, stretch: int) -> None:
    phases = PhaseEngine([shipped])
    for i, value in enumerate(values):
        estimate = Estimate(value, paired=paired if i % 3 else math.nan)
        for t in phases.update(i * stretch, [(Column(shipped.quantity, shipped.labels), estimate)]):
            assert t.to_phase in {phase.name for phase in shipped.phases}
            assert msgspec.json.decode(msgspec.json.encode(t), type=Transition) == t
    state = phases.state()
    again = PhaseEngine([shipped])
    assert again.restore(state)
    assert repr(again.state()) == repr(state)
