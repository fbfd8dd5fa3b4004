"""The oracle: its distance is that of isotonic regression, and its delay follows the known law."""

from statistics import NormalDist

import numpy as np
import pytest
from curves.curve import Curve
from curves.noise import Noise
from curves.oracle import distances, oracle_delay, oracle_step
from curves.peaks import Hump, peak
from sklearn.isotonic import IsotonicRegression


def step_down(before: int, after: int, drop: float) -> Curve:
    mean = np.concatenate([np.full(before, 1.0), np.full(after, 1.0 - drop)])
    return Curve(
        steps=np.arange(mean.size),
        mean=mean,
        sd=np.ones(mean.size),
        values=mean,
        stderr=None,
        truth=before - 1,
        rise=1.0,
    )


def test_the_distance_of_a_step_down_is_the_harmonic_sum_of_both_sides() -> None:
    curve = step_down(before=6, after=4, drop=2.0)
    expected = [6 * m / (6 + m) * 2.0**2 for m in range(1, 5)]
    assert distances(curve.mean, curve.sd)[:6] == pytest.approx(0.0)
    assert distances(curve.mean, curve.sd)[6:] == pytest.approx(expected)


def test_half_of_runs_can_know_of_a_step_down_where_that_distance_reaches_the_quantile() -> None:
    drop = 1.0
    curve = step_down(before=40, after=20, drop=drop)
    curve = Curve(**{name: getattr(curve, name) for name in curve.__slots__} | {"truth": 0})
    needed = NormalDist().inv_cdf(0.99) ** 2
    after = next(m for m in range(1, 20) if 40 * m / (40 + m) * drop**2 >= needed)
    assert oracle_step(curve) == 40 + after - 1


def test_the_distance_is_that_of_weighted_isotonic_regression() -> None:
    rng = np.random.default_rng(0)
    mean, sd = rng.standard_normal(30), rng.uniform(0.5, 2.0, 30)
    expected = []
    for n in range(1, 31):
        fit = IsotonicRegression().fit_transform(np.arange(n), mean[:n], sample_weight=1.0 / sd[:n] ** 2)
        expected.append(float(np.sum(((mean[:n] - fit) / sd[:n]) ** 2)))
    assert distances(mean, sd) == pytest.approx(expected)


def test_a_curve_that_never_declines_can_never_be_called() -> None:
    assert np.all(distances(np.arange(10.0), np.ones(10)) == 0.0)
    assert oracle_step(step_down(before=10, after=0, drop=0.0)) is None


def test_a_decline_before_the_rise_is_no_evidence_of_a_peak() -> None:
    mean = np.array([9.0, 9.0, 9.0, 0.0, 1.0, 2.0, 3.0, 3.0, 3.0])
    curve = Curve(steps=np.arange(9), mean=mean, sd=np.ones(9), values=mean, stderr=None, truth=6, rise=3.0)
    assert oracle_step(curve) is None


def test_delay_falls_with_the_fifth_root_of_squared_snr_times_probes() -> None:
    for probes, snr in ((24, 10), (24, 50), (100, 10)):
        family = peak(Noise(float(snr)), Hump(rise=(probes, probes * 1.001)), 7 * probes)
        found = [oracle_delay(family(seed)) for seed in range(100)]
        assert np.median(found) == pytest.approx(5.7 * (snr**2 * probes) ** -0.2, rel=0.2)
