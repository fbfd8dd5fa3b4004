"""The sign test counts pairs and keeps its promise whatever the tails."""

import itertools
import math

import numpy as np
import pytest

from collector.phases.reflection import log_weight
from collector.phases.signs import CHANCES, LEAST, LONGEST, fallen


def counted(y: list[float], before: int) -> float:
    """The definition, pair by pair over all folds."""
    best = -math.inf
    for k in range(LEAST, min(LONGEST, len(y) // 2) + 1):
        split = len(y) - k
        lower = sum(y[split + i] < y[split - 1 - i] for i in range(k))
        e = sum((2 * p) ** lower * (2 * (1 - p)) ** (k - lower) for p in CHANCES) / len(CHANCES)
        best = max(best, math.log(e) + float(log_weight(np.array([float(before + split)]))[0]))
    return best


@pytest.mark.parametrize("n", [7, 8, 9, 30, 96, 97])
@pytest.mark.parametrize("before", [0, 13])
def test_it_is_the_definition_counted_pair_by_pair(n: int, before: int) -> None:
    rng = np.random.default_rng(n)
    for drift in (0.0, -0.3, 0.3):
        y = rng.standard_normal(n) + drift * np.arange(n)
        assert fallen(y, before) == pytest.approx(counted(y.tolist(), before), rel=1e-12)


def test_fewer_than_four_pairs_say_nothing() -> None:
    assert fallen(np.arange(7.0), 100) == -math.inf


def test_a_fold_has_under_the_null_the_mean_of_its_weight() -> None:
    fair = itertools.product((-1.0, 1.0), repeat=4)  # pairs are fair coins, whatever the noise
    e = [math.exp(fallen(np.array([0.0, 0.0, 0.0, 0.0, *pattern]), 0)) for pattern in fair]
    assert np.mean(e) == pytest.approx(float(np.exp(log_weight(np.array([4.0]))[0])), rel=1e-12)


@pytest.mark.parametrize("noise", ["gauss", "cauchy"])
def test_under_the_null_it_ever_crosses_no_more_often_than_alpha(noise: str) -> None:
    rng, runs, n, alpha = np.random.default_rng(0), 150, 70, 0.2
    crossed = 0
    for _ in range(runs):
        y = rng.standard_normal(n) if noise == "gauss" else rng.standard_cauchy(n)
        crossed += any(fallen(y[:m], 0) >= math.log(1 / alpha) for m in range(8, n))
    assert crossed <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_values_that_are_all_the_same_have_not_fallen() -> None:
    assert fallen(np.ones(60), 0) < 0.0


def test_a_long_fall_is_certain_by_its_signs_and_a_rise_is_not() -> None:
    y = np.concatenate([np.ones(40), np.zeros(40)]) + 0.01 * np.random.default_rng(1).standard_normal(80)
    assert fallen(y, 0) > math.log(1000)
    assert fallen(-y, 0) < 0.0
    assert fallen(np.exp(5 * y), 0) == fallen(y, 0)  # no size matters


def test_a_giant_counts_once() -> None:
    y = np.random.default_rng(2).standard_normal(60)
    wild = y.copy()
    wild[-3] = -1e30
    assert fallen(wild, 0) <= fallen(y, 0) + math.log(2 * max(CHANCES) / (2 * (1 - max(CHANCES))))
