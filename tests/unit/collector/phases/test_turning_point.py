"""The best unimodal curve tells where a rise became a fall."""

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from collector.phases import isotonic, turning_point
from tests import curves


def test_the_errors_of_rising_curves_are_those_of_isotonic_regression() -> None:
    rng = np.random.default_rng(6)
    y, weight = rng.standard_normal(40).cumsum(), rng.uniform(0.2, 3.0, 40)
    errors = isotonic.prefix_errors(y, weight)
    for m in range(1, 40):
        fit = isotonic_regression(y[: m + 1], weights=weight[: m + 1]).x
        assert errors[m] == pytest.approx(float(np.sum(weight[: m + 1] * (y[: m + 1] - fit) ** 2)), abs=1e-9)


def test_the_rising_curve_nearest_to_a_series_is_that_of_isotonic_regression() -> None:
    rng = np.random.default_rng(8)
    y, weight = rng.standard_normal(60).cumsum(), rng.uniform(0.2, 3.0, 60)
    assert isotonic.isotonic(y, weight) == pytest.approx(isotonic_regression(y, weights=weight).x)


def test_the_interval_covers_the_true_peak() -> None:
    covered, widths = 0, []
    for seed in range(60):
        curve = curves.rise_peak_decay(seed, snr=20.0)
        at = turning_point.peak(np.log(curve.values[:100]), np.full(100, 0.05))
        covered += curve.steps[at.first] <= curve.turns[0] <= curve.steps[at.last]
        widths.append((curve.steps[at.last] - curve.steps[at.first]) / curve.rise_steps)
        assert at.first <= at.at <= at.last
    assert covered >= 0.8 * 60
    assert np.median(widths) < 1.0


@pytest.mark.parametrize("sd", [0.01, 0.2])
def test_the_interval_of_a_flat_top_reaches_to_its_end_and_not_far_beyond(sd: float) -> None:
    mean = np.concatenate([np.ones(100), np.linspace(1.0, 0.0, 30)])
    ends = [
        turning_point.peak(mean + sd * np.random.default_rng(seed).standard_normal(130), np.full(130, sd)).last
        for seed in range(60)
    ]
    assert sum(end >= 100 for end in ends) >= 0.8 * 60
    assert max(ends) <= 100 + 30 * min(1.0, 4.0 * sd) + 3


def test_a_curve_that_only_falls_peaked_at_its_start() -> None:
    y = np.linspace(1.0, 0.0, 50) + 0.01 * np.random.default_rng(7).standard_normal(50)
    assert turning_point.peak(y, np.full(50, 0.01)).at <= 1


def test_neither_unit_nor_level_matters() -> None:
    y = 1.0 - (np.arange(60.0) - 25.0) ** 2 / 900 + 0.05 * np.random.default_rng(9).standard_normal(60)
    plain = turning_point.peak(y, np.full(60, 0.05))
    assert turning_point.peak(1e6 * (y + 50.0), np.full(60, 0.05e6)) == plain
