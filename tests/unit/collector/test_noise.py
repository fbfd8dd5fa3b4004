"""The noise of a series is known without its trend, and wild values are replaced before any test."""

import math

import numpy as np
import pytest

from collector.phases.noise import FLOOR, chord_residuals, clean, hampel, robust_sigma
from collector.phases.series import Points, Series


def points(y: np.ndarray, paired: np.ndarray | float = math.nan, x: np.ndarray | None = None) -> Points:
    x = np.arange(y.size, dtype=np.float64) if x is None else x
    return Points(x.astype(np.int64), x, y, np.broadcast_to(np.asarray(paired, dtype=np.float64), y.shape))


def test_a_straight_trend_leaves_no_residual_at_any_spacing() -> None:
    x = np.cumsum(np.random.default_rng(0).exponential(5.0, 50))
    assert np.abs(chord_residuals(x, 3.0 - 0.2 * x)).max() < 1e-12
    assert np.abs(chord_residuals(x, 3.0 - 0.2 * x, block=2)).max() < 1e-12


@pytest.mark.parametrize("block", [1, 2, 3])
def test_residuals_of_uneven_white_noise_have_the_sd_of_one_probe(block: int) -> None:
    rng = np.random.default_rng(1)
    x = np.cumsum(rng.uniform(1.0, 3.0, 20_000))
    assert np.std(chord_residuals(x, 0.7 * rng.standard_normal(x.size), block)) == pytest.approx(0.7, rel=0.05)


def test_a_third_of_wild_values_hardly_moves_the_robust_sigma() -> None:
    rng = np.random.default_rng(2)
    residuals = rng.standard_normal(3000)
    residuals[:900] *= 1000.0
    assert 1.0 < robust_sigma(residuals) < 2.0


def test_few_residuals_rarely_promise_less_noise_than_there_is() -> None:
    rng = np.random.default_rng(3)
    sigmas = [robust_sigma(chord_residuals(np.arange(10.0), rng.standard_normal(10))) for _ in range(400)]
    assert np.median(sigmas) > 1.1
    assert np.mean(np.array(sigmas) < 0.5) < 0.08


def test_the_noise_of_two_probes_is_unknown() -> None:
    assert np.isnan(clean(points(np.array([1.0, 2.0])), relative=True).sigma).all()


def test_quantised_values_still_have_noise() -> None:
    y = np.where(np.arange(40) % 10 == 9, 2.0, 1.0)
    assert robust_sigma(chord_residuals(np.arange(40.0), y)) > 0.01
    assert robust_sigma(np.zeros(10)) == 0.0


def test_the_larger_of_seen_and_reported_noise_is_believed() -> None:
    y = 0.1 * np.random.default_rng(4).standard_normal(200)
    alone = clean(points(y), relative=True).sigma
    assert np.array_equal(clean(points(y, paired=0.02), relative=True).sigma, alone)
    assert (clean(points(y, paired=0.5), relative=True).sigma >= 0.5).all()


def test_a_curve_without_noise_is_not_believed_to_the_last_digit() -> None:
    assert (clean(points(np.linspace(3.0, 4.0, 50)), relative=True).sigma >= FLOOR).all()
    assert (clean(points(np.linspace(300.0, 400.0, 50)), relative=False).sigma >= FLOOR * 350).all()


def test_correlated_noise_is_seen_in_means_of_two() -> None:
    rng = np.random.default_rng(5)
    y = rng.standard_normal(2000)
    for i in range(1, y.size):
        y[i] = 0.6 * y[i - 1] + 0.8 * y[i]  # sd 1
    single = robust_sigma(chord_residuals(np.arange(y.size), y))
    assert np.median(clean(points(y), relative=True).sigma) > 1.2 * single


def test_noise_that_grows_is_seen_where_it_grew() -> None:
    rng = np.random.default_rng(6)
    sigma = clean(points(rng.standard_normal(300) * np.where(np.arange(300) < 200, 0.1, 1.0)), relative=True).sigma
    assert np.median(sigma[:150]) < 0.2
    assert np.median(sigma[250:]) > 0.6


@pytest.mark.parametrize("at", [0, 1, 20, 38, 39], ids=lambda at: f"probe {at}")
def test_one_giant_is_replaced_wherever_it_is(at: int) -> None:
    y = 0.1 * np.random.default_rng(7).standard_normal(40)
    y[at] = 50.0
    cleaned = clean(points(y), relative=True)
    assert cleaned.replaced.sum() == 1
    assert cleaned.replaced[at]
    assert abs(cleaned.y[at]) < 0.4


def test_three_wild_values_in_a_row_are_replaced() -> None:
    y = 0.1 * np.random.default_rng(8).standard_normal(40)
    y[20:23] = 2.0
    assert clean(points(y), relative=True).replaced.nonzero()[0].tolist() == [20, 21, 22]


def test_a_rise_within_the_first_probes_is_not_an_outlier() -> None:
    y = np.concatenate([[-3.0, -1.5, -0.6], 0.02 * np.random.default_rng(9).standard_normal(30)])
    assert not hampel(y, np.full(y.size, 0.05))[1].any()


def test_a_steady_trend_is_not_an_outlier_anywhere() -> None:
    assert not hampel(np.arange(30.0), np.full(30, 0.01))[1].any()


def test_a_series_skips_what_its_axis_cannot_show_and_counts_it() -> None:
    series = Series("log", "log")
    taken = [series.append(i, value) for i, value in enumerate([1.0, 0.0, -1.0, math.nan, math.inf, 2.0])]
    assert taken == [True, False, False, False, False, True]
    assert (len(series), series.skipped) == (2, 4)
    assert not series.append(5, 1.0)
    assert not series.append(3, 1.0)
    assert series.behind == 2
    assert series.points().y.tolist() == [0.0, math.log(2.0)]
    assert series.points().x.tolist() == [0.0, math.log(6.0)]


def test_a_paired_error_that_is_no_error_is_unknown() -> None:
    series = Series("log")
    for step, paired in enumerate([0.5, math.nan, -1.0, math.inf]):
        series.append(step, 2.0, paired)
    assert series.points().paired[0] == 0.25
    assert np.isnan(series.points().paired[1:]).all()


def test_a_full_series_thins_its_past_and_keeps_its_present() -> None:
    series = Series(cap=64)
    for step in range(1000):
        series.append(step, float(step))
    steps = series.points().steps
    assert len(series) <= 64
    assert series.thinned == 1000 - len(series)
    assert steps[0] == 0
    assert steps[-32:].tolist() == list(range(968, 1000))
    assert (np.diff(steps) > 0).all()


def test_a_cap_too_small_to_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        Series(cap=4)
