"""The features probe: dormant units by definition, with an error that covers, and ranks as they are measured."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent.estimators.dormancy import dormant, dormant_draws, reweighted
from probe_agent.estimators.draws import mean_of
from probe_agent.probe import Measurement
from probe_agent.probes.features import Features
from probe_agent.snapshot import Snapshot
from probe_wire import Outcome
from tests.curvature_problems import kind, labels, normal, snapshot_of


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Hundreds of tiny decompositions: threads that wait for one another would take most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)).double()


def measured(snapshot: Snapshot, **settings: float) -> dict[tuple[str, str], Measurement]:
    """By quantity and layer."""
    return {(m.quantity.name, m.labels.get("layer", "")): m for m in Features(**settings).measure(snapshot, {})}


def at(model: nn.Module, x: Tensor) -> Snapshot:
    return snapshot_of(model, x, labels(len(x)))


def draws_of(layers: list[Tensor], threshold: float = 0.025) -> np.ndarray:
    return dormant_draws(layers, threshold, reweighted(len(layers[0]), torch.Generator().manual_seed(0)))


def test_dormancy_is_judged_beside_the_mean_of_the_layer() -> None:
    magnitudes = torch.tensor([0.0, 0.02, 0.03, 3.95], dtype=torch.float64)  # of mean 1
    assert dormant(magnitudes, 0.0).tolist() == [1, 0, 0, 0]
    assert dormant(magnitudes, 0.025).tolist() == [1, 1, 0, 0]
    assert dormant(7 * magnitudes, 0.1).tolist() == [1, 1, 1, 0]


def test_a_layer_in_which_nothing_is_active_is_wholly_dormant() -> None:
    for threshold in (0.0, 0.025):
        assert dormant(torch.zeros(5), threshold).tolist() == [1] * 5
        assert set(draws_of([torch.zeros(9, 5, dtype=torch.float64)], threshold)) == {1.0}


def test_units_killed_in_a_network_are_counted_by_layer_and_whole() -> None:
    model = network()
    with torch.no_grad():
        model[2].bias[:] = 1
        model[2].weight[:4] = 0
        model[2].bias[:4] = -1
    found = measured(at(model, normal(200, 4)))
    assert found["dormant_units", "0"].estimate.value == 0
    assert found["dormant_units", "2"].estimate.value == pytest.approx(4 / 10)
    assert found["dormant_units", ""].estimate.value == pytest.approx(4 / 16)


def test_a_dead_layer_is_dormant_and_has_no_rank_and_no_nan() -> None:
    model = network()
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.fill_(-1)
    found = measured(at(model, normal(50, 4)))
    assert found["dormant_units", "2"].estimate.value == 1
    for name in ("feature_effective_rank", "feature_stable_rank", "feature_srank"):
        for layer in ("", "2"):
            assert (found[name, layer].estimate.value, found[name, layer].estimate.stderr) == (0, 0)


def magnitudes(n: int, seed: int) -> Tensor:
    """Sixty units, many with a mean magnitude around the threshold."""
    scales = torch.cat([torch.linspace(0, 0.1, 40), torch.ones(20)]).double()
    return normal(n, 60, seed=seed).relu() * scales


def test_the_standard_error_of_dormancy_covers_the_share_in_as_many_samples() -> None:
    estimates = [mean_of(draws_of([magnitudes(100, seed)])) for seed in range(300)]
    values, errors = np.array([e.value for e in estimates]), np.array([e.stderr for e in estimates])
    assert values.std() > 0.005
    assert 0.9 <= np.mean(np.abs(values - values.mean()) < 1.96 * errors) <= 0.995


def test_the_draws_of_two_snapshots_are_paired() -> None:
    one = magnitudes(100, 0)
    other = one * (1 + 0.001 * torch.arange(60))
    a, b = draws_of([one]), draws_of([other])
    assert np.std(a - b) < 0.8 * math.hypot(np.std(a), np.std(b))


def test_a_network_without_activation_functions_in_sight_has_no_dormant_units_but_ranks() -> None:
    found = measured(kind("LSTM", 12))
    assert found["dormant_units", ""].estimate.outcome is Outcome.NOT_APPLICABLE
    assert found["feature_effective_rank", ""].estimate.outcome is Outcome.OK


def test_weights_that_are_not_numbers_give_values_that_are_none() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    for of in measured(at(model, normal(50, 4))).values():
        assert of.estimate.outcome is Outcome.NON_FINITE


def test_the_ranks_are_those_of_the_uncentred_features() -> None:
    model, x = network(), normal(200, 4)
    found = measured(at(model, x), delta=0.1)
    with torch.no_grad():
        singular = torch.linalg.svdvals(model[:4](x))
    p = singular / singular.sum()
    for layer in ("", "2"):
        assert found["feature_effective_rank", layer].estimate.value == pytest.approx(
            float((-p.xlogy(p)).sum().exp()), rel=1e-6
        )
        assert found["feature_stable_rank", layer].estimate.value == pytest.approx(
            float((singular / singular[0]).square().sum())
        )
        assert found["feature_srank", layer].estimate.value == int((p.cumsum(0) < 0.9).sum()) + 1
        assert found["feature_srank", layer].estimate.stderr >= 12**-0.5


def test_layers_are_left_out_on_request() -> None:
    found = measured(at(network(), normal(50, 4)), per_layer=False)
    assert {layer for _, layer in found} == {""}


def test_random_labels_learnt_too_fast_leave_fewer_units_and_directions() -> None:
    """The mark of lost plasticity: large steps on labels that keep changing kill units."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    x = torch.randn(256, 16)
    before = measured(at(model, x))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(6):
        y = torch.randint(10, (256,))
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    after = measured(at(model, x))
    dormancy, rank = ("dormant_units", ""), ("feature_effective_rank", "")
    assert after[dormancy].estimate.value > before[dormancy].estimate.value + 0.1
    assert after[rank].estimate.value < 0.8 * before[rank].estimate.value


def test_settings_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ValueError, match="Got samples=7; need at least 8"):
        Features(samples=7)
    with pytest.raises(ValueError, match="Got threshold=1"):
        Features(threshold=1)
    with pytest.raises(ValueError, match="Got delta=0"):
        Features(delta=0)
