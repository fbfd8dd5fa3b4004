"""Lanczos quadrature, the second eigenvalue and the spectrum probe against dense eigenvalues."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators.lanczos import Krylov, krylov_of
from probe_agent.estimators.spectrum import negative_share, quadrature, second_eigenpair, spectral_density
from probe_agent.probe import Measurement
from probe_agent.probes.hessian_spectrum import HessianSpectrum
from probe_agent.probes.sharpness import Sharpness
from probe_agent.snapshot import Snapshot
from probe_wire import Outcome
from tests.curvature_problems import (
    CLASSES,
    KINDS,
    dense_hessian,
    half_squared_error,
    kind,
    labels,
    linear_regression,
    normal,
    snapshot_of,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def space(spectrum: Tensor, products: int, seed: int = 0) -> Krylov:
    krylov = Krylov(lambda v: spectrum * v, normal(len(spectrum), seed=seed))
    krylov.grow_to(products)
    return krylov


def measured(snapshot: Snapshot, **settings: Any) -> dict[str, Measurement]:
    return {m.quantity.name: m for m in HessianSpectrum(**settings).measure(snapshot, {})}


def test_k_nodes_integrate_polynomials_of_degree_2k_less_1_exactly() -> None:
    spectrum = normal(30, seed=4)
    krylov = space(spectrum, 5)
    nodes, weights = quadrature(krylov)
    q = krylov.basis[0]
    for degree in range(10):
        assert float(weights @ nodes**degree) == pytest.approx(float(q @ (spectrum**degree * q)), rel=1e-10, abs=1e-12)
    assert abs(float(weights @ nodes**10) - float(q @ (spectrum**10 * q))) > 1e-6


def test_half_of_a_symmetric_spectrum_is_negative_and_none_of_a_positive_one() -> None:
    symmetric = torch.cat([s := normal(400, seed=5).abs(), -s])
    share = negative_share(space(symmetric, 12))
    assert abs(share.value - 0.5) < 4 * share.stderr
    assert 0 < share.stderr < 0.1
    assert negative_share(space(s, 12)).value == 0
    assert negative_share(space(-s, 12)).value == 1


def test_the_standard_error_of_the_negative_share_covers_it() -> None:
    """A network's spectrum: a few outliers, a bulk at zero and a tail to both sides."""
    bulk = 0.02 * normal(1500, seed=2) ** 3
    spectrum = torch.cat([torch.tensor([5.0, 3.0, 2.0, 1.0, -0.5], dtype=torch.float64), bulk])
    truth = float(spectrum.clamp(max=0).abs().sum() / spectrum.abs().sum())
    shares = [negative_share(space(spectrum, 12, seed)) for seed in range(300)]
    covered = np.mean([abs(share.value - truth) < 1.96 * share.stderr for share in shares])
    assert 0.9 <= covered <= 0.99


def test_no_curvature_has_no_negative_share() -> None:
    assert negative_share(space(torch.zeros(20, dtype=torch.float64), 3)).outcome is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize(("products", "third"), [(6, 3.0), (6, 6.2), (7, 6.8), (10, 6.8), (40, 6.8)])
def test_the_second_eigenvalue_is_within_its_error(products: int, third: float) -> None:
    spectrum = torch.cat([torch.tensor([10.0, 7.0, third, -4.0]), torch.linspace(-0.2, 0.2, 36)]).double()
    for seed in range(20):
        krylov = space(spectrum, products, seed)
        value, error, weights = second_eigenpair(krylov)
        assert value - error <= 7 <= value + error
        vector = krylov.combination(weights)
        assert float(vector @ (spectrum * vector)) == pytest.approx(value)


def test_the_density_is_that_of_the_eigenvalues_smoothed() -> None:
    snapshot = kind("MLP", n=12)
    found = spectral_density(snapshot, runs=20, products=15, points=300)
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(snapshot)).numpy()
    kernels = np.exp(-(((found.grid[:, None] - eigenvalues) / found.width) ** 2) / 2)
    truth = kernels.mean(1) / (found.width * math.sqrt(2 * math.pi))
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-3)
    z = (found.density - truth) / (found.stderr + 1e-3 * truth.max())
    assert np.mean(np.abs(z) < 2.1) >= 0.9
    assert np.abs(z).max() < 6


def test_a_density_needs_two_runs() -> None:
    with pytest.raises(ValueError, match="runs=1"):
        spectral_density(kind("MLP"), runs=1)


@pytest.mark.parametrize("name", KINDS)
def test_both_values_are_the_dense_eigenvalues(name: str) -> None:
    snapshot = kind(name, n=12)
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(snapshot))
    found = measured(snapshot, products=50)
    assert found["hessian_lambda_min"].estimate.value == pytest.approx(float(eigenvalues[0]), rel=1e-5)
    gap = float(eigenvalues[-1] - eigenvalues[-2])
    assert found["hessian_spectral_gap"].estimate.value == pytest.approx(gap, rel=1e-5)
    assert {m.estimate.outcome for m in found.values()} == {Outcome.OK}


def test_it_shares_the_space_of_the_sharpness() -> None:
    snapshot = kind("LSTM", n=12)
    list(Sharpness(tolerance=0.3).measure(snapshot, {}))
    paid = krylov_of(snapshot).products
    measured(snapshot, products=paid + 2)
    assert krylov_of(snapshot).products == paid + 2


def test_the_standard_errors_cover_the_populations_values() -> None:
    """E[xxᵀ] = diag(9, 4, 4, 4, 1): λ_min = 1, gap = 5. A sample's λ_min lies below it by some 2 %, a quarter of its error."""
    scale = torch.tensor([3.0, 2, 2, 2, 1], dtype=torch.float64)
    z: dict[str, list[float]] = {"hessian_lambda_min": [], "hessian_spectral_gap": []}
    for seed in range(150):
        found = measured(linear_regression(normal(512, 5, seed=seed) * scale, seed=seed))
        for name, truth in (("hessian_lambda_min", 1.0), ("hessian_spectral_gap", 5.0)):
            estimate = found[name].estimate
            z[name].append((estimate.value - truth) / estimate.stderr)
    for values in z.values():
        assert 0.85 <= np.mean(np.abs(values) < 1.96) <= 0.99


def test_too_few_products_are_said_and_the_errors_still_hold_the_truth() -> None:
    snapshot = kind("GPT with fused attention", n=12)
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(snapshot))
    found = measured(snapshot, products=4, tolerance=0.001)
    for name in ("hessian_lambda_min", "hessian_spectral_gap"):
        assert found[name].estimate.outcome is Outcome.NOT_CONVERGED
    low = found["hessian_lambda_min"].estimate
    assert low.value - 3 * low.stderr <= float(eigenvalues[0]) <= low.value


def test_every_eigenvalue_the_same_has_no_gap() -> None:
    x = math.sqrt(6) * torch.linalg.qr(normal(6, 4)).Q
    found = measured(linear_regression(x))
    assert found["hessian_spectral_gap"].estimate.value == 0
    assert found["hessian_lambda_min"].estimate.value == pytest.approx(1)


def test_a_diverged_network_is_not_finite() -> None:
    snapshot = kind("MLP")
    with torch.no_grad():
        next(iter(snapshot.params.values())).fill_(math.nan)
    assert {m.estimate.outcome for m in measured(snapshot).values()} == {Outcome.NON_FINITE}


def test_what_it_is_not_defined_for_says_so() -> None:
    single = snapshot_of(nn.Linear(1, 1, bias=False).double(), normal(6, 1), normal(6, 1), half_squared_error)
    with pytest.raises(NotApplicable, match="single trainable parameter"):
        measured(single)
    flat = snapshot_of(nn.Linear(4, CLASSES).double(), normal(6, 4), labels(6), lambda outputs, _: outputs.mean())
    assert measured(flat)["hessian_negative_share"].estimate.outcome is Outcome.NOT_APPLICABLE
    assert measured(flat)["hessian_lambda_min"].estimate.value == 0


def test_the_same_columns_come_every_time() -> None:
    snapshot = kind("MLP")
    for at in (snapshot, replace(snapshot, step=7)):
        assert list(measured(at)) == [quantity.name for quantity in HessianSpectrum.quantities]


def test_settings_that_cannot_be_met_are_refused() -> None:
    for settings, words in (({"products": 1}, "products"), ({"tolerance": 0}, "tolerance"), ({"groups": 1}, "groups")):
        with pytest.raises(ValueError, match=words):
            HessianSpectrum(**settings)
