"""Losses that draw or remember in evaluation mode: measured as one function of the weights, or refused in words."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import NotApplicable, ProbeSet, Snapshot
from probe_agent.errors import Indivisible
from probe_agent.estimators.hvp import DIFFERENCES, HessianProduct
from probe_agent.estimators.repetition import check_loss_repeats, repeats
from probe_agent.likelihood import Categorical
from probe_agent.probes.critical_sharpness import CriticalSharpness
from probe_agent.probes.local_complexity import LocalComplexity
from probe_agent.probes.local_learning_coefficient import LocalLearningCoefficient
from probe_agent.probes.loss import Loss
from probe_agent.probes.perturbation import Perturbation
from probe_agent.probes.sharpness import Sharpness
from probe_agent.undisturbed import draw_again, undisturbed
from probe_wire import Outcome
from tests.one_report import CPU, SEED, LossFn, X, Y, classifier, made, measured


class Autoencoder(nn.Module):
    """Draws its code in evaluation mode too, and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.decode = nn.Linear(6, 4), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.code(x).chunk(2, -1)
        return self.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp()), mean, log_variance


def evidence_bound(outputs: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    decoded, mean, log_variance = outputs
    divergence = (1 + log_variance - mean.square() - log_variance.exp()).sum() / 2
    return (F.mse_loss(decoded, x, reduction="sum") - divergence) / len(x)


def masked(outputs: Tensor, targets: Tensor) -> Tensor:
    kept = (torch.rand(len(targets)) < 0.5).to(outputs)
    return (F.cross_entropy(outputs, targets, reduction="none") * kept).sum() / kept.sum().clamp(min=1)


class Dropping(nn.Module):
    """Drops inputs in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.network = classifier()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(F.dropout(x, 0.3))
        return found


DRAWING: dict[str, tuple[Callable[[], nn.Module], LossFn, Tensor]] = {
    "a code": (Autoencoder, evidence_bound, X),
    "a mask in the loss": (classifier, masked, Y),
    "dropped inputs": (Dropping, F.cross_entropy, Y),
}


def snapshot_of(model: nn.Module, loss: LossFn) -> Snapshot:
    return Snapshot.take(model, 0, ProbeSet(X, Y), loss, Categorical(), SEED)


@pytest.mark.parametrize("what", list(DRAWING))
def test_of_what_draws_losses_are_compared_at_the_same_draws(what: str) -> None:
    """By hand: the loss as a function of the weights, with the global stream seeded before each evaluation."""
    make, loss, targets = DRAWING[what]
    model = made(make)
    found, _ = measured(model, loss, targets, Sharpness(), Loss(), CriticalSharpness(), Perturbation(radius=0.01))
    parameters = dict(model.eval().named_parameters())

    def at(weights: Mapping[str, Tensor]) -> Tensor:
        torch.manual_seed(SEED)
        return loss(torch.func.functional_call(model, dict(weights), (X,)), targets)

    here = at(parameters)
    slope = dict(zip(parameters, torch.autograd.grad(here, list(parameters.values())), strict=True))

    def rise(step: float) -> float:
        return float((at({n: p - step * slope[n] for n, p in parameters.items()}) - here).detach())

    low, high = 1e-6, 1e-6
    while rise(high) < 0:
        low, high = high, 1.2 * high
    for _ in range(50):
        low, high = ((low + high) / 2, high) if rise((low + high) / 2) < 0 else (low, (low + high) / 2)
    length = math.sqrt(sum(float(g.square().sum()) for g in slope.values()))
    assert found["probe_loss"].value == pytest.approx(float(here.detach()), rel=1e-12)
    assert found["critical_sharpness"].value == pytest.approx(2 / low, rel=0.01)
    assert found["sharpness_worst"].value == pytest.approx(rise(-0.01 / length), rel=1e-9)
    assert 0.05 < found["sharpness_worst"].stderr / found["sharpness_worst"].value < 1
    assert found["sharpness_average"].outcome is Outcome.OK


@pytest.mark.parametrize("what", list(DRAWING))
def test_what_draws_is_the_same_at_every_snapshot_and_whatever_is_measured_before(what: str) -> None:
    make, loss, targets = DRAWING[what]
    alone, _ = measured(made(make), loss, targets, Loss())
    after, _ = measured(made(make), loss, targets, Sharpness(), Perturbation(), Loss())
    assert alone["probe_loss"].value == after["probe_loss"].value


class OwnDice:
    """A loss that draws from a generator of its own."""

    def __init__(self) -> None:
        self.dice = torch.Generator().manual_seed(0)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        kept = (torch.rand(len(targets), generator=self.dice) < 0.5).to(outputs)
        return (F.cross_entropy(outputs, targets, reduction="none") * kept).sum() / kept.sum().clamp(min=1)


class Remembering(nn.Module):
    """Gives something else at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.calls = classifier(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = self.network(x) * (1 + 0.01 * self.calls)
        return found


@pytest.mark.parametrize(("make", "loss"), [(classifier, OwnDice()), (Remembering, F.cross_entropy)])
def test_what_does_not_repeat_at_the_same_weights_is_not_measured_by_differences(
    make: Callable[[], nn.Module], loss: LossFn
) -> None:
    few = LocalLearningCoefficient(chains=2, burn_in=2, draws=4)
    found, costs = measured(made(make), loss, Y, Loss(), CriticalSharpness(), Perturbation(), few)
    assert found["probe_loss"].outcome is Outcome.OK
    for probe in ("critical_sharpness", "perturbation", "local_learning_coefficient"):
        assert costs[probe].outcome is Outcome.NOT_APPLICABLE, probe
        assert "at the same weights" in costs[probe].detail
        assert "torch.manual_seed" in costs[probe].detail


def test_langevin_chains_of_what_draws_are_of_one_function() -> None:
    few = LocalLearningCoefficient(chains=2, burn_in=20, draws=20)
    found, costs = measured(made(Dropping), F.cross_entropy, Y, few)
    assert costs["local_learning_coefficient"].outcome in (Outcome.OK, Outcome.NOT_CONVERGED)
    assert 0 < found["local_learning_coefficient_acceptance"].value <= 1


@pytest.mark.parametrize("make", [Dropping, Autoencoder, Remembering])
def test_units_crossed_by_chance_are_not_counted(make: Callable[[], nn.Module]) -> None:
    loss, targets = (evidence_bound, X) if make is Autoencoder else (F.cross_entropy, Y)
    _, costs = measured(made(make), loss, targets, LocalComplexity())
    assert costs["local_complexity"].outcome is Outcome.NOT_APPLICABLE
    assert "pre-activations are others" in costs["local_complexity"].detail


def test_where_only_the_loss_draws_units_are_counted() -> None:
    _, costs = measured(made(classifier), masked, Y, LocalComplexity())
    assert costs["local_complexity"].outcome is Outcome.OK


def test_hessian_products_by_differences_of_what_draws_are_those_of_one_function_or_refused() -> None:
    snapshot = snapshot_of(made(Dropping), F.cross_entropy)
    v = torch.randn(sum(p.numel() for p in snapshot.params.values()), dtype=torch.float64)
    with undisturbed(CPU, SEED):
        exact, rough = HessianProduct(snapshot), HessianProduct(snapshot, route=DIFFERENCES)
        assert rough(v) == pytest.approx(exact(v), rel=1e-4, abs=1e-6)
        with pytest.raises(Indivisible, match="gradients that are others"):  # parts draw anew each time
            HessianProduct(snapshot, snapshot.probe_set.part(slice(8)), route=DIFFERENCES)
    with pytest.raises(NotApplicable, match="gradients that are others"):
        HessianProduct(snapshot_of(made(classifier), OwnDice()), route=DIFFERENCES)


def test_streams_are_put_back_only_where_they_were_seeded() -> None:
    before = torch.random.get_rng_state()
    assert not draw_again()
    with undisturbed(CPU, None):
        assert not draw_again()
    assert torch.equal(before, torch.random.get_rng_state())
    with undisturbed(CPU, SEED):
        first = torch.rand(3)
        assert draw_again()
        assert torch.equal(first, torch.rand(3))
    assert not draw_again()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_repeats_where_it_is_so_in_the_same_places(bad: float) -> None:
    assert repeats(torch.tensor([1.0, bad]), torch.tensor([1.0, bad]))
    assert not repeats(torch.tensor([1.0, bad]), torch.tensor([bad, 1.0]))
    assert not repeats(torch.tensor([1.0]), torch.tensor([1.0 + 1e-4]))
    assert repeats(torch.tensor([1.0]), torch.tensor([1.0 + 1e-7])), "an accelerator may add up in another order"


def test_a_loss_that_is_no_number_repeats() -> None:
    check_loss_repeats(snapshot_of(made(classifier), lambda outputs, _: outputs.sum() * math.nan))
