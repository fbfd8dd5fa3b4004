"""The Gauss-Newton matrix against dense Jacobians and closed forms, and its probe."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators.fisher import fisher_draws
from probe_agent.estimators.gauss_newton import GaussNewtonProduct
from probe_agent.likelihood import IGNORED, Categorical, Gaussian, Likelihood
from probe_agent.probe import Measurement
from probe_agent.probes.gauss_newton import GaussNewton
from probe_agent.snapshot import Snapshot
from probe_wire import Outcome
from tests.curvature_problems import (
    CLASSES,
    KINDS,
    dense_gauss_newton,
    dense_hessian,
    kind,
    labels,
    normal,
    snapshot_of,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def measured(snapshot: Snapshot, **settings: Any) -> Measurement:
    [measurement] = GaussNewton(**settings).measure(snapshot, {})
    return measurement


def softmax_regression(n: int = 15, seed: int = 0, scale: float = 1.0) -> Snapshot:
    model = nn.Linear(4, CLASSES, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(normal(CLASSES, 4, seed=3))
    x = normal(n, 4, seed=seed) * torch.tensor([scale, 1, 1, 1])
    return snapshot_of(model, x, labels(n), likelihood=Categorical(), seed=seed)


@pytest.mark.parametrize("name", KINDS)
def test_a_product_is_the_dense_matrix_times_the_vector(name: str) -> None:
    snapshot = kind(name)
    dense = dense_gauss_newton(snapshot)
    product = GaussNewtonProduct(snapshot)
    assert product.dimension == len(dense)
    for seed in range(2):
        v = normal(product.dimension, seed=seed)
        torch.testing.assert_close(product(v), dense @ v, rtol=1e-9, atol=1e-11)
        assert product.draws(v).mean() == pytest.approx(float(v @ dense @ v), rel=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_the_value_is_the_largest_eigenvalue(name: str) -> None:
    snapshot = kind(name, n=12)
    truth = float(torch.linalg.eigvalsh(dense_gauss_newton(snapshot))[-1])
    estimate = measured(snapshot, tolerance=1e-4, max_products=200).estimate
    assert estimate.outcome is Outcome.OK
    assert estimate.value == pytest.approx(truth, rel=1e-4)


def test_a_model_linear_in_its_parameters_has_the_hessian_for_gauss_newton_matrix() -> None:
    snapshot = softmax_regression()
    torch.testing.assert_close(dense_gauss_newton(snapshot), dense_hessian(snapshot))
    product = GaussNewtonProduct(snapshot)
    columns = torch.stack([product(e) for e in torch.eye(product.dimension, dtype=torch.float64)])
    torch.testing.assert_close(columns, dense_hessian(snapshot), rtol=1e-10, atol=1e-12)


def test_least_squares_has_the_second_moment_of_its_inputs() -> None:
    x = normal(20, 5)
    snapshot = snapshot_of(
        nn.Linear(5, 2, bias=False).double(), x, normal(20, 2, seed=1), F.mse_loss, likelihood=Gaussian()
    )
    truth = float(torch.linalg.eigvalsh(x.T @ x / 20)[-1])
    assert measured(snapshot, tolerance=1e-6).estimate.value == pytest.approx(truth, rel=1e-6)


def test_the_labels_do_not_matter() -> None:
    snapshot = softmax_regression()
    other = replace(snapshot, probe_set=replace(snapshot.probe_set, targets=labels(15, seed=9)))
    assert measured(snapshot).estimate == measured(other).estimate


def test_its_trace_is_that_of_the_true_fisher_information() -> None:
    snapshot = kind("GPT with fused attention")
    true = fisher_draws(snapshot, labels="exact").true
    assert true is not None
    trace = sum(float(draws.mean()) for draws in true.values())
    assert float(dense_gauss_newton(snapshot).trace()) == pytest.approx(trace)


class PerToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).tanh()).movedim(-1, 1)


def test_predictions_that_are_ignored_do_not_count() -> None:
    tokens = torch.randint(CLASSES, (8, 5))
    targets = torch.where(torch.rand(8, 5) < 0.3, IGNORED, tokens)
    snapshot = snapshot_of(PerToken().double(), tokens, targets, likelihood=Categorical(class_axis=1))
    product, dense = GaussNewtonProduct(snapshot), dense_gauss_newton(snapshot)
    v = normal(product.dimension)
    torch.testing.assert_close(product(v), dense @ v, rtol=1e-9, atol=1e-11)
    assert product.draws(v).mean() == pytest.approx(float(v @ dense @ v), rel=1e-9)


def test_the_standard_error_covers_the_value_on_all_the_data() -> None:
    """Truth: λ_max on the 20000 inputs that fresh probe sets are drawn from."""
    truth = measured(softmax_regression(20000, scale=3), tolerance=1e-6).estimate.value
    everything = softmax_regression(20000, scale=3)
    z = []
    for seed in range(200):
        some = torch.randperm(20000, generator=torch.Generator().manual_seed(seed))[:200]
        estimate = measured(replace(everything, probe_set=everything.probe_set.part(some), step=seed)).estimate
        z.append((estimate.value - truth) / estimate.stderr)
    assert 0.9 <= np.mean(np.abs(z) < 1.96) <= 0.99


def test_what_it_is_not_defined_for_says_so() -> None:
    model, x = nn.Linear(4, CLASSES).double(), normal(6, 4)
    no_model: Likelihood | None = None
    for likelihood, targets, words in (
        (no_model, labels(6), "not a known likelihood"),
        (Gaussian(), labels(6), "need what a gaussian likelihood speaks of"),
        (Categorical(), torch.full((6,), IGNORED), "all marked as ignored"),
    ):
        with pytest.raises(NotApplicable, match=words):
            measured(snapshot_of(model, x, targets, likelihood=likelihood))


def test_a_diverged_network_is_not_finite() -> None:
    snapshot = kind("MLP")
    with torch.no_grad():
        next(iter(snapshot.params.values())).fill_(math.nan)
    assert measured(snapshot).estimate.outcome is Outcome.NON_FINITE


def test_too_few_products_is_said() -> None:
    assert measured(kind("MLP", n=12), max_products=1).estimate.outcome is Outcome.NOT_CONVERGED


def test_settings_that_cannot_be_met_are_refused() -> None:
    for settings, words in (({"tolerance": 0}, "tolerance"), ({"max_products": 0}, "product")):
        with pytest.raises(ValueError, match=words):
            GaussNewton(**settings)


@pytest.mark.parametrize(
    ("likelihood", "shape", "targets"),
    [
        (Categorical(), (6, 3), torch.tensor([0, 2, IGNORED, 1, 1, 0])),
        (Categorical(), (2, 4, 3), torch.tensor([[0, 2, IGNORED, 1], [1, 0, 0, 2]])),
        (Categorical(class_axis=1), (2, 3, 4), torch.tensor([[0, 2, IGNORED, 1], [1, 0, 0, 2]])),
        (Gaussian(), (4, 2), normal(4, 2, seed=8)),
    ],
)
def test_the_curvature_in_output_space_is_the_second_derivative_of_the_likelihood(
    likelihood: Likelihood, shape: tuple[int, ...], targets: Tensor
) -> None:
    outputs, v = normal(*shape), normal(*shape, seed=1)
    _, expected = torch.autograd.functional.hvp(lambda f: likelihood.negative_log(f, targets).sum(), outputs, v)
    torch.testing.assert_close(likelihood.output_curvature(outputs, targets, v), expected)
