"""In hindsight too the noise of a whole series is known without its trend, and wild values are replaced."""

import math

import numpy as np
import pytest

from collector.phases.hindsight.noise import HAMPEL, chord_residuals, hampel, robust_sigma
from collector.phases.hindsight.past import FLOOR, LEAST, MOST, Past, past


def test_a_straight_trend_leaves_no_residual_at_any_spacing() -> None:
    x = np.cumsum(np.random.default_rng(0).exponential(5.0, 50))
    assert np.abs(chord_residuals(x, 3.0 - 0.2 * x)).max() < 1e-12
    assert np.abs(chord_residuals(x, 3.0 - 0.2 * x, block=2)).max() < 1e-12


@pytest.mark.parametrize("block", [1, 2, 3])
def test_residuals_of_uneven_white_noise_have_the_sd_of_one_probe(block: int) -> None:
    rng = np.random.default_rng(1)
    x = np.cumsum(rng.uniform(1.0, 3.0, 20_000))
    assert np.std(chord_residuals(x, 0.7 * rng.standard_normal(x.size), block)) == pytest.approx(0.7, rel=0.05)


def test_too_few_probes_for_a_chord_have_no_residual() -> None:
    assert chord_residuals(np.arange(2.0), np.zeros(2)).size == 0
    assert chord_residuals(np.arange(5.0), np.zeros(5), block=2).size == 0
    assert math.isnan(robust_sigma(np.empty(0)))


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


def test_quantised_values_still_have_noise() -> None:
    y = np.where(np.arange(40) % 10 == 9, 2.0, 1.0)
    assert robust_sigma(chord_residuals(np.arange(40.0), y)) > 0.01
    assert robust_sigma(np.zeros(10)) == 0.0


@pytest.mark.parametrize("at", [0, 1, 20, 38, 39], ids=lambda at: f"probe {at}")
def test_one_giant_is_replaced_wherever_it_is(at: int) -> None:
    y = 0.1 * np.random.default_rng(7).standard_normal(40)
    y[at] = 50.0
    cleaned, replaced = hampel(y, np.full(40, 0.1))
    assert replaced.nonzero()[0].tolist() == [at]
    assert abs(cleaned[at]) < 0.4
    assert np.array_equal(np.delete(cleaned, at), np.delete(y, at))


def test_three_wild_values_in_a_row_are_replaced() -> None:
    y = 0.1 * np.random.default_rng(8).standard_normal(40)
    y[20:23] = 2.0
    assert hampel(y, np.full(40, 0.1))[1].nonzero()[0].tolist() == [20, 21, 22]


def test_a_rise_within_the_first_probes_is_not_an_outlier() -> None:
    y = np.concatenate([[-3.0, -1.5, -0.6], 0.02 * np.random.default_rng(9).standard_normal(30)])
    assert not hampel(y, np.full(y.size, 0.05))[1].any()


def test_a_steady_trend_is_not_an_outlier_anywhere() -> None:
    assert not hampel(np.arange(30.0), np.full(30, 0.01))[1].any()


def test_fewer_probes_than_the_window_are_left_alone() -> None:
    y = np.array([0.0, 0.0, 99.0, 0.0, 0.0, 0.0])
    assert y.size < HAMPEL
    assert not hampel(y, np.full(6, 0.1))[1].any()


# -- what a past makes of it ----------------------------------------------------------------------


def whole(y: np.ndarray, paired: np.ndarray | None = None) -> Past:
    made = past(np.arange(y.size) * 10, y, paired, "linear", "linear")
    assert made is not None
    return made


def test_a_past_knows_the_noise_from_both_sides() -> None:
    rng = np.random.default_rng(10)
    y = np.linspace(0.0, 3.0, 200) + np.where(np.arange(200) < 100, 0.1, 0.4) * rng.standard_normal(200)
    made = whole(y)
    assert np.median(made.sigma[:80]) / np.median(made.sigma[120:]) == pytest.approx(0.25, abs=0.12)


def test_a_past_believes_the_larger_of_seen_and_reported_noise() -> None:
    y = np.linspace(0.0, 3.0, 100) + 0.1 * np.random.default_rng(11).standard_normal(100)
    reported = np.full(100, 0.05)
    reported[40:60] = 3.0
    made = whole(y, reported)
    assert made.sigma[40:60].min() > 5 * made.sigma[:40].max()


def test_a_past_without_noise_is_not_believed_to_the_last_digit() -> None:
    made = whole(np.linspace(3.0, 4.0, 50))
    assert made.sigma.min() / np.ptp(made.y) >= 0.9 * FLOOR


def test_a_long_past_is_averaged_in_blocks_and_a_short_one_is_none() -> None:
    y = np.random.default_rng(12).standard_normal(3000)
    assert MOST / 2 <= whole(y).y.size <= MOST
    assert past(np.arange(LEAST - 1), y[: LEAST - 1], None, "linear", "linear") is None
    assert past(np.arange(100), np.ones(100), None, "linear", "linear") is None


def test_a_past_leaves_out_what_its_axis_cannot_show_and_what_was_lived_twice() -> None:
    y = np.exp(0.1 * np.random.default_rng(13).standard_normal(40))
    steps = np.arange(40)
    steps[20:23] = [5, 6, 7]
    y[[3, 4, 30]] = [np.nan, -1.0, np.inf]
    made = past(steps, y, None, "log", "linear")
    assert made is not None
    assert made.steps.tolist() == [step for i, step in enumerate(range(40)) if i not in {3, 4, 20, 21, 22, 30}]
