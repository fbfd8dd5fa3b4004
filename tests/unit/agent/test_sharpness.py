"""The sharpness probe: its value, its groups, and whether its error bar means what it says."""

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import mean_of, student
from probe_agent.probe import Measurement
from probe_agent.probes.sharpness import Sharpness
from probe_agent.snapshot import Snapshot
from probe_wire import Column, Outcome, Quantity
from tests.curvature_problems import (
    CLASSES,
    KINDS,
    dense_hessian,
    half_squared_error,
    kind,
    labels,
    linear_regression,
    normal,
    randomised,
    same_state,
    snapshot_of,
    state_of,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def measured(snapshot: Snapshot, **settings: Any) -> Measurement:
    [measurement] = Sharpness(**settings).measure(snapshot, {})
    return measurement


@pytest.mark.parametrize("name", KINDS)
def test_the_value_is_the_largest_eigenvalue(name: str) -> None:
    snapshot = kind(name, n=12)
    truth = float(torch.linalg.eigvalsh(dense_hessian(snapshot))[-1])
    estimate = measured(snapshot, tolerance=1e-4, max_products=200).estimate
    assert estimate.outcome is Outcome.OK
    assert estimate.value == pytest.approx(truth, rel=1e-4)


def test_linear_regression_is_as_sharp_as_its_inputs() -> None:
    x = normal(40, 6)
    truth = float(torch.linalg.eigvalsh(x.T @ x / 40)[-1])
    assert measured(linear_regression(x), tolerance=1e-6).estimate.value == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("n", [40, 43, 5])
def test_the_draws_average_to_the_value(n: int) -> None:
    snapshot = snapshot_of(
        randomised(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, CLASSES))), normal(n, 4), labels(n)
    )
    measurement = measured(snapshot)
    assert measurement.draws is not None
    assert len(measurement.draws) == measurement.estimate.n == min(8, n)
    assert measurement.draws.mean() == pytest.approx(measurement.estimate.value, rel=1e-9)
    sampling = mean_of(measurement.draws).stderr
    assert sampling <= measurement.estimate.stderr <= math.hypot(sampling, 0.05 * measurement.estimate.value)


@pytest.mark.parametrize("n", [256, 250])  # 250: groups of 31 and of 32
def test_the_standard_error_covers_the_populations_sharpness(n: int) -> None:
    """Truth: λ_max of the population, E[xxᵀ] = diag(4, 1, …), over fresh probe sets.

    The largest eigenvalue of a sample is on average above it by a factor of about
    1 + (1/n) Σ_j λ_j/(λ_1 − λ_j) = 1.007 here, a tenth of the standard error.
    """
    d, repeats = 6, 100
    scale = torch.tensor([2.0] + [1.0] * (d - 1), dtype=torch.float64)
    estimates = [
        measured(linear_regression(normal(n, d, seed=seed) * scale, seed=seed), tolerance=1e-3).estimate
        for seed in range(repeats)
    ]
    z = np.array([(e.value - 4) / e.stderr for e in estimates])
    assert 0.86 <= np.mean(np.abs(z) < 1.96) <= 1
    spread = np.std([e.value for e in estimates], ddof=1)
    assert 0.85 <= math.sqrt(np.mean([e.stderr**2 for e in estimates])) / student(8) / spread <= 1.2


def test_the_standard_error_covers_the_sharpness_of_softmax_regression_on_all_the_data() -> None:
    """Truth: λ_max on the 20000 inputs the probe sets are drawn from."""
    x, y = normal(20000, 5) * torch.tensor([3.0, 1, 1, 1, 1]), labels(20000)
    model = nn.Linear(5, CLASSES).double()
    truth = float(torch.linalg.eigvalsh(dense_hessian(snapshot_of(model, x, y)))[-1])
    z = []
    for seed in range(60):
        some = torch.randperm(20000, generator=torch.Generator().manual_seed(seed))[:200]
        estimate = measured(snapshot_of(model, x[some], y[some], seed=seed)).estimate
        z.append((estimate.value - truth) / estimate.stderr)
    assert np.mean(np.abs(z) < 1.96) >= 0.85


def test_the_same_snapshot_gives_the_same_numbers() -> None:
    snapshot = kind("GroupNorm")
    first, second = measured(snapshot), measured(snapshot)
    assert first.estimate == second.estimate
    assert np.array_equal(first.draws, second.draws)


def test_the_groups_hold_the_same_inputs_at_every_step() -> None:
    x = normal(64, 5)
    at_0 = measured(linear_regression(x), tolerance=1e-9)
    at_9 = measured(linear_regression(x, step=9), tolerance=1e-9)  # another start, the same Hessian
    assert at_0.draws is not None
    np.testing.assert_allclose(at_0.draws, at_9.draws, rtol=1e-4)


def test_groups_are_dealt_at_random_so_that_sorted_inputs_do_not_widen_the_error() -> None:
    x = normal(1024, 5) * torch.tensor([3.0, 1, 1, 1, 1])
    by_size = x[x[:, 0].abs().argsort()]
    shuffled, ordered = (measured(linear_regression(inputs)).estimate for inputs in (x, by_size))
    assert ordered.value == pytest.approx(shuffled.value, rel=1e-2)
    assert ordered.stderr < 2 * shuffled.stderr


def test_a_loss_that_is_a_sum_keeps_its_value_and_loses_its_error() -> None:
    x = normal(40, 4)
    model = nn.Linear(4, CLASSES).double()
    mean = measured(snapshot_of(model, x, labels(40)), tolerance=1e-6)
    total = measured(
        snapshot_of(model, x, labels(40), lambda o, t: F.cross_entropy(o, t, reduction="sum")), tolerance=1e-6
    )
    assert total.estimate.value == pytest.approx(40 * mean.estimate.value, rel=1e-5)
    assert total.draws is None
    assert math.isnan(total.estimate.stderr)


def test_inputs_in_a_dict_or_tuple_are_dealt_too() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, CLASSES)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(a * b)

    a, b, model = normal(24, 4), normal(24, 4, seed=1), Both().double()
    named = measured(snapshot_of(model, {"a": a, "b": b}, labels(24)))
    assert named.estimate == measured(snapshot_of(model, (a, b), labels(24))).estimate
    assert named.draws is not None


def test_a_single_input_has_no_sampling_error_to_show() -> None:
    measurement = measured(linear_regression(normal(1, 4)))
    assert measurement.estimate.outcome is Outcome.OK
    assert math.isnan(measurement.estimate.stderr)


def test_too_few_products_is_said() -> None:
    estimate = measured(kind("MLP", n=12), max_products=2).estimate
    assert estimate.outcome is Outcome.NOT_CONVERGED
    assert math.isfinite(estimate.value)
    assert estimate.stderr > 0.02 * estimate.value


def test_a_diverged_network_is_not_finite() -> None:
    snapshot = kind("MLP")
    with torch.no_grad():
        next(iter(snapshot.params.values())).fill_(math.nan)
    measurement = measured(snapshot)
    assert measurement.estimate.outcome is Outcome.NON_FINITE
    assert measurement.draws is None


class Clipped(torch.autograd.Function):
    """The identity, whose backward pass clips the gradient."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return grad.clamp(-0.01, 0.01)


def test_a_gradient_that_is_no_derivative_has_no_hessian() -> None:
    class Clipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(Clipped.apply(self.first(x).tanh()))

    snapshot = snapshot_of(Clipping().double(), normal(20, 4), normal(20, 1), half_squared_error)
    with pytest.raises(NotApplicable, match="not symmetric"):
        measured(snapshot)


def test_settings_that_cannot_be_met_are_refused() -> None:
    for settings, words in (
        ({"tolerance": 0}, "tolerance"),
        ({"groups": 1}, "groups"),
        ({"max_products": 0}, "product"),
    ):
        with pytest.raises(ValueError, match=words):
            Sharpness(**settings)


def test_what_it_yields_fits_the_wire() -> None:
    measurement = measured(kind("MLP"))
    for sent in (
        measurement.quantity,
        Column(measurement.quantity.name, dict(measurement.labels), dict(measurement.settings)),
    ):
        kind_of = Quantity if isinstance(sent, Quantity) else Column
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=kind_of) == sent
    assert measurement.quantity in Sharpness.quantities


def test_the_live_model_and_its_streams_are_untouched() -> None:
    model = KINDS["BatchNorm in evaluation"][0]().double()
    x, y = normal(16, 2, 4, 4), labels(16)
    F.cross_entropy(model(x), y).backward()
    before = state_of(model)
    snapshot = snapshot_of(model, x, y)
    copied = state_of(snapshot.model)
    measured(replace(snapshot, step=3))
    assert same_state(before, state_of(model))
    assert same_state(copied, state_of(snapshot.model))
