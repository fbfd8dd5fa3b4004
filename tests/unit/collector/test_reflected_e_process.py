"""The reflected e-process keeps its promise, and the unimodal fit finds the turn."""

import math

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from scipy.special import logsumexp

from collector.phases import turning_point
from collector.phases.reflection import RATES, fall, rise
from tests import curves


def test_it_is_the_definition_summed_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    y, sigma = rng.standard_normal(41), rng.uniform(0.5, 2.0, 41)
    unit = math.sqrt(np.mean(sigma**2))
    folds = fall(y, sigma)
    assert folds.log_e.size == 20
    for k in range(1, 21):
        b = y.size - k
        pairs = [(b - i, b + i - 1) for i in range(1, k + 1)]  # y[b-i+1], y[b+i] counted from one
        d = sum(y[left] - y[right] for left, right in pairs)
        v = sum(sigma[left] ** 2 + sigma[right] ** 2 for left, right in pairs)
        mixed = logsumexp([r / unit * d - (r / unit) ** 2 * v / 2 for r in RATES]) - math.log(len(RATES))
        assert folds.log_e[k - 1] == pytest.approx(mixed - math.log(b * (b + 1)), rel=1e-9)
        assert folds.before[k - 1] == pytest.approx(y[b - k : b].mean())
        assert folds.after[k - 1] == pytest.approx(y[b:].mean())


def _ever_crosses(y: np.ndarray, sigma: np.ndarray, alpha: float) -> bool:
    return any(fall(y[:n], sigma[:n]).log_e.max() >= math.log(1.0 / alpha) for n in range(2, y.size + 1))


@pytest.mark.parametrize("shape", ["flat", "rising", "uneven noise"])
def test_under_the_null_it_ever_crosses_no_more_often_than_alpha(shape: str) -> None:
    rng, runs, n, alpha = np.random.default_rng(1), 200, 60, 0.2
    mean = 0.02 * np.arange(n) if shape == "rising" else np.zeros(n)
    sigma = np.exp(rng.uniform(-1, 1, n)) if shape == "uneven noise" else np.ones(n)
    crossed = sum(_ever_crosses(mean + sigma * rng.standard_normal(n), sigma, alpha) for _ in range(runs))
    assert crossed <= runs * alpha + 4 * math.sqrt(runs * alpha * (1 - alpha))


def test_one_fold_is_worth_one_in_the_mean_when_nothing_changes() -> None:
    rng, k, draws = np.random.default_rng(2), 3, 400_000
    differences = rng.standard_normal((draws, k)).sum(axis=1) * math.sqrt(2)
    for rate in RATES[:3]:  # larger rates have no usable variance
        e = np.exp(rate * differences - rate**2 * k)
        assert abs(e.mean() - 1.0) < 4 * e.std() / math.sqrt(draws)


def test_a_fall_is_evidence_of_a_fall_and_not_of_a_rise() -> None:
    y, sigma = np.concatenate([np.ones(30), np.zeros(20)]), np.full(50, 0.3)
    assert fall(y, sigma).log_e.max() > math.log(1e6)
    assert rise(y, sigma).log_e.max() < 0.0
    assert int(fall(y, sigma).log_e.argmax()) == 19  # the fold where it fell


def test_a_rise_is_the_fall_of_the_mirror_image() -> None:
    y, sigma = np.random.default_rng(3).standard_normal(60), np.ones(60)
    assert np.array_equal(rise(-y, sigma).log_e, fall(y, sigma).log_e)
    assert np.array_equal(rise(-y, sigma).before, -fall(y, sigma).before)


def test_neither_unit_nor_level_matters() -> None:
    y, sigma = np.random.default_rng(4).standard_normal(80), np.full(80, 0.8)
    for unit, level in ((1e6, 0.0), (1e-6, 0.0), (1.0, 1e5)):
        assert np.allclose(fall(unit * y + level, unit * sigma).log_e, fall(y, sigma).log_e, rtol=0, atol=1e-6)


def test_overwhelming_evidence_does_not_overflow() -> None:
    y = np.concatenate([np.full(500, 1e6), np.zeros(500)])
    assert np.isfinite(fall(y, np.ones(1000)).log_e).all()


def test_the_same_arrays_give_the_same_bytes() -> None:
    y, sigma = np.random.default_rng(5).standard_normal(200), np.ones(200)
    assert fall(y, sigma).log_e.tobytes() == fall(y.copy(), sigma.copy()).log_e.tobytes()


def test_the_errors_of_rising_curves_are_those_of_isotonic_regression() -> None:
    rng = np.random.default_rng(6)
    y, weight = rng.standard_normal(40).cumsum(), rng.uniform(0.2, 3.0, 40)
    errors = turning_point._isotonic_errors(y, weight)
    for m in range(1, 40):
        fit = isotonic_regression(y[: m + 1], weights=weight[: m + 1]).x
        assert errors[m] == pytest.approx(float(np.sum(weight[: m + 1] * (y[: m + 1] - fit) ** 2)), abs=1e-9)


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


def test_a_curve_that_only_falls_peaked_at_its_start() -> None:
    y = np.linspace(1.0, 0.0, 50) + 0.01 * np.random.default_rng(7).standard_normal(50)
    assert turning_point.peak(y, np.full(50, 0.01)).at <= 1
