"""The Lanczos iteration against dense eigenvalues, on spectra that mislead it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.extremes import ONE_SIGMA, TopEigenpair, extreme, top_eigenpair
from probe_agent.estimators.hvp import hessian_of
from probe_agent.estimators.lanczos import Krylov, check_symmetry, krylov_of
from probe_wire import Outcome
from tests.curvature_problems import kind, normal

SPECTRA: dict[str, list[float]] = {
    "random": normal(40, seed=5).tolist(),
    "degenerate top": [3.0] * 3 + [1.0] * 20 + [0.1] * 17,
    "nearly degenerate top": [1.0, 0.999, 0.99, *([0.3] * 10), *([0.01] * 27)],
    "indefinite": [2.0, 1.0, -1.0, -1.5] + [0.0] * 36,
    "largest in magnitude is negative": [-50.0, 1.0, 0.9, *torch.linspace(-0.1, 0.1, 37).tolist()],
    "negative definite": (-torch.linspace(1, 30, 40)).tolist(),
    "rank one": [5.0] + [0.0] * 39,
    "negative rank one": [-5.0] + [0.0] * 39,
    "identity": [2.0] * 40,
    "zero": [0.0] * 40,
    "one dimension": [-0.7],
    "two dimensions": [1.0, -1.0],
    "outliers on a bulk": [10.0, 7.0, 3.0, *torch.linspace(-0.2, 0.2, 37).tolist()],
    "tiny": (1e-12 * torch.linspace(-1, 1, 40)).tolist(),
    "huge": (1e12 * torch.linspace(-1, 1, 40)).tolist(),
}


def symmetric(spectrum: Sequence[float], seed: int) -> tuple[Tensor, Tensor]:
    """A random matrix of that spectrum and its eigenvectors in columns."""
    n = len(spectrum)
    vectors = torch.linalg.qr(normal(n, n, seed=seed)).Q
    return (vectors * torch.tensor(spectrum, dtype=torch.float64)) @ vectors.T, vectors


def solved(
    product: Callable[[Tensor], Tensor],
    n: int,
    seed: int,
    *,
    tolerance: float = 0.02,
    risk: float = 0.05,
    cap: int = 100,
) -> TopEigenpair:
    return top_eigenpair(Krylov(product, normal(n, seed=1000 + seed)), tolerance=tolerance, risk=risk, max_products=cap)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_interval_holds_the_largest_eigenvalue(name: str) -> None:
    truth = max(SPECTRA[name])
    for seed in range(25):
        matrix, _ = symmetric(SPECTRA[name], seed)
        pair = solved(lambda v, m=matrix: m @ v, len(matrix), seed, risk=1e-4)
        assert pair.outcome is Outcome.OK
        scale = max(map(abs, SPECTRA[name]))
        assert pair.value - 1e-13 * scale <= truth <= pair.value + pair.reach
        assert pair.error <= pair.reach <= 0.2 * abs(pair.value) or pair.reach < 1e-12 * scale
        assert pair.products <= len(matrix)


@pytest.mark.parametrize("risk", [0.05, 0.5])
def test_the_interval_misses_no_more_often_than_its_risk(risk: float) -> None:
    """Against the spectrum that hides best: a second eigenvalue just below the first, all others far away."""
    n, seeds = 500, 200
    spectrum = 0.01 * normal(n)
    spectrum[:4] = torch.tensor([1.03, 1.0, 0.5, 0.3])
    pairs = [solved(lambda v: spectrum * v, n, seed, risk=risk, tolerance=0.002) for seed in range(seeds)]
    for bound, chance in (([p.reach for p in pairs], risk), ([p.error for p in pairs], ONE_SIGMA)):
        missed = np.mean([pair.value + reach < 1.03 for pair, reach in zip(pairs, bound, strict=True)])
        assert missed <= chance + 3 * math.sqrt(chance * (1 - chance) / seeds)
        assert missed > 0 or chance < 0.1  # the bound is nearly sharp here, so the test can see one that is wrong


def test_a_residual_alone_would_be_believed_too_soon() -> None:
    """A warm start: yesterday's top eigenvector, today the second, and noise. Its residual is met before it is right.

    It finds the answer in the end, but its noise has to be amplified as from a cold start, so that the
    interval takes no fewer products than it does from noise alone. So the iteration takes no hint.
    """
    n = 2000
    spectrum = 0.01 * normal(n)
    spectrum[:2] = torch.tensor([1.5, 1.0])
    yesterday = torch.zeros(n, dtype=torch.float64)
    yesterday[1] = math.sqrt(n)

    def residual(pair: TopEigenpair) -> float:
        return float(torch.linalg.vector_norm(spectrum * pair.vector - pair.value * pair.vector))

    warm, cold = [], []
    for seed in range(20):
        noise = normal(n, seed=seed)
        early = top_eigenpair(
            Krylov(lambda v: spectrum * v, yesterday + noise), tolerance=0.02, risk=0.05, max_products=2
        )
        assert early.value == pytest.approx(1.0, abs=0.02)
        assert residual(early) ** 2 < 0.02
        assert early.outcome is Outcome.NOT_CONVERGED
        pair = top_eigenpair(
            Krylov(lambda v: spectrum * v, yesterday + noise), tolerance=0.02, risk=0.05, max_products=50
        )
        assert pair.value == pytest.approx(1.5, rel=0.02)
        warm.append(pair.products)
        cold.append(solved(lambda v: spectrum * v, n, seed).products)
    assert sum(warm) >= sum(cold)


def test_the_vector_belongs_to_the_value() -> None:
    matrix, vectors = symmetric(SPECTRA["outliers on a bulk"], 0)
    pair = solved(lambda v: matrix @ v, 40, 0, tolerance=1e-10)
    assert float(pair.vector.norm()) == pytest.approx(1)
    assert float(pair.vector @ matrix @ pair.vector) == pytest.approx(pair.value)
    assert abs(float(pair.vector @ vectors[:, 0])) == pytest.approx(1)


def test_the_gap_is_below_the_true_one_and_near_it() -> None:
    for seed in range(20):
        matrix, _ = symmetric(SPECTRA["outliers on a bulk"], seed)
        pair = solved(lambda v, m=matrix: m @ v, 40, seed, tolerance=1e-8)
        assert 2.99 < pair.gap <= 3 + 1e-6


def test_an_exhausted_space_ends_exactly() -> None:
    for name, products in (("identity", 1), ("zero", 1), ("one dimension", 1), ("rank one", 2), ("two dimensions", 2)):
        matrix, _ = symmetric(SPECTRA[name], 3)
        pair = solved(lambda v, m=matrix: m @ v, len(matrix), 3, tolerance=1e-15)
        assert (pair.products, pair.outcome) == (products, Outcome.OK)
        assert pair.value == pytest.approx(max(SPECTRA[name]), abs=1e-12)
    assert solved(lambda v: -v, 1, 0).gap == math.inf


def test_a_cap_on_products_is_kept_and_said() -> None:
    matrix, _ = symmetric(SPECTRA["random"], 0)
    pair = solved(lambda v: matrix @ v, 40, 0, cap=3)
    assert (pair.products, pair.outcome) == (3, Outcome.NOT_CONVERGED)
    assert pair.value < max(SPECTRA["random"]) <= pair.value + pair.reach  # the interval still holds it


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_product_that_is_not_finite_ends_it(bad: float) -> None:
    pair = solved(lambda v: v * bad, 10, 0)
    assert (pair.outcome, pair.products) == (Outcome.NON_FINITE, 1)
    assert math.isnan(pair.value)
    assert math.isnan(pair.error)
    slope, late = torch.linspace(0, 1, 10, dtype=torch.float64), [1.0, 1.0, bad]
    pair = solved(lambda v: slope * v * late.pop(0), 10, 0, tolerance=1e-12)
    assert (pair.outcome, pair.products) == (Outcome.NON_FINITE, 3)


def test_an_operator_that_is_not_symmetric_is_noticed() -> None:
    matrix, _ = symmetric(SPECTRA["outliers on a bulk"], 0)
    whole = Krylov(lambda v: matrix @ v, normal(40))
    whole.grow_to(10)
    assert whole.asymmetry < 1e-13
    check_symmetry(whole)
    matrix[:20, 20:] = 0
    torn = Krylov(lambda v: matrix @ v, normal(40))
    torn.grow_to(10)
    with pytest.raises(NotApplicable, match="not symmetric"):
        check_symmetry(torn)


def test_single_precision_is_enough() -> None:
    for seed in range(20):
        matrix, _ = symmetric(SPECTRA["outliers on a bulk"], seed)
        single = matrix.float()
        pair = top_eigenpair(
            Krylov(lambda v, m=single: m @ v, normal(40, seed=seed).float()), tolerance=1e-3, max_products=40
        )
        assert pair.outcome is Outcome.OK
        assert pair.vector.dtype == torch.float32
        assert abs(pair.value - 10) <= max(pair.error, 1e-5)


def test_the_operators_own_result_is_not_written_to() -> None:
    kept: list[Tensor] = []
    copies: list[Tensor] = []
    matrix, _ = symmetric(SPECTRA["random"], 0)

    def product(v: Tensor) -> Tensor:
        kept.append(matrix @ v)
        copies.append(kept[-1].clone())
        return kept[-1]

    solved(product, 40, 0)
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize("name", SPECTRA)
def test_both_ends_come_from_one_space(name: str) -> None:
    low, high = min(SPECTRA[name]), max(SPECTRA[name])
    scale = max(abs(low), abs(high))
    for seed in range(10):
        matrix, _ = symmetric(SPECTRA[name], seed)
        for products in (2, 5, 40):
            krylov = Krylov(lambda v, m=matrix: m @ v, normal(len(matrix), seed=seed))
            krylov.grow_to(products)
            top, bottom = extreme(krylov, "top", risk=1e-4), extreme(krylov, "bottom", risk=1e-4)
            assert top.value - 1e-13 * scale <= high <= top.value + top.reach
            assert bottom.value - bottom.reach <= low <= bottom.value + 1e-13 * scale
            assert max(top.residual, bottom.residual) <= max(top.reach, bottom.reach)


@pytest.mark.parametrize("name", ["random", "indefinite", "largest in magnitude is negative", "outliers on a bulk"])
def test_the_bottom_is_the_top_of_the_negated_operator(name: str) -> None:
    matrix, _ = symmetric(SPECTRA[name], 0)
    plain, negated = Krylov(lambda v: matrix @ v, normal(40)), Krylov(lambda v: -matrix @ v, normal(40))
    for krylov in (plain, negated):
        krylov.grow_to(6)
    bottom, top = extreme(plain, "bottom"), extreme(negated, "top")
    assert bottom.value == pytest.approx(-top.value)
    assert [bottom.error, bottom.reach, bottom.gap] == pytest.approx([top.error, top.reach, top.gap])


def test_growing_takes_only_the_products_that_are_missing() -> None:
    matrix, _ = symmetric(SPECTRA["random"], 0)
    taken = []
    krylov = Krylov(lambda v: taken.append(1) or matrix @ v, normal(40))
    for products in (3, 2, 7):
        krylov.grow_to(products)
    assert len(taken) == krylov.products == 7
    q = torch.stack(krylov.basis)
    torch.testing.assert_close(q @ q.T, torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(q @ matrix @ q.T, torch.from_numpy(krylov.tridiagonal), rtol=0, atol=1e-12)


def test_the_probes_of_a_snapshot_share_one_space_and_one_graph() -> None:
    snapshot = kind("LayerNorm")
    krylov_of(snapshot).grow_to(3)
    assert krylov_of(snapshot).products == 3
    assert hessian_of(snapshot) is hessian_of(snapshot)
    later = replace(snapshot, step=1)
    assert krylov_of(later).products == 0
    krylov_of(later).grow_to(1)
    assert not torch.equal(krylov_of(later).basis[0], krylov_of(snapshot).basis[0])  # a new start at every step
