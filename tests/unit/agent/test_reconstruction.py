"""Reconstruction and linear probes: against refitting without each sample, closed forms, the best decoder there is, and coverage."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_digits
from torch import Tensor, nn

from probe_agent.estimators import reconstruction
from probe_agent.estimators.draws import Draws, mean_of, numbers
from probe_agent.estimators.features import features_of
from probe_agent.estimators.ranks import spectrum
from probe_agent.estimators.reconstruction import input_coordinates, probe_hits, reconstruction_draws
from probe_agent.estimators.ridge import leave_one_out, squared_errors
from probe_agent.estimators.trained_decoder import trained_decoder
from probe_agent.likelihood import IGNORED
from probe_agent.pairing import paired_stderr
from probe_agent.probe import Measurement
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.reconstruction import Reconstruction
from probe_agent.snapshot import Snapshot
from probe_wire import Outcome
from tests import problems
from tests.curvature_problems import labels, normal
from tests.problems import Problem, snapshot_of


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Hundreds of tiny decompositions: threads that wait for one another would take most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawn(h: Tensor, x: Tensor, seed: int = 0) -> Draws:
    coordinates = input_coordinates(x, torch.Generator().manual_seed(seed))
    return reconstruction_draws(spectrum(features_of(h), centred=True), coordinates)


def loss(h: Tensor, x: Tensor, seed: int = 0) -> float:
    return float(drawn(h, x, seed).mean())


def measured(snapshot: Snapshot, **settings: int | bool) -> dict[tuple[str, str], Measurement]:
    """By quantity and layer."""
    return {(m.quantity.name, m.labels.get("layer", "")): m for m in Reconstruction(**settings).measure(snapshot, {})}


def ridge(h: Tensor, t: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights and offset of the ridge regression with a free mean."""
    centred = h - h.mean(0)
    eye = torch.eye(h.shape[1], dtype=h.dtype)
    weights = torch.linalg.solve(centred.T @ centred + penalty * eye, centred.T @ (t - t.mean(0)))
    return weights, t.mean(0) - h.mean(0) @ weights


def fixed_penalty(monkeypatch: pytest.MonkeyPatch, h: Tensor, penalty: float) -> None:
    """Leave nothing to choose."""
    decade = math.log10(penalty / float(spectrum(features_of(h), centred=True).squares.mean()))
    monkeypatch.setattr("probe_agent.estimators.ridge.PENALTIES", (decade, decade, 1))


@pytest.mark.parametrize("width", [5, 40])
def test_the_error_of_each_sample_is_that_of_refitting_without_it(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    h, t = normal(15, width), normal(15, 3, seed=1)
    fixed_penalty(monkeypatch, h, 0.7)
    errors = leave_one_out(spectrum(features_of(h), centred=True), t)
    for i in range(15):
        others = torch.arange(15) != i
        weights, offset = ridge(h[others], t[others], 0.7)
        torch.testing.assert_close(errors[i], t[i] - h[i] @ weights - offset)


@pytest.mark.parametrize(("width", "within"), [(3, 0.03), (20, 0.1)])
def test_the_parts_are_what_the_jackknife_finds_by_refitting(
    monkeypatch: pytest.MonkeyPatch, width: int, within: float
) -> None:
    n = 60
    h = normal(n, width)
    t = h @ normal(width, 2, seed=1) + normal(n, 2, seed=2)
    fixed_penalty(monkeypatch, h, 1.0)
    of = spectrum(features_of(h), centred=True)
    whole, parts = leave_one_out(of, t).square().sum(), numbers(squared_errors(of, t))
    assert parts.sum() == pytest.approx(float(whole), rel=1e-12)
    owed = []
    for j in range(n):
        others = torch.arange(n) != j
        fixed_penalty(monkeypatch, h[others], 1.0)
        without = leave_one_out(spectrum(features_of(h[others]), centred=True), t[others])
        owed.append(float(whole - without.square().sum()))
    assert np.corrcoef(parts, owed)[0, 1] > 0.95
    assert parts.std() == pytest.approx(np.std(owed), rel=within)


def test_an_invertible_linear_network_loses_nothing() -> None:
    x = normal(50, 6)
    assert loss(x @ normal(6, 6, seed=1) + 3, x) < 1e-12


def test_features_that_say_nothing_of_the_input_have_a_loss_of_one() -> None:
    values = [loss(normal(60, 10, seed=2 * s), normal(60, 6, seed=2 * s + 1)) for s in range(40)]
    assert np.mean(values) == pytest.approx(1, abs=0.01)
    assert min(values) > 0.97


@pytest.mark.parametrize("width", [10, 100])
def test_a_dead_layer_has_a_loss_of_exactly_one_and_guesses_the_most_common_label(width: int) -> None:
    dead, y = torch.full((60, width), 3.0), labels(60)
    draws = drawn(dead, normal(60, 6))
    assert draws.mean() == pytest.approx(1, abs=1e-12)
    assert mean_of(draws).stderr == pytest.approx(0, abs=1e-12)
    hits = probe_hits(spectrum(features_of(dead), centred=True), y)
    assert hits.mean() == float(y.bincount().max()) / 60


@pytest.mark.parametrize("k", [1, 3, 7])
def test_principal_components_leave_the_variance_of_the_others(k: int) -> None:
    n, d = 4000, 10
    x = normal(n, d) * 2.0 ** -torch.arange(d)
    variances = torch.linalg.svdvals(x - x.mean(0)).square()
    rotation = torch.linalg.svd(x - x.mean(0)).Vh
    expected = float(variances[k:].sum() / variances.sum())
    assert loss(x @ rotation[:k].T, x) == pytest.approx(expected, rel=4 * k / n)


def test_scale_rotation_and_offset_of_the_features_change_nothing() -> None:
    h, x = normal(60, 8).relu(), normal(60, 8) @ normal(8, 20, seed=1)
    rotation = torch.linalg.qr(normal(8, 8, seed=2)).Q
    expected = drawn(h, x)
    for moved in (1e-4 * h, 1e4 * h, h @ rotation, h + 5):
        np.testing.assert_allclose(drawn(moved, x), expected, rtol=1e-6)


def test_any_invertible_map_of_features_that_are_well_determined_changes_little() -> None:
    x = normal(2000, 8) @ normal(8, 20, seed=1)
    h = (x @ normal(20, 8, seed=2)).relu()
    assert loss(h @ normal(8, 8, seed=3), x) == pytest.approx(loss(h, x), rel=1e-3)


def test_mixing_the_minor_coordinates_keeps_the_loss_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(200, 300) / torch.arange(1, 301) ** 0.5
    h = (x @ normal(300, 40, seed=1)).relu()
    mixed = [loss(h, x, seed) for seed in range(20)]
    monkeypatch.setattr(reconstruction, "PRINCIPAL", 300)
    whole = loss(h, x)
    assert np.mean(mixed) == pytest.approx(whole, abs=3 * np.std(mixed) / math.sqrt(20))
    assert np.std(mixed) < 0.01 * whole


def test_token_inputs_are_reconstructed_as_one_hot_codes() -> None:
    tokens = torch.randint(5, (40, 6), generator=torch.Generator().manual_seed(0))
    codes = F.one_hot(tokens).flatten(1).double()
    h = (codes @ normal(30, 8)).relu()
    assert loss(h, tokens) == pytest.approx(loss(h, codes), rel=1e-9)


def test_a_linear_probe_without_a_signal_is_right_by_chance() -> None:
    y = torch.arange(60) % 3
    hits = [probe_hits(spectrum(features_of(normal(60, 10, seed=s)), centred=True), y).mean() for s in range(100)]
    assert np.mean(hits) == pytest.approx(1 / 3, abs=0.03)


def test_a_linear_probe_finds_labels_that_are_linear_in_the_features() -> None:
    x = normal(400, 3)
    y = (x @ torch.eye(3, dtype=torch.float64)).argmax(1)
    hits = probe_hits(spectrum(features_of(x), centred=True), y)
    assert set(hits) <= {0, 1}
    assert hits.mean() > 0.9


MIXING = normal(20, 20, seed=12345)


def world(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, their features and labels from one fixed distribution."""
    x = normal(n, 20, seed=seed) @ MIXING
    h = (x @ normal(20, 30, seed=54321) / 4 - 0.5).relu()
    return x, h, (x @ MIXING[:, :4]).argmax(1)


@pytest.mark.parametrize("n", [64, 200])
def test_standard_errors_cover_what_other_probe_sets_give(n: int) -> None:
    losses, accuracies = [], []
    for seed in range(250):
        x, h, y = world(n, seed)
        losses.append(mean_of(drawn(h, x)))
        accuracies.append(mean_of(probe_hits(spectrum(features_of(h), centred=True), y)))
    for estimates in (losses, accuracies):
        values, errors = np.array([e.value for e in estimates]), np.array([e.stderr for e in estimates])
        assert 0.9 <= np.mean(np.abs(values - values.mean()) < 1.96 * errors) <= 0.985


def fresh_error(h: Tensor, t: Tensor, penalty: float, fresh: tuple[Tensor, Tensor]) -> float:
    weights, offset = ridge(h, t, penalty)
    error = (fresh[1] - fresh[0] @ weights - offset).square().sum()
    return float(error / (fresh[1] - fresh[1].mean(0)).square().sum())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_loss_is_within_a_hundredth_of_the_best_linear_decoder_where_the_trained_one_is_not(scale: float) -> None:
    """Whatever the scale of the features. Best is the decoder of that penalty which does best on fresh samples."""
    fresh_x, fresh_h, _ = world(20_000, 1000)
    fresh = (scale * fresh_h, fresh_x)
    found, best, trained = [], [], []
    for seed in range(20):
        x, h, _ = world(400, seed)
        h = scale * h
        found.append(loss(h, x))
        best.append(min(fresh_error(h, x, float(p), fresh) for p in scale**2 * 10 ** torch.linspace(-2, 3, 11)))
        if seed == 0:
            trained.append(trained_decoder(h, x, fresh, torch.Generator().manual_seed(0)))
    assert np.mean(found) == pytest.approx(np.mean(best), rel=0.01)
    assert trained[0] > 1.5 * best[0]


def test_the_trained_decoder_comes_near_the_closed_form_when_it_is_given_time() -> None:
    x, h, _ = world(400, 1)
    held_out_x, held_out_h, _ = world(2000, 2)
    of, truth = (h - h.mean(0)) / h.std(0), x / x.std()
    held_out = ((held_out_h - h.mean(0)) / h.std(0), held_out_x / x.std())
    generator = torch.Generator().manual_seed(0)
    trained = trained_decoder(of, truth, held_out, generator, epochs=100, learning_rate=1e-2)
    assert trained == pytest.approx(loss(h, x), rel=0.05)


def digits_network() -> tuple[nn.Sequential, Tensor, Tensor]:
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    x = (x - x.mean()) / x.std()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    widths = ((64, 64), (64, 32), (32, 16))
    hidden = [layer for a, b in widths for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(16, 10)), x[order], y[order]


def test_a_network_that_learns_digits_goes_through_the_published_phases() -> None:
    """Near constant, then down, then up again (Schneider & Prabhushankar 2024), while the accuracy rises throughout."""
    model, x, y = digits_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(8193):
        if step in {0, 4, 512, 8192}:
            snapshot = snapshot_of(Problem(model, F.cross_entropy, ProbeSet(x[1300:], y[1300:])))
            found.append(measured(snapshot, per_layer=False))
        some = torch.randint(1300, (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[some]), y[some]).backward()
        optimizer.step()
    curve = [of["reconstruction_loss", ""] for of in found]
    start, still, least, end = (m.estimate.value for m in curve)
    assert still == pytest.approx(start, rel=0.02)
    assert least < 0.75 * start
    assert 1.03 * least < end < 0.9 * start
    assert curve[3].draws is not None
    assert end - least > 3 * math.sqrt(2) * paired_stderr(curve[3].draws, curve[2].draws)
    accuracies = [of["linear_probe_accuracy", ""].estimate.value for of in found]
    assert accuracies == sorted(accuracies)


def test_a_regression_has_no_linear_probe_and_ignored_labels_neither() -> None:
    regression = measured(snapshot_of(problems.linear_regression(20)))
    assert regression["linear_probe_accuracy", ""].estimate.outcome is Outcome.NOT_APPLICABLE
    assert regression["reconstruction_loss", ""].estimate.outcome is Outcome.OK
    problem = problems.softmax_regression(20)
    problem.probe_set.targets[3] = IGNORED
    assert measured(snapshot_of(problem))["linear_probe_accuracy", ""].estimate.outcome is Outcome.NOT_APPLICABLE


def test_inputs_that_are_all_the_same_have_nothing_to_reconstruct() -> None:
    problem = problems.softmax_regression(20)
    same = ProbeSet(torch.ones(20, 4, dtype=torch.float64), problem.probe_set.targets)
    found = measured(snapshot_of(Problem(problem.model, problem.loss_fn, same)))
    assert found["reconstruction_loss", ""].estimate.outcome is Outcome.NOT_APPLICABLE
    assert found["linear_probe_accuracy", ""].estimate.outcome is Outcome.OK


@pytest.mark.parametrize("n", [4, 200])
def test_weights_that_are_not_numbers_give_a_value_that_is_none(n: int) -> None:
    problem = problems.mlp(n)
    snapshot = snapshot_of(problem)
    with torch.no_grad():
        snapshot.model[0].weight[0, 0] = math.nan
    for of in measured(snapshot).values():
        assert of.estimate.outcome is Outcome.NON_FINITE


def test_the_estimates_are_those_of_the_draws_and_say_what_they_are_of() -> None:
    found = measured(snapshot_of(problems.mlp(40)))
    reconstructed, probed = found["reconstruction_loss", "0"], found["linear_probe_accuracy", "0"]
    assert reconstructed.draws is not None
    assert probed.draws is not None
    assert reconstructed.estimate.value == reconstructed.draws.mean()
    assert reconstructed.estimate.stderr == pytest.approx(mean_of(reconstructed.draws).stderr)
    assert reconstructed.settings == {"n": "40", "last": "input of 3", "target": "inputs"}
    assert probed.estimate.stderr > 0


def test_what_is_remembered_does_not_change_a_value() -> None:
    memory: dict[str, object] = {}
    for seed in range(2):
        snapshot = snapshot_of(problems.mlp(40), seed=0)
        warm = [m.estimate for m in Reconstruction().measure(snapshot, memory)]
        cold = [m.estimate for m in Reconstruction().measure(snapshot_of(problems.mlp(40), seed=0), {})]
        assert warm == cold, seed


def test_settings_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ValueError, match="Got samples=7; need at least 8"):
        Reconstruction(samples=7)
