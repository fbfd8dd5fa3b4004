"""The edge of stability against optimizers that diverge beyond it and converge before it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators.lanczos import krylov_of
from probe_agent.optimizers import rule_of
from probe_agent.probe import Measurement
from probe_agent.probes.edge_of_stability import EdgeOfStability
from probe_agent.probes.sharpness import Sharpness
from probe_agent.snapshot import Snapshot
from probe_agent.update_rule import UpdateRule
from probe_wire import Outcome
from tests.curvature_problems import half_squared_error, kind, normal, snapshot_of


def measured(snapshot: Snapshot, rule: UpdateRule | None, **settings: Any) -> Measurement:
    [measurement] = EdgeOfStability(**settings).measure(replace(snapshot, rule=rule), {})
    return measurement


class TwoParts(nn.Module):
    """Linear in two parameters, so that its squared error is a quadratic and each may have a learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(normal(3, seed=1))
        self.b = nn.Parameter(normal(2, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :3] @ self.a + x[:, 3:] @ self.b)[:, None]


X = normal(30, 5) * torch.tensor([3.0, 2, 1, 2, 0.5])
Y = torch.zeros(30, 1, dtype=torch.float64)

OPTIMIZERS: dict[str, Callable[[TwoParts, float], torch.optim.Optimizer]] = {
    "gradient descent": lambda m, s: torch.optim.SGD(m.parameters(), lr=0.1 * s),
    "heavy ball": lambda m, s: torch.optim.SGD(m.parameters(), lr=0.1 * s, momentum=0.9),
    "Nesterov": lambda m, s: torch.optim.SGD(m.parameters(), lr=0.1 * s, momentum=0.8, nesterov=True),
    "two learning rates": lambda m, s: torch.optim.SGD(
        [{"params": [m.a], "lr": 0.02 * s}, {"params": [m.b], "lr": 0.3 * s}], momentum=0.5
    ),
    "one part alone": lambda m, s: torch.optim.SGD([m.b], lr=0.1 * s),
}


def growth(model: TwoParts, step: Callable[[], object], steps: int = 600) -> float:
    """By how much the weights grow over the second half of the steps; the minimum is at zero."""
    sizes = []
    for _ in range(2):
        for _ in range(steps // 2):
            step()
        sizes.append(math.hypot(float(model.a.detach().norm()), float(model.b.detach().norm())))
    return sizes[1] / max(sizes[0], 1e-300)


def weights_at_zero_but(model: TwoParts, optimizer: torch.optim.Optimizer) -> None:
    """What the optimizer does not move starts at the minimum, so that it cannot hide a growth."""
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for p in model.parameters():
        if id(p) not in moved:
            p.data.zero_()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_diverges_exactly_beyond_the_edge(name: str) -> None:
    model = TwoParts()
    edge = measured(
        snapshot_of(model, X, Y, half_squared_error), rule_of(OPTIMIZERS[name](model, 1.0), model), tolerance=1e-8
    )
    for times, diverges in ((0.97, False), (1.03, True)):
        model = TwoParts()
        optimizer = OPTIMIZERS[name](model, times / edge.estimate.value)
        weights_at_zero_but(model, optimizer)
        at = measured(snapshot_of(model, X, Y, half_squared_error), rule_of(optimizer, model), tolerance=1e-8)
        assert at.estimate.value == pytest.approx(times)

        def step(model: TwoParts = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            half_squared_error(model(X), Y).backward()
            optimizer.step()

        assert (growth(model, step) > 1) is diverges


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_adam_with_a_preconditioner_held_still_diverges_exactly_beyond_the_edge(beta: float) -> None:
    preconditioner = {"a": normal(3, seed=5).abs() + 0.5, "b": normal(2, seed=6).abs() + 0.1}
    snapshot = snapshot_of(TwoParts(), X, Y, half_squared_error)

    def rule(rate: float) -> UpdateRule:
        return UpdateRule(
            optimizer="Adam",
            kind="adam",
            learning_rates={"a": rate, "b": 2 * rate},
            momentum=beta,
            preconditioner=preconditioner,
        )

    at_one = measured(snapshot, rule(1.0), tolerance=1e-8).estimate.value
    for times, diverges in ((0.97, False), (1.03, True)):
        model, rate = TwoParts(), times / at_one
        assert measured(snapshot, rule(rate), tolerance=1e-8).estimate.value == pytest.approx(times)
        averages = {name: torch.zeros_like(p) for name, p in model.named_parameters()}

        def step(model: TwoParts = model, rate: float = rate, averages: dict[str, Tensor] = averages) -> None:
            loss = half_squared_error(model(X), Y)
            for (name, p), g in zip(
                model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
            ):
                averages[name].mul_(beta).add_(g, alpha=1 - beta)
                p.data -= rule(rate).learning_rates[name] * averages[name] / preconditioner[name]

        assert (growth(model, step) > 1) is diverges


def test_plain_gradient_descent_takes_the_sharpness_and_no_product_of_its_own() -> None:
    snapshot = replace(
        kind("LayerNorm", n=64),
        rule=UpdateRule(optimizer="SGD", kind="gradient", learning_rates=dict.fromkeys("abcdef", 1.0)),
    )
    assert snapshot.rule is not None
    snapshot = replace(snapshot, rule=replace(snapshot.rule, learning_rates=dict.fromkeys(snapshot.params, 0.3)))
    [sharpness] = Sharpness().measure(snapshot, {})
    paid = krylov_of(snapshot).products
    [edge] = EdgeOfStability().measure(snapshot, {})
    assert krylov_of(snapshot).products == paid
    assert edge.estimate.value == pytest.approx(0.15 * sharpness.estimate.value)
    assert edge.estimate.stderr == pytest.approx(0.15 * sharpness.estimate.stderr)
    assert edge.draws is not None
    assert np.mean(edge.draws) == pytest.approx(edge.estimate.value)


def test_the_standard_error_covers_the_populations_edge() -> None:
    """Adam on least squares, E[xxᵀ] = diag(9, 4, 1, 4, 0.25): D H is diagonal, its largest entry 9·0.2/1.5."""
    rule = UpdateRule(
        optimizer="Adam",
        kind="adam",
        learning_rates={"a": 0.2, "b": 0.1},
        momentum=0.5,
        preconditioner={"a": torch.tensor([1.5, 2, 2]), "b": torch.tensor([1.0, 1.0])},
    )
    scale = torch.tensor([3.0, 2, 1, 2, 0.5], dtype=torch.float64)
    truth = 9 * 0.2 / 1.5 / 6
    z = []
    for seed in range(100):
        snapshot = snapshot_of(
            TwoParts(), normal(256, 5, seed=seed) * scale, normal(256, 1), half_squared_error, seed=seed
        )
        estimate = measured(snapshot, rule).estimate
        z.append((estimate.value - truth) / estimate.stderr)
    assert 0.9 <= np.mean(np.abs(z) < 1.96) <= 0.99


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (None, "Got no optimizer"),
        (UpdateRule(optimizer="LBFGS", kind="unknown", learning_rates={"a": 1.0}), "Got optimizer LBFGS"),
        (UpdateRule(optimizer="Adam", kind="adam", learning_rates={"a": 1.0}), "before its first step"),
        (UpdateRule(optimizer="SGD", kind="gradient", learning_rates={}), "moves none"),
    ],
)
def test_an_optimizer_without_a_known_edge_says_so(rule: UpdateRule | None, words: str) -> None:
    with pytest.raises(NotApplicable, match=words):
        measured(snapshot_of(TwoParts(), X, Y, half_squared_error), rule)


def test_an_optimizer_that_maximizes_is_named_as_such() -> None:
    model = TwoParts()
    rule = rule_of(torch.optim.SGD(model.parameters(), lr=0.1, maximize=True), model)
    with pytest.raises(NotApplicable, match=r"Got optimizer SGD that maximizes; .* where they minimize"):
        measured(snapshot_of(model, X, Y, half_squared_error), rule)


def test_a_learning_rate_of_zero_is_infinitely_far_from_the_edge() -> None:
    rule = UpdateRule(optimizer="SGD", kind="gradient", learning_rates={"a": 0.0, "b": 0.0})
    assert measured(snapshot_of(TwoParts(), X, Y, half_squared_error), rule).estimate.value == 0


def test_a_diverged_network_and_too_few_products_are_said() -> None:
    rule = UpdateRule(optimizer="SGD", kind="gradient", learning_rates={"a": 0.1, "b": 0.2})
    snapshot = snapshot_of(TwoParts(), X, Y, half_squared_error)
    assert measured(snapshot, rule, max_products=1).estimate.outcome is Outcome.NOT_CONVERGED
    far = snapshot_of(TwoParts(), X * math.inf, Y, half_squared_error)
    assert measured(far, rule).estimate.outcome is Outcome.NON_FINITE


def test_settings_that_cannot_be_met_are_refused() -> None:
    for settings, words in (
        ({"tolerance": 1}, "tolerance"),
        ({"max_products": 0}, "product"),
        ({"groups": 1}, "groups"),
    ):
        with pytest.raises(ValueError, match=words):
            EdgeOfStability(**settings)
