"""Ranks against closed forms, the influence of each sample against a derivative, and coverage of the error bars."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.features import Features, features_of
from probe_agent.estimators.ranks import effective_rank, spectrum, srank, stable_rank
from tests.curvature_problems import normal


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Hundreds of tiny decompositions: threads that wait for one another would take most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ranks(h: Tensor, *, centred: bool = False) -> tuple[float, float, float]:
    of = spectrum(features_of(h), centred=centred)
    effective, stable, reached = (
        mean_of(draws).value for draws in (effective_rank(of), stable_rank(of), srank(of, 0.01))
    )
    return effective, stable, reached


@pytest.mark.parametrize("shape", [(20, 6), (6, 20)])
def test_orthonormal_features_have_rank_k_by_every_definition(shape: tuple[int, int]) -> None:
    q = torch.linalg.qr(normal(20, 6)).Q
    assert ranks(q if shape == (20, 6) else q.T) == pytest.approx((6, 6, 6))


@pytest.mark.parametrize("width", [6, 40])
def test_an_outer_product_has_rank_one(width: int) -> None:
    assert ranks(normal(20, 1) @ normal(1, width, seed=1)) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("width", [6, 40])
def test_features_that_are_zero_have_rank_zero(width: int) -> None:
    zero = torch.zeros(20, width, dtype=torch.float64)
    assert ranks(zero) == (0, 0, 0)
    assert ranks(zero + 3, centred=True) == (0, 0, 0)
    assert mean_of(effective_rank(spectrum(features_of(zero), centred=False))).stderr == 0


def test_geometric_singular_values_have_closed_forms() -> None:
    singular = 2.0 ** -torch.arange(8, dtype=torch.float64)
    h = torch.linalg.qr(normal(20, 8)).Q * singular
    p = singular / singular.sum()
    effective, stable, reached = ranks(h)
    assert effective == pytest.approx(math.exp(-float((p * p.log()).sum())))
    assert stable == pytest.approx(float(singular.square().sum()))
    assert reached == 7  # 1 - 2^-7 > 0.99 (1 - 2^-8) > 1 - 2^-6


@pytest.mark.parametrize("k", range(2, 30))
def test_a_sum_that_is_reached_exactly_is_reached(k: int) -> None:
    of = spectrum(features_of(torch.linalg.qr(normal(30, k)).Q), centred=False)
    assert srank(of, 1 / k).mean() == pytest.approx(k - 1)


def test_neither_scale_nor_rotation_changes_a_rank() -> None:
    h, rotation = normal(20, 6).relu(), torch.linalg.qr(normal(6, 6, seed=1)).Q
    assert ranks(1e-3 * h @ rotation) == pytest.approx(ranks(h))


def test_features_that_are_not_finite_have_no_rank() -> None:
    for width in (6, 40):
        h = normal(20, width)
        h[3, 2] = math.inf
        assert all(math.isnan(rank) for rank in ranks(h))


def weighted(h: Tensor, weights: Tensor) -> tuple[float, float, float]:
    """Effective and stable rank, and the point between whole numbers that srank rounds up, of weighted samples."""
    singular = torch.linalg.svdvals(weights.sqrt()[:, None] * h)
    p = singular / singular.sum()
    reached = torch.cat([p.new_zeros(1), p.cumsum(0)])
    k = int((reached[1:] < 0.7).sum())
    point = k + (0.7 - reached[k]) / p[k]
    return float((-(p * p.log()).sum()).exp()), float((singular / singular[0]).square().sum()), float(point)


@pytest.mark.parametrize("width", [6, 40])
def test_draws_are_the_rank_plus_the_influence_of_each_sample(width: int) -> None:
    n, step = 20, 1e-6
    h = normal(n, width).relu() + 0.1
    of = spectrum(features_of(h), centred=False)
    draws = (effective_rank(of), stable_rank(of), srank(of, 0.3))
    ones = torch.ones(n, dtype=torch.float64)
    for i in (0, 7):
        up, down = ones.clone(), ones.clone()
        up[i] += step
        down[i] -= step
        slopes = [(a - b) / (2 * step) for a, b in zip(weighted(h, up), weighted(h, down), strict=True)]
        for draw, slope in zip(draws, slopes, strict=True):
            assert draw[i] - draw.mean() == pytest.approx(n * slope, rel=1e-4, abs=1e-6)
    assert draws[2].mean() == pytest.approx(math.ceil(weighted(h, ones)[2]))


def relu_features(n: int, seed: int) -> Features:
    mixing = normal(20, 30, seed=12345) / math.sqrt(20)
    return features_of((normal(n, 20, seed=seed) @ mixing - 0.3).relu())


def covered(values: list[float], errors: list[float]) -> float:
    off = np.abs(np.array(values) - np.mean(values))
    return float(np.mean(off < 1.96 * np.array(errors)))


def test_standard_errors_cover_the_rank_of_as_many_samples() -> None:
    found: list[tuple[Draws, Draws]] = []
    for seed in range(300):
        of = spectrum(relu_features(128, seed), centred=False)
        found.append((effective_rank(of), stable_rank(of)))
    for draws in zip(*found, strict=True):
        estimates = [mean_of(d) for d in draws]
        assert 0.9 <= covered([e.value for e in estimates], [e.stderr for e in estimates]) <= 0.99
