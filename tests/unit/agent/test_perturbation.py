"""Perturbation sharpness: closed forms on quadratics, bounds, invariances, errors and failures."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import Measurement, ProbeSet, Snapshot
from probe_agent.estimators.auto_pgd import auto_pgd, checkpoints
from probe_agent.estimators.critical import critical_sharpness
from probe_agent.estimators.perturbation import (
    average_rise,
    dot,
    gradient,
    gradient_here,
    length,
    loss_at,
    loss_here,
    one_step,
    scaled,
)
from probe_agent.likelihood import Categorical
from probe_agent.probes.critical_sharpness import CriticalSharpness
from probe_agent.probes.perturbation import Perturbation
from probe_agent.update_rule import UpdateRule
from probe_wire import Outcome
from tests.curvature_problems import KINDS, dense_hessian, kind, linear_regression, normal

PROBLEM = normal(40, 6, seed=3) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64))


def quadratic(seed: int = 0) -> tuple[Snapshot, Tensor, Tensor]:
    """Least squares, its gradient and its Hessian."""
    torch.manual_seed(seed)
    snapshot = linear_regression(PROBLEM)
    return snapshot, gradient_here(snapshot)["weight"].flatten(), dense_hessian(snapshot)


def largest_on_the_sphere(g: Tensor, hessian: Tensor, radius: float) -> float:
    """max gᵀd + ½dᵀHd over ‖d‖ = ρ: d = (μI − H)⁻¹g with μ > λ_max, found by bisection on its length."""
    values, vectors = torch.linalg.eigh(hessian)
    along = vectors.mT @ g
    low, high = float(values[-1]), float(values[-1]) + float(g.norm()) / radius + 1.0
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if float((along / (mu - values)).norm()) > radius else (low, mu)
    d = vectors @ (along / (high - values))
    return float(g @ d + d @ hessian @ d / 2)


@pytest.mark.parametrize("radius", [0.01, 0.3, 3.0])
def test_auto_pgd_finds_the_maximum_of_a_quadratic_on_a_sphere(radius: float) -> None:
    snapshot, g, hessian = quadratic()
    delta = auto_pgd(snapshot, radius, 40)
    assert length(delta) <= radius * (1 + 1e-12)
    found = loss_at(snapshot, delta).value - loss_here(snapshot).value
    assert found == pytest.approx(largest_on_the_sphere(g, hessian, radius), rel=1e-3)


def test_one_step_is_the_closed_form_and_no_more_than_auto_pgd() -> None:
    snapshot, g, hessian = quadratic()
    for radius in (0.01, 0.3, 3.0):
        u = radius * g / g.norm()
        step = loss_at(snapshot, one_step(snapshot, radius)).value - loss_here(snapshot).value
        assert step == pytest.approx(float(g @ u + u @ hessian @ u / 2))
        best = loss_at(snapshot, auto_pgd(snapshot, radius, 10)).value - loss_here(snapshot).value
        assert best >= step - 1e-12


def test_the_largest_rise_in_a_box_is_a_corner() -> None:
    snapshot, _, _ = quadratic()
    radius = 0.2
    corners = torch.cartesian_prod(*[torch.tensor([-radius, radius], dtype=torch.float64)] * 6)
    size = snapshot.params["weight"].detach().abs()
    rises = [loss_at(snapshot, {"weight": size * corner}).value for corner in corners]
    delta = auto_pgd(snapshot, radius, 20, "linf", adaptive=True)
    assert ((delta["weight"] / size).abs() <= radius * (1 + 1e-12)).all()
    assert loss_at(snapshot, delta).value >= max(rises) * 0.99


def test_auto_pgd_looks_at_its_step_size_ever_more_often() -> None:
    """The paper's rule p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), for 100 iterations."""
    assert sorted(checkpoints(100))[:4] == [22, 41, 57, 70]


def test_the_average_case_of_a_quadratic_is_half_the_variance_times_the_trace() -> None:
    snapshot, _, hessian = quadratic()
    average, each = average_rise(snapshot, 0.1, 2000)
    error = np.std(each, ddof=1) / math.sqrt(2000)
    assert abs(average.value - 0.1**2 / 2 * float(hessian.trace())) < 4 * error


class Rescaled(nn.Module):
    """A ReLU network and its twin: the first layer times a, the second divided by it."""

    def __init__(self, a: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()
        with torch.no_grad():
            self.one.weight *= a
            self.one.bias *= a
            self.two.weight /= a

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x)))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_rescaling_a_relu_network_changes_plain_sharpness_and_not_the_adaptive_kind(norm: str) -> None:
    x, y = normal(20, 4), torch.randint(3, (20,), generator=torch.Generator().manual_seed(0))

    def rise(a: float, *, adaptive: bool) -> float:
        snapshot = Snapshot.take(Rescaled(a), 0, ProbeSet(x, y), F.cross_entropy, Categorical(), 0)
        delta = auto_pgd(snapshot, 0.05, 5, norm, adaptive=adaptive)  # type: ignore[arg-type]
        return loss_at(snapshot, delta).value - loss_here(snapshot).value

    assert rise(5.0, adaptive=True) == pytest.approx(rise(1.0, adaptive=True), rel=1e-9)
    assert rise(5.0, adaptive=False) != pytest.approx(rise(1.0, adaptive=False), rel=0.05)


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_of_model_has_a_worst_case_between_its_bounds(name: str) -> None:
    snapshot = kind(name, n=8)
    probe = Perturbation(adaptive=True)
    found = {(m.quantity.name, m.labels.get("norm", "")): m.estimate for m in probe.measure(snapshot, {})}
    (best, *_) = Perturbation(method="auto-pgd", iterations=10).measure(snapshot, {})
    step, plane = found["sharpness_worst", ""], found["sharpness_first_order", ""]
    assert best.estimate.value >= step.value - 1e-12
    assert step.value == pytest.approx(plane.value, rel=0.2)
    assert found["sharpness_adaptive", "l2"].value >= 0
    assert found["sharpness_adaptive", "linf"].value >= 0


def fresh_sets(n: int, times: int) -> Iterator[Snapshot]:
    """One trained-looking network on ever new inputs of one distribution, as a population would give them."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for seed in range(times):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        y = (x[:, 0] > 0).long() + (x[:, 1] > 1).long()
        yield Snapshot.take(model, 0, ProbeSet(x, y), F.cross_entropy, Categorical(), 0)


def test_the_standard_errors_cover_what_a_far_larger_set_gives() -> None:
    probe = Perturbation(radius=0.1, sigma=0.05)
    (large,) = fresh_sets(50_000, 1)
    truth = {m.quantity.name: m.estimate for m in probe.measure(large, {})}
    critical = next(CriticalSharpness().measure(large, {})).estimate.value
    hits: dict[str, int] = {}

    def count(m: Measurement, true: float, luck: float = 0.0) -> None:
        e = m.estimate
        hits[m.quantity.name] = hits.get(m.quantity.name, 0) + (abs(e.value - true) < 1.96 * math.hypot(e.stderr, luck))

    for snapshot in fresh_sets(100, 160):
        for m in probe.measure(snapshot, {}):
            if m.quantity.name == "sharpness_average":
                # The same perturbations are used in both, so the samples' error alone is what differs.
                samples = m.draws.std(ddof=1) / math.sqrt(m.draws.size)  # type: ignore[union-attr]
                hits["average"] = hits.get("average", 0) + (
                    abs(m.estimate.value - truth[m.quantity.name].value) < 1.96 * samples
                )
            else:
                count(m, truth[m.quantity.name].value)
        count(next(CriticalSharpness().measure(snapshot, {})), critical)
    assert all(0.90 <= hit / 160 <= 0.985 for hit in hits.values()), hits


def test_the_average_case_carries_the_error_of_its_perturbations_too() -> None:
    snapshot = kind("MLP", n=8)
    average = next(m for m in Perturbation().measure(snapshot, {}) if m.quantity.name == "sharpness_average")
    _, each = average_rise(snapshot, 0.01, 4)
    assert average.estimate.stderr > np.std(each, ddof=1) / 2


def test_the_critical_rate_of_a_quadratic_is_its_closed_form() -> None:
    snapshot, g, hessian = quadratic()
    expected = float(g @ hessian @ g / (g @ g))
    for guess in (1e-4, 0.1, 50.0):
        found = critical_sharpness(snapshot, scaled(gradient_here(snapshot), -1), guess, most=20)
        assert found.value == pytest.approx(expected, rel=1e-9)
        assert found.converged
    close = critical_sharpness(snapshot, scaled(gradient_here(snapshot), -1), 1.8 / expected)
    assert close.passes <= 6


def test_the_last_step_is_measured_from_where_it_began() -> None:
    snapshot, _, hessian = quadratic()
    step = {"weight": torch.full_like(snapshot.params["weight"], 0.01)}
    start = scaled(step, -1)
    rising = loss_at(snapshot).value > loss_at(snapshot, start).value
    if rising:
        step, start = start, step
    rule = UpdateRule(optimizer="SGD", kind="gradient", learning_rates={"weight": 0.1}, updates=(step,))
    at = Snapshot.take(snapshot.model, 3, snapshot.probe_set, snapshot.loss_fn, None, 0, rule=rule)
    *_, margin = CriticalSharpness().measure(at, {})
    u = step["weight"].flatten()
    w = snapshot.params["weight"].detach().flatten()
    slope = dense_gradient(snapshot, w - u)
    assert margin.estimate.value == pytest.approx(float(-2 * slope @ u / (u @ hessian @ u)), rel=1e-6)


def dense_gradient(snapshot: Snapshot, w: Tensor) -> Tensor:
    shift = {"weight": (w - snapshot.params["weight"].detach().flatten()).view_as(snapshot.params["weight"])}
    return gradient(snapshot, shift)["weight"].flatten()


def test_a_direction_that_only_rises_has_no_critical_rate_and_says_so() -> None:
    snapshot, _, _ = quadratic()
    found = critical_sharpness(snapshot, gradient_here(snapshot), 0.1)
    assert not found.converged
    assert math.isnan(found.value)


def test_a_loss_without_an_edge_is_not_converged() -> None:
    model = nn.Linear(3, 1, bias=False).double()
    probe_set = ProbeSet(normal(6, 3), torch.zeros(6, 1, dtype=torch.float64))
    snapshot = Snapshot.take(model, 0, probe_set, lambda out, _: out.mean(), None, 0)  # falls for ever
    (critical, _) = CriticalSharpness().measure(snapshot, {})
    assert critical.estimate.outcome is Outcome.NOT_CONVERGED


def test_a_zero_gradient_has_no_direction_and_a_worst_case_of_zero() -> None:
    snapshot, _, _ = quadratic()
    w = torch.linalg.lstsq(PROBLEM, snapshot.probe_set.targets).solution
    with torch.no_grad():
        snapshot.params["weight"].copy_(w.mT)
    snapshot = Snapshot.take(snapshot.model, 1, snapshot.probe_set, snapshot.loss_fn, None, 0)
    (worst, *_) = Perturbation().measure(snapshot, {})
    assert 0 <= worst.estimate.value < 1e-3
    assert dot(gradient_here(snapshot), gradient_here(snapshot)) < 1e-20


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"radius": 0.0}, "positive size"),
        ({"sigma": math.inf}, "positive size"),
        ({"method": "guess"}, "auto-pgd"),
        ({"pairs": 1}, "at least two"),
        ({"iterations": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Perturbation(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("settings", "words"), [({"tolerance": 0.0}, "fraction"), ({"passes": 2}, "at least 4")])
def test_a_search_that_cannot_end_is_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CriticalSharpness(**settings)  # type: ignore[arg-type]
