"""Hindsight labels what took place, leaves alone what did not, and says so where nobody could know."""

import math
from itertools import combinations_with_replacement

import numpy as np
import pytest
import ruptures
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import binomtest

from collector.phases.hindsight import pelt
from collector.phases.hindsight.label import Label, Shape, label
from collector.phases.hindsight.pieces import Pieces, Way
from collector.phases.isotonic import isotonic
from collector.phases.score import Score, Scored, scored, wilson
from tests import curves
from tests.curves import Curve, Floats


def labelled(curve: Curve, shape: Shape = "peak") -> Label:
    return label(curve.steps, curve.values, curve.paired, shape)


def noisy(mean: Floats, seed: int, noise: float = 0.05) -> tuple[NDArray[np.int64], Floats]:
    rng = np.random.default_rng(seed)
    return np.arange(mean.size) * 10, mean + noise * rng.standard_normal(mean.size)


def moved(n: int, begin: int, end: int) -> Floats:
    """From 1 down to 0 between two probes, smoothly."""
    u = np.clip((np.arange(n) - begin) / (end - begin), 0.0, 1.0)
    return np.asarray((1.0 + np.cos(np.pi * u)) / 2.0)


# -- the two methods ------------------------------------------------------------------------------


def test_the_isotonic_fit_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    y, weight = rng.standard_normal(60).cumsum(), rng.uniform(0.2, 3.0, 60)
    assert isotonic(y, weight) == pytest.approx(isotonic_regression(y, weights=weight).x)


@pytest.mark.parametrize("pattern", [("rise",), ("fall", "rise"), ("fall", "rise", "fall")])
def test_pieces_join_where_trying_all_joins_says(pattern: tuple[Way, ...]) -> None:
    rng = np.random.default_rng(1)
    y, sigma = rng.standard_normal(11), rng.uniform(0.5, 2.0, 11)

    def error(a: int, b: int, way: Way) -> float:
        sign = 1.0 if way == "rise" else -1.0
        part = sign * y[a:b]
        fit = isotonic_regression(part, weights=sigma[a:b] ** -2.0).x if b > a else part
        return float(np.sum(((part - fit) / sigma[a:b]) ** 2))

    tried = {
        joins: sum(error(a, b, way) for a, b, way in zip((0, *joins), (*joins, 11), pattern, strict=True))
        for joins in combinations_with_replacement(range(12), len(pattern) - 1)
    }
    fit = Pieces(y, sigma).fit(pattern)
    assert fit.error == pytest.approx(min(tried.values()))
    assert tried[fit.ends[:-1]] == pytest.approx(fit.error)
    assert float(np.sum(((y - fit.curve) / sigma) ** 2)) == pytest.approx(fit.error)
    if len(pattern) > 1:
        last_joins = Pieces(y, sigma).joins(pattern)
        for at in range(12):
            assert last_joins[at] == pytest.approx(min(e for joins, e in tried.items() if joins[-1] == at))


@pytest.mark.parametrize("penalty", [3.0, 8.0, 16.0])
def test_the_levels_change_where_ruptures_says(penalty: float) -> None:
    rng = np.random.default_rng(2)
    y = np.repeat([0.0, 2.0, 1.0, 4.0], [30, 7, 40, 23]) + rng.standard_normal(100)
    theirs = ruptures.Pelt(model="l2", min_size=1, jump=1).fit(y).predict(pen=penalty)
    assert [*pelt.changes(y, np.ones(100), penalty), 100] == theirs


def test_an_uncertain_probe_moves_no_level() -> None:
    y = np.repeat([0.0, 1.0], 20)
    y[10] = 9.0
    sigma = np.full(40, 0.1)
    assert pelt.changes(y, sigma, 16.0) == [10, 11, 20]
    sigma[10] = 5.0
    assert pelt.changes(y, sigma, 16.0) == [20]
    assert pelt.levels(y + 1e9, sigma, 16.0)[[0, 39]] == pytest.approx([1e9, 1e9 + 1.0], abs=0.01)


# -- labels ---------------------------------------------------------------------------------------


def test_a_peak_is_labelled_near_where_it_was() -> None:
    found = [(curve := curves.rise_peak_decay(seed, snr=20.0), labelled(curve)) for seed in range(30)]
    happened = [(curve, one) for curve, one in found if one.happened]
    assert len(happened) >= 28
    assert all(abs(one.step - curve.turns[0]) < 1.5 * curve.rise_steps for curve, one in happened)
    covered = sum(one.between[0] <= curve.turns[0] <= one.between[1] for curve, one in happened)
    assert covered >= 0.8 * len(happened)


def test_a_valley_is_the_peak_of_the_mirrored_series() -> None:
    curve = curves.rise_peak_decay(3)
    peak = label(curve.steps, curve.values, curve.paired, "peak")
    valley = label(curve.steps, -curve.values, curve.paired, "valley")
    assert (valley.happened, valley.step, valley.between) == (True, peak.step, peak.between)


@pytest.mark.parametrize("name", curves.NULLS)
def test_what_never_rose_and_then_fell_is_not_labelled_a_peak(name: str) -> None:
    assert [seed for seed in range(12) if labelled(curves.NULLS[name](seed)).happened] == []


def test_correlated_noise_makes_no_truth_out_of_nothing() -> None:
    labels = [labelled(curves.autocorrelated(seed, rho=0.8)) for seed in range(60)]
    assert sum(one.happened is True for one in labels) <= 1
    assert sum(one.happened is None for one in labels) >= 20  # and that it cannot be known is said
    assert all(one.reason for one in labels if not one.happened)


def test_a_random_walk_is_refused_with_a_reason() -> None:
    walks = [np.random.default_rng(seed).standard_normal(600).cumsum() for seed in range(20)]
    labels = [label(np.arange(600), walk, None, "peak") for walk in walks]
    assert sum(one.happened is not None for one in labels) <= 2
    assert any("too correlated" in one.reason for one in labels)


def test_a_dip_that_was_made_good_is_no_peak() -> None:
    t = np.arange(150.0)
    mean = 1 - np.exp(-t / 15) - 0.3 * np.exp(-(((t - 80) / 8) ** 2))
    assert [label(*noisy(mean, seed), None, "peak").happened for seed in range(10)].count(True) == 0


def test_of_two_peaks_that_the_series_ends_below_the_first_counts() -> None:
    mean = np.interp(np.arange(200.0), [0, 40, 80, 120, 199], [0.0, 1.0, 0.4, 1.1, 0.1])
    found = label(*noisy(mean, 0), None, "peak")
    assert found.happened
    assert abs(found.step - 400) < 60


def test_a_valley_before_a_later_fall_is_found_in_the_series_up_to_it() -> None:
    curve = curves.double_descent(0)
    peak = label(curve.steps, curve.values, curve.paired, "peak", step_scale="log")
    until = curve.steps <= peak.step
    valley = label(curve.steps[until], curve.values[until], curve.paired[until], "valley", step_scale="log")
    for found, turn in zip((valley, peak), curve.turns, strict=True):
        assert abs(math.log10(found.step) - math.log10(turn)) < 0.4


@pytest.mark.parametrize(("shape", "at"), [("onset", 92), ("settled", 108)])
def test_an_onset_is_a_tenth_into_the_move_and_settled_a_tenth_before_its_end(shape: Shape, at: int) -> None:
    mean = moved(200, 86, 114)
    found = [label(*noisy(sign * mean, seed), None, shape) for sign in (1.0, -1.0) for seed in range(8)]
    assert all(one.happened for one in found)
    assert all(abs(one.step - 10 * at) <= 70 for one in found)
    assert sum(one.between[0] <= 10 * at <= one.between[1] for one in found) >= 13


def test_settled_is_asked_of_the_last_move_and_onset_of_the_first() -> None:
    mean = moved(240, 130, 150) * (1.0 - moved(240, 60, 80))
    onset, settled = (label(*noisy(mean, 1), None, shape) for shape in ("onset", "settled"))
    assert abs(onset.step - 640) < 60
    assert abs(settled.step - 1460) < 60


@pytest.mark.parametrize("shape", ["onset", "settled"])
@pytest.mark.parametrize(("slope", "noise"), [(0.0, 0.05), (1.0, 0.05), (1.0, 0.2)])
def test_a_straight_line_has_no_onset_and_never_settles(shape: Shape, slope: float, noise: float) -> None:
    mean = slope * np.linspace(0.0, 1.0, 140)
    assert [label(*noisy(mean, seed, noise), None, shape).happened for seed in range(30)].count(True) == 0


def test_a_label_does_not_depend_on_the_unit_or_on_a_level_that_is_large() -> None:
    curve = curves.rise_peak_decay(5)
    y = curve.values / curve.values.max()
    there = label(curve.steps, y, None, "peak")
    assert label(curve.steps, 1e-12 * y, None, "peak") == there
    assert label(curve.steps, 1e12 * y, None, "peak") == there
    assert label(curve.steps, 1e6 + y, None, "peak") == there


def test_gaps_and_outliers_change_nothing_that_matters() -> None:
    curve = curves.rise_peak_decay(6)
    values = curve.values.copy()
    values[::9] = np.nan
    values[100] *= 1e4
    found = label(curve.steps, values, None, "peak")
    assert found.happened
    assert abs(found.step - labelled(curve).step) < 0.5 * curve.rise_steps


def test_what_a_resumed_run_lives_through_again_does_not_count() -> None:
    curve = curves.rise_peak_decay(6)
    steps = np.concatenate([curve.steps[:80], curve.steps[60:]])
    values = np.concatenate([curve.values[:80], 5 * curve.values[60:80], curve.values[80:]])
    assert label(steps, values, None, "peak") == label(curve.steps, curve.values, None, "peak")


def test_where_the_curve_turns_and_the_levels_do_not_nothing_is_labelled() -> None:
    mean = np.repeat([0.0, 1.0, 0.7, 1.0], [10, 50, 50, 25])  # the best curve pools the recovery into a fall
    found = label(*noisy(mean, 0), None, "peak")
    assert (found.happened, found.reason) == (None, "the fitted curve turns and the levels do not")


def test_a_long_series_is_averaged_in_blocks() -> None:
    t = np.arange(20_000.0)
    y = curves.bump(t, 6_000.0, 1.5) + 0.3 * np.random.default_rng(0).standard_normal(t.size)
    found = label(np.arange(t.size), y, None, "peak")
    assert found.happened
    assert found.between[0] <= 6_000 <= found.between[1]
    assert found.between[1] - found.between[0] < 4_000


@pytest.mark.parametrize("values", [[1.0] * 50, [1.0, 2.0, 1.0], [math.nan] * 50, [-1.0] * 50])
def test_what_cannot_be_judged_is_not_labelled(values: list[float]) -> None:
    found = label(range(len(values)), values, None, "peak", value_scale="log")
    assert found.happened is None
    assert "fewer than 12 values" in found.reason


# -- scores ---------------------------------------------------------------------------------------

PEAK = Label("peak", happened=True, step=100, between=(80, 120))
NONE = Label("peak", happened=False, reason="a curve without it fits as well")
UNKNOWN = Label("peak", happened=None, reason="too correlated")


@pytest.mark.parametrize(
    ("truth", "told", "finding"),
    [
        (PEAK, [160, 400], Scored("hit", 60)),
        (PEAK, [90], Scored("hit", 0)),
        (PEAK, [79, 160], Scored("false alarm")),
        (PEAK, [], Scored("miss")),
        (NONE, [50], Scored("false alarm")),
        (NONE, [], Scored("quiet")),
        (UNKNOWN, [50], Scored("not labelled")),
        (UNKNOWN, [], Scored("not labelled")),
    ],
)
def test_what_was_told_is_scored_against_the_label(truth: Label, told: list[int], finding: Scored) -> None:
    assert scored(truth, told) == finding


def test_a_score_counts_runs_that_are_labelled_and_tells_the_median_delay() -> None:
    told = [(PEAK, [160]), (PEAK, [140]), (PEAK, [300]), (PEAK, []), (NONE, [5]), (NONE, []), (UNKNOWN, [7])]
    score = Score.of(scored(truth, steps) for truth, steps in told)
    assert score == Score(3, 1, 1, 1, 1, 60.0)
    assert (score.labelled, score.false_alarm_rate) == (6, pytest.approx(1 / 6))
    low, high = score.false_alarm_interval
    assert low < 1 / 6 < high


def test_a_score_of_nothing_claims_nothing() -> None:
    score = Score.of([])
    assert (score.false_alarm_rate, score.false_alarm_interval, score.median_delay) == (None, (0.0, 1.0), None)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 10), (7, 300), (10, 10)])
def test_the_interval_of_a_rate_is_that_of_scipy(count: int, n: int) -> None:
    theirs = binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert wilson(count, n) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_a_count_beyond_what_it_is_out_of_is_refused() -> None:
    with pytest.raises(ValueError, match="Got 3 of 2"):
        wilson(3, 2)
