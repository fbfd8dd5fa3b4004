import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import Measurement, NotApplicable
from probe_agent.estimators.sgld import langevin_chains, mixing
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.local_learning_coefficient import LocalLearningCoefficient
from probe_agent.snapshot import Snapshot
from probe_wire import Outcome
from tests.curvature_problems import kind, same_state, state_of
from tests.problems import lstm, snapshot_of


def regression(d: int = 20, n: int = 500, seed: int = 0, spread: float = 1.0) -> tuple[Snapshot, Tensor]:
    """Least squares at its minimum, and the eigenvalues of its Hessian."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, spread, d, dtype=torch.float64).sqrt()
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * scale
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(d, 1, bias=False).double()
    model.weight.data = torch.linalg.lstsq(x, y).solution.T
    snapshot = Snapshot.take(model, 0, ProbeSet(x, y), F.mse_loss, None, seed)
    return snapshot, torch.linalg.eigvalsh(2 * x.T @ x / n)


def expected(h: Tensor, n: int, localisation: float) -> float:
    curved = h * n / math.log(n)
    return float((curved / (curved + localisation)).sum() / 2)


def coefficient(snapshot: Snapshot, **settings: float) -> Measurement:
    return next(iter(LocalLearningCoefficient(**settings).measure(snapshot, {})))


class Power(nn.Module):
    """A loss w^(2k) in one weight: its learning coefficient is 1 / 2k."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k, self.w = k, nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w**self.k


def test_linear_regression_has_its_closed_form() -> None:
    snapshot, h = regression()
    for localisation in (1.0, 100.0, 1000.0):
        found = coefficient(snapshot, localisation=localisation, chains=8, burn_in=100, draws=300).estimate
        assert found.outcome is Outcome.OK
        assert found.stderr < 0.05 * found.value
        assert abs(found.value - expected(h, 500, localisation)) < 3.5 * found.stderr


def test_with_little_localisation_a_regular_model_has_half_its_parameters() -> None:
    snapshot, _ = regression(d=6)
    found = coefficient(snapshot, localisation=1e-3, chains=8, draws=500).estimate
    assert abs(found.value - 3) < 3.5 * found.stderr
    assert found.stderr < 0.15


def test_the_number_of_training_samples_sets_the_temperature() -> None:
    snapshot, h = regression()
    found = coefficient(snapshot, n_train=50_000, localisation=1000.0, chains=8, draws=400).estimate
    assert abs(found.value - expected(h, 50_000, 1000.0)) < 3.5 * found.stderr


@pytest.mark.parametrize("k", [2, 3])
def test_a_singular_minimum_counts_as_it_weighs(k: int) -> None:
    ones = torch.ones(1000, 1, dtype=torch.float64)
    snapshot = Snapshot.take(Power(k), 0, ProbeSet(ones[:4], 0 * ones[:4]), F.mse_loss, None, 0)
    found = coefficient(snapshot, n_train=1000, localisation=1e-6, chains=32, burn_in=200, draws=500).estimate
    assert found.outcome is Outcome.OK
    assert abs(found.value - 1 / (2 * k)) < 3.5 * found.stderr
    assert found.stderr < 0.02


def test_the_truth_lies_within_two_standard_errors_as_often_as_it_should() -> None:
    misses, errors = [], []
    for seed in range(24):
        snapshot, h = regression(n=100, seed=seed)
        found = coefficient(snapshot, chains=4, burn_in=60, draws=80).estimate
        misses.append((found.value - expected(h, 100, 100.0)) / found.stderr)
        errors.append(found.stderr)
    assert 0.85 <= np.mean(np.abs(misses) < 1.96) <= 1
    assert abs(np.mean(misses)) < 3.5 / math.sqrt(len(misses))
    assert 0.7 < np.std(misses) < 1.4


def test_the_step_size_biases_nothing() -> None:
    """Chains whose step is badly adapted, for want of burn-in, still draw from the same distribution."""
    snapshot, h = regression(d=4)
    hasty = coefficient(snapshot, burn_in=12, draws=800, chains=8).estimate
    assert abs(hasty.value - expected(h, 500, 100.0)) < 3.5 * hasty.stderr


def test_the_acceptance_is_near_the_best_one() -> None:
    snapshot, _ = regression()
    _, acceptance = LocalLearningCoefficient().measure(snapshot, {})
    assert acceptance.quantity.name == "local_learning_coefficient_acceptance"
    assert abs(acceptance.estimate.value - 0.574) < 0.12


def test_chains_that_have_not_mixed_are_not_believed() -> None:
    snapshot, h = regression(d=100, n=4000, spread=6.0)
    found = coefficient(snapshot, localisation=0.1, burn_in=20, draws=40, chains=4).estimate
    assert found.outcome is Outcome.NOT_CONVERGED
    assert abs(found.value - expected(h, 4000, 0.1)) > 5


@pytest.mark.parametrize("case", ["stiff and soft", "one stiff"])
def test_chains_that_have_not_filled_the_soft_directions_are_not_believed(case: str) -> None:
    """The loss, which the stiff directions make, has long settled: only the virial theorem tells."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 20, generator=generator, dtype=torch.float64)
    x = x + 100 if case == "one stiff" else x * torch.cat([torch.ones(10), 100 * torch.ones(10)])
    y = torch.randn(500, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(20, 1, bias=False).double()
    model.weight.data = torch.linalg.lstsq(x, y).solution.T
    snapshot = Snapshot.take(model, 0, ProbeSet(x, y), F.mse_loss, None, 0)
    found = coefficient(snapshot)
    truth = expected(torch.linalg.eigvalsh(2 * x.T @ x / 500), 500, 100.0)
    assert abs(found.estimate.value - truth) > 10 * found.estimate.stderr
    assert found.estimate.outcome is Outcome.NOT_CONVERGED
    assert float(found.settings["unfilled"]) > 0.3


def test_an_embedding_that_rescales_its_rows_and_weights_of_two_types_have_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Flatten(), nn.Linear(6, 2)).double()
    tokens = torch.randint(5, (8, 2))
    snapshot = Snapshot.take(model, 0, ProbeSet(tokens, torch.zeros(8, dtype=torch.long)), F.cross_entropy, None, 0)
    assert math.isfinite(coefficient(snapshot, burn_in=5, draws=8).estimate.value)


def test_a_loss_that_is_not_finite_is_not_finite() -> None:
    snapshot, _ = regression(d=3)
    with torch.no_grad():
        snapshot.params["weight"].fill_(math.nan)
    assert coefficient(snapshot, draws=4, burn_in=1).estimate.outcome is Outcome.NON_FINITE


def test_one_sample_has_no_temperature() -> None:
    snapshot, _ = regression(d=3, n=1)
    with pytest.raises(NotApplicable, match="Got a probe set of 1 sample; need n_train"):
        coefficient(snapshot)


def test_the_same_snapshot_gives_the_same_numbers_and_is_left_as_it_was() -> None:
    snapshot = kind("LSTM", n=8)
    state, stream = state_of(snapshot.model), torch.get_rng_state()
    first, second = (coefficient(snapshot, burn_in=5, draws=6) for _ in range(2))
    assert first.estimate == second.estimate
    assert first.draws is not None
    assert first.draws.mean() == pytest.approx(first.estimate.value)
    assert same_state(state, state_of(snapshot.model))
    assert torch.equal(stream, torch.get_rng_state())


def test_chains_one_after_the_other_are_the_chains_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, _ = regression(d=5)
    run = {"inverse_temperature": 50.0, "localisation": 1.0, "chains": 3, "burn_in": 10, "draws": 10}
    together = langevin_chains(snapshot, **run)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no rule for this kernel")

    monkeypatch.setattr(torch.func, "vmap", refuse)
    np.testing.assert_allclose(langevin_chains(snapshot, **run).excess, together.excess, rtol=1e-9)


def test_a_recurrent_network_has_one_too() -> None:
    found = coefficient(snapshot_of(lstm()), burn_in=20, draws=20, n_train=100)
    assert math.isfinite(found.estimate.value)


def test_independent_draws_are_all_effective_and_correlated_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, 2000))
    free = mixing(noise)
    assert free.rhat == pytest.approx(1, abs=0.01)
    assert free.effective == pytest.approx(8000, rel=0.15)
    walk = np.zeros_like(noise)
    for t in range(1, noise.shape[1]):
        walk[:, t] = 0.8 * walk[:, t - 1] + noise[:, t]
    assert mixing(walk).effective == pytest.approx(8000 * 0.2 / 1.8, rel=0.3)  # (1 − ρ) / (1 + ρ)
    assert mixing(noise + 3 * np.arange(4)[:, None]).rhat > 1.5
    assert mixing(noise + np.linspace(0, 5, 2000)).rhat > 1.2


def test_chains_that_stand_still_have_no_error() -> None:
    still = mixing(np.ones((4, 10)))
    assert math.isnan(still.stderr)
    assert still.effective == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_train": 1}, "Got n_train=1"),
        ({"localisation": 0.0}, "Got localisation=0.0"),
        ({"chains": 1}, "Got chains=1"),
        ({"draws": 3}, "draws=3"),
        ({"burn_in": 0}, "Got burn_in=0"),
        ({"max_rhat": 1.0}, "Got max_rhat=1.0"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LocalLearningCoefficient(**settings)
