"""The Hessian trace against dense Hessians and closed forms, and its probe."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators.hessian_trace import trace_draws
from probe_agent.likelihood import IGNORED, Categorical, Gaussian, Likelihood
from probe_agent.probe import Measurement
from probe_agent.probes.hessian_trace import HessianTrace
from probe_agent.snapshot import Snapshot
from probe_wire import Outcome
from tests.curvature_problems import (
    CLASSES,
    KINDS,
    dense_gauss_newton,
    dense_hessian,
    kind,
    labels,
    linear_regression,
    normal,
    snapshot_of,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def measured(snapshot: Snapshot, **settings: Any) -> tuple[Measurement, Measurement]:
    trace, residual = HessianTrace(per_layer=False, **settings).measure(snapshot, {})
    return trace, residual


def net(*tail: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES), *tail).double()


def classified(loss: Callable[..., Tensor], likelihood: Likelihood | None = None, *tail: nn.Module) -> Snapshot:
    return snapshot_of(net(*tail), normal(13, 4), labels(13), loss, likelihood=likelihood)


def assert_unbiased(snapshot: Snapshot, seeds: int = 40) -> None:
    truth = float(dense_hessian(snapshot).trace())
    values = np.array([trace_draws(replace(snapshot, step=step), 4).trace.mean() for step in range(seeds)])
    assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / seeds**0.5
    assert values.std() < 4 * abs(truth) + 10


@pytest.mark.parametrize("likelihood", [None, Categorical()], ids=["Hutchinson", "Fisher + residual"])
def test_layers_are_the_blocks_of_the_hessian_and_add_up_to_the_whole(likelihood: Likelihood | None) -> None:
    loss = smoothed if likelihood is None else F.cross_entropy
    snapshot = classified(loss, likelihood)
    blocks = dense_hessian(snapshot).diagonal().split([4 * 6 + 6, 6 * CLASSES + CLASSES])
    found = [list(HessianTrace(groups=4).measure(replace(snapshot, step=step), {})) for step in range(60)]
    assert [m.labels.get("layer") for m in found[0]] == [None, "0", "2", None]
    values = np.array([[m.estimate.value for m in each] for each in found])
    np.testing.assert_allclose(values[:, 0], values[:, 1] + values[:, 2])
    for mean, spread, block in zip(values.mean(0)[1:3], values.std(0, ddof=1)[1:3], blocks, strict=True):
        assert abs(mean - float(block.sum())) < 4 * spread / 60**0.5


def summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum")


def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.2)


def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 5.0, 0.1], dtype=torch.float64))


def contrast(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - outputs.mean(0)).square().mean()


@pytest.mark.parametrize("name", KINDS)
def test_it_is_unbiased_over_the_signs_for_every_kind_of_model(name: str) -> None:
    assert_unbiased(kind(name, n=8), seeds=14)


@pytest.mark.parametrize("loss", [F.cross_entropy, summed, smoothed, weighted, contrast])
@pytest.mark.parametrize("likelihood", [None, Categorical()], ids=["unnamed", "categorical"])
def test_it_is_unbiased_whatever_the_loss_averages_and_whatever_likelihood_was_named(
    loss: Callable[..., Tensor], likelihood: Likelihood | None
) -> None:
    assert_unbiased(classified(loss, likelihood))


def test_it_is_unbiased_for_a_model_that_ends_in_log_probabilities() -> None:
    assert_unbiased(classified(F.nll_loss, Categorical(), nn.LogSoftmax(-1)))


def test_a_group_whose_targets_are_all_ignored_counts_for_nothing() -> None:
    snapshot = classified(F.cross_entropy, Categorical())
    targets = torch.where(torch.arange(13) < 3, snapshot.probe_set.targets, IGNORED)
    assert_unbiased(replace(snapshot, probe_set=replace(snapshot.probe_set, targets=targets)))


def test_softmax_regression_has_its_closed_form_without_any_noise() -> None:
    x = normal(13, 4)
    model = nn.Linear(4, CLASSES).double()
    trace, residual = measured(snapshot_of(model, x, labels(13), likelihood=Categorical()), groups=4)
    p = model(x).detach().softmax(-1)
    truth = float(((1 - p.square().sum(1)) * (x.square().sum(1) + 1)).mean())
    assert trace.estimate.value == pytest.approx(truth)
    assert residual.estimate.value == pytest.approx(0, abs=1e-12)


def test_squared_error_is_scaled_as_the_loss_scales_it() -> None:
    x, y = normal(12, 4), normal(12, 2, seed=1)
    snapshot = snapshot_of(nn.Linear(4, 2, bias=False).double(), x, y, F.mse_loss, likelihood=Gaussian())
    assert measured(snapshot)[0].estimate.value == pytest.approx(float(dense_hessian(snapshot).trace()))


def test_least_squares_without_a_likelihood_is_hutchinsons_estimate_of_the_second_moment() -> None:
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)).repeat(4, 1)
    trace, residual = measured(linear_regression(x), groups=4)
    assert trace.settings["method"] == "Hutchinson"
    assert trace.estimate.value == pytest.approx(float((x.T @ x / 16).trace()))  # diagonal: signs make no noise
    assert residual.estimate.outcome is Outcome.NOT_APPLICABLE


def test_the_residual_is_relative_to_the_gauss_newton_trace() -> None:
    snapshot = kind("GPT with fused attention", n=8)
    gauss_newton = float(dense_gauss_newton(snapshot).trace())
    truth = float(dense_hessian(snapshot).trace()) / gauss_newton - 1
    draws = [measured(replace(snapshot, step=k), groups=4)[1].estimate.value for k in range(40)]
    assert abs(np.mean(draws) - truth) < 4 * np.std(draws) / 40**0.5


def test_a_relu_network_has_no_residual() -> None:
    snapshot = kind("MLP", n=12)
    assert float(dense_hessian(snapshot).trace()) == pytest.approx(float(dense_gauss_newton(snapshot).trace()))


def test_the_standard_error_covers_the_trace_on_all_the_data() -> None:
    x, y = normal(20000, 4), labels(20000)
    model = net()
    everything = snapshot_of(model, x, y, likelihood=Categorical())
    truth = float(dense_hessian(everything).trace())
    covered = []
    for seed in range(100):  # errors of 0.7 of what they should be cover 83 of them
        some = torch.randperm(20000, generator=torch.Generator().manual_seed(seed))[:64]
        snapshot = replace(everything, probe_set=everything.probe_set.part(some), step=seed)
        estimate = measured(snapshot, groups=16)[0].estimate
        covered.append(abs(estimate.value - truth) < 1.96 * estimate.stderr)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_a_loss_that_is_no_mean_over_samples_has_a_value_without_an_error() -> None:
    trace, _ = measured(classified(contrast))
    assert np.isfinite(trace.estimate.value)
    assert np.isnan(trace.estimate.stderr)
    assert "no mean over samples" in trace.settings["stderr"]


def test_what_it_cannot_measure_says_so() -> None:
    one = kind("MLP", n=1)
    with pytest.raises(NotApplicable, match="one sample"):
        measured(one)
    with pytest.raises(ValueError, match="groups=1"):
        HessianTrace(groups=1)


def test_a_diverged_network_is_not_finite() -> None:
    snapshot = kind("MLP", n=12)
    with torch.no_grad():
        next(iter(snapshot.params.values())).fill_(torch.nan)
    assert measured(snapshot)[0].estimate.outcome is not Outcome.OK
