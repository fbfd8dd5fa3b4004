import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators import fisher
from probe_agent.estimators.draws import jackknife_draws, mean_of, ratio_draws
from probe_agent.estimators.fisher import fisher_draws, layer_of
from probe_agent.likelihood import Categorical, Gaussian
from probe_agent.probe import Measurement
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.snapshot import Snapshot
from probe_wire import Outcome
from tests import problems
from tests.problems import Problem, snapshot_of


def whole(layers: dict[str, np.ndarray] | None) -> float:
    assert layers is not None
    return float(np.mean(np.sum(list(layers.values()), axis=0)))


def squared_gradient(snapshot: Snapshot, value: Tensor) -> float:
    gradients = torch.autograd.grad(value, snapshot.params.values(), retain_graph=True, allow_unused=True)
    return sum(float(g.square().sum()) for g in gradients if g is not None)


def logits_and_targets(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, targets and squared input norms of a regression."""
    x = snapshot.probe_set.inputs
    assert isinstance(x, Tensor)
    p = snapshot.outputs().softmax(-1).detach().numpy()
    return p, snapshot.probe_set.targets.numpy(), x.square().sum(1).numpy()


# -- known answers ------------------------------------------------------------------------------


def test_softmax_regression_has_its_closed_form() -> None:
    snapshot = snapshot_of(problems.softmax_regression())
    p, y, xx = logits_and_targets(snapshot)
    found = fisher_draws(snapshot)
    assert found.labels == "exact"
    np.testing.assert_allclose(found.true["weight"] + found.true["bias"], (1 - (p**2).sum(1)) * (xx + 1), rtol=1e-12)
    misses = ((p - np.eye(3)[y]) ** 2).sum(1)
    np.testing.assert_allclose(found.empirical["weight"], misses * xx, rtol=1e-12)
    np.testing.assert_allclose(found.empirical["bias"], misses, rtol=1e-12)


def test_uniform_predictions_give_one_minus_one_over_the_classes() -> None:
    problem = problems.softmax_regression()
    for p in problem.model.parameters():
        p.data.zero_()
    snapshot = snapshot_of(problem)
    _, _, xx = logits_and_targets(snapshot)
    np.testing.assert_allclose(fisher_draws(snapshot).true["weight"], (1 - 1 / 3) * xx, rtol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_linear_regression_has_the_trace_of_its_second_moments(outputs: int) -> None:
    snapshot = snapshot_of(problems.linear_regression(outputs=outputs))
    x = snapshot.probe_set.inputs
    assert isinstance(x, Tensor)
    assert snapshot.likelihood == Gaussian()
    assert whole(fisher_draws(snapshot).true) == pytest.approx(outputs * float(torch.trace(x.T @ x)) / len(x))


@pytest.mark.parametrize("problem", problems.CLASSIFIERS)
def test_the_exact_mode_is_the_sum_over_all_labels(problem: Callable[[], Problem]) -> None:
    snapshot = snapshot_of(problem())
    logp = snapshot.outputs().log_softmax(-1)
    expected = [
        sum(float(logp[i, c].detach().exp()) * squared_gradient(snapshot, logp[i, c]) for c in range(logp.shape[1]))
        for i in range(len(logp))
    ]
    found = fisher_draws(snapshot, labels="exact")
    assert found.true is not None
    np.testing.assert_allclose(np.sum(list(found.true.values()), axis=0), expected, rtol=1e-10)
    y = snapshot.probe_set.targets
    data = [squared_gradient(snapshot, logp[i, y[i]]) for i in range(len(logp))]
    np.testing.assert_allclose(np.sum(list(found.empirical.values()), axis=0), data, rtol=1e-10)


def test_a_sequence_is_counted_per_prediction_and_equals_the_gauss_newton_trace_of_the_mean_token_loss() -> None:
    snapshot = snapshot_of(problems.token_transformer())
    logp = snapshot.outputs().log_softmax(-1)
    n, t, c = logp.shape
    joint = 0.0
    for i in range(n):
        for y in itertools.product(range(c), repeat=t):
            value = sum((logp[i, j, y[j]] for j in range(t)), torch.zeros((), dtype=torch.float64))
            joint += float(value.detach().exp()) * squared_gradient(snapshot, value)
    found = fisher_draws(snapshot, labels="exact")
    assert whole(found.true) == pytest.approx(joint / (n * t), rel=1e-10)

    # tr(GGN) of the loss averaged over tokens is Σ_ab H_ab ⟨∇f_a, ∇f_b⟩, H its Hessian by the logits.
    f = snapshot.outputs()
    hessian = torch.autograd.functional.hessian(
        lambda z: F.cross_entropy(z.reshape(-1, c), snapshot.probe_set.targets.flatten()), f.detach().flatten()
    )
    rows = [torch.autograd.grad(v, snapshot.params.values(), retain_graph=True) for v in f.flatten()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    assert whole(found.true) == pytest.approx(float((hessian * (jacobian @ jacobian.T)).sum()), rel=1e-10)

    data = [
        squared_gradient(snapshot, logp[i].gather(-1, snapshot.probe_set.targets[i][:, None]).sum()) for i in range(n)
    ]
    assert whole(found.empirical) == pytest.approx(sum(data) / (n * t), rel=1e-10)


def test_ignored_predictions_are_not_counted() -> None:
    problem = problems.token_transformer()
    problem.probe_set.targets[0, 1:] = -100
    problem.probe_set.targets[2] = -100
    snapshot = snapshot_of(problem)
    logp = snapshot.outputs().log_softmax(-1)
    scored = [(0, 0), *((i, j) for i in (1, 3) for j in range(3))]
    expected = sum(
        float(logp[i, j, c].detach().exp()) * squared_gradient(snapshot, logp[i, j, c])
        for i, j in scored
        for c in range(3)
    )
    found = fisher_draws(snapshot, labels="exact")
    assert whole(found.true) == pytest.approx(expected / len(scored), rel=1e-10)


def test_a_model_that_ends_in_log_softmax_has_the_same_fisher_information() -> None:
    problem = problems.mlp()
    ended = Problem(nn.Sequential(problem.model, nn.LogSoftmax(-1)), F.nll_loss, problem.probe_set)
    plain, logged = fisher_draws(snapshot_of(problem)), fisher_draws(snapshot_of(ended))
    assert logged.score == "likelihood"
    assert whole(logged.true) == pytest.approx(whole(plain.true))
    assert whole(logged.empirical) == pytest.approx(whole(plain.empirical))


# -- sampled labels -----------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [problems.mlp, problems.token_transformer])
def test_sampled_labels_are_unbiased_in_every_layer(problem: Callable[[], Problem]) -> None:
    snapshot = snapshot_of(problem())
    exact = fisher_draws(snapshot, labels="exact").true
    many = 400
    sampled = fisher_draws(snapshot, labels="sampled", draws=many).true
    one_draw = [fisher_draws(snapshot_of(problem(), seed), labels="sampled").true for seed in range(60)]
    assert exact is not None
    assert sampled is not None
    for layer, draws in exact.items():
        means = np.array([drawn[layer].mean() for drawn in one_draw if drawn is not None])
        assert abs(means.mean() - draws.mean()) <= 4 * means.std(ddof=1) / math.sqrt(means.size)
        # The mean over many draws of one seed has the spread of one draw divided by their number.
        assert abs(sampled[layer].mean() - draws.mean()) <= 4 * means.std(ddof=1) / math.sqrt(many)


def test_sampled_labels_of_a_gaussian_are_unbiased() -> None:
    snapshot = snapshot_of(problems.linear_regression(outputs=3))
    exact = fisher_draws(snapshot, labels="exact")
    sampled = fisher_draws(snapshot, labels="sampled", draws=3)
    # For a linear layer every sign gives ‖x‖² a row, so even one draw is exact.
    np.testing.assert_allclose(sampled.true["weight"], exact.true["weight"], rtol=1e-12)


@pytest.mark.parametrize("labels", ["exact", "sampled"])
def test_the_reported_error_covers_the_truth(labels: fisher.Labels) -> None:
    """Fresh probe sets and label draws; the truth is the mean over a large population."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for p in model.parameters():
        p.data *= 2
    population = problems.vectors(40_000, 4, 3, seed=1)
    truth = whole(
        fisher_draws(Snapshot.take(model, 0, population, F.cross_entropy, Categorical(), 0), labels="exact").true
    )
    assert isinstance(population.inputs, Tensor)
    n, hits, repeats = 128, 0, 150  # errors of 0.7 of what they should be cover 83 in a hundred
    for seed in range(repeats):
        part = slice(n * seed, n * (seed + 1))
        probe_set = ProbeSet(population.inputs[part], population.targets[part])
        found = fisher_draws(Snapshot.take(model, 0, probe_set, F.cross_entropy, Categorical(), seed), labels=labels)
        estimate = mean_of(np.sum(list(found.true.values()), axis=0))
        hits += abs(estimate.value - truth) <= 1.96 * estimate.stderr
    assert 0.90 <= hits / repeats <= 0.98


def test_two_snapshots_of_the_same_weights_give_identical_values() -> None:
    first = fisher_draws(snapshot_of(problems.mlp()), labels="sampled", draws=2)
    torch.rand(100)
    second = fisher_draws(snapshot_of(problems.mlp()), labels="sampled", draws=2)
    for layer, draws in first.true.items():
        assert np.array_equal(draws, second.true[layer])


def test_another_seed_draws_other_labels() -> None:
    first, other = (fisher_draws(snapshot_of(problems.mlp(), seed), labels="sampled").true for seed in (0, 1))
    assert not np.array_equal(first["0"], other["0"])


def test_common_labels_make_a_small_move_of_the_weights_a_small_move_of_the_trace() -> None:
    problem = problems.softmax_regression(n=256)
    before = fisher_draws(snapshot_of(problem), labels="sampled").true
    for p in problem.model.parameters():
        p.data += 1e-3 * torch.randn_like(p)
    after = fisher_draws(snapshot_of(problem), labels="sampled").true
    fresh = fisher_draws(snapshot_of(problem, seed=1), labels="sampled").true
    paired = np.std(after["weight"] - before["weight"])
    assert paired < 0.2 * np.std(fresh["weight"] - before["weight"])


def test_exact_is_chosen_where_it_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fisher_draws(snapshot_of(problems.mlp())).labels == "exact"
    monkeypatch.setattr(fisher, "EXACT_BYTES", 100)
    assert fisher_draws(snapshot_of(problems.mlp())).labels == "sampled"
    monkeypatch.undo()
    monkeypatch.setattr(fisher, "EXACT_OUTPUTS", 2)
    assert fisher_draws(snapshot_of(problems.mlp())).labels == "sampled"


# -- where it is not defined --------------------------------------------------------------------


def smoothed() -> Problem:
    problem = problems.mlp()
    return Problem(problem.model, nn.CrossEntropyLoss(label_smoothing=0.1), problem.probe_set)


def test_without_a_likelihood_only_the_empirical_trace_is_defined_by_the_loss() -> None:
    snapshot = snapshot_of(smoothed())
    found = fisher_draws(snapshot)
    assert found.true is None
    assert found.score == "loss"
    assert 'attach(likelihood="categorical")' in found.undefined
    losses = [
        snapshot.loss_fn(snapshot.outputs()[i : i + 1], snapshot.probe_set.targets[i : i + 1])
        for i in range(snapshot.probe_set.n)
    ]
    expected = np.mean([squared_gradient(snapshot, loss) for loss in losses])
    assert whole(found.empirical) == pytest.approx(expected, rel=1e-10)


def test_a_named_likelihood_that_does_not_fit_the_outputs_is_refused_in_words() -> None:
    problem = problems.linear_regression()
    snapshot = Snapshot.take(problem.model, 0, problem.probe_set, problem.loss_fn, Categorical(), 0)
    found = fisher_draws(snapshot)
    assert found.true is None
    assert (
        found.undefined == "A categorical likelihood does not fit outputs (12, 1) with torch.float64 targets (12, 1)."
    )


def test_a_probe_batch_of_ignored_targets_has_no_fisher_information() -> None:
    problem = problems.mlp()
    problem.probe_set.targets[:] = -100
    snapshot = Snapshot.take(problem.model, 0, problem.probe_set, lambda f, _: f.square().mean(), Categorical(), 0)
    assert "marked as ignored" in fisher_draws(snapshot).undefined


def test_an_exact_sum_too_large_for_memory_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fisher, "SCORES_BYTES", 100)
    found = fisher_draws(snapshot_of(problems.token_transformer()), labels="exact")
    assert found.true is None
    assert 'use labels="sampled"' in found.undefined


def test_models_that_cannot_be_measured_say_why() -> None:
    class InDict(nn.Linear):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": super().forward(x)}

    class Transposed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).T

    for kind, words in (
        (InDict, "returns dict; need one tensor"),
        (Transposed, r"outputs of shape \(3, 6\) for 6 samples"),
    ):
        snapshot = Snapshot.take(kind(4, 3).double(), 0, problems.vectors(6, 4, 3), F.cross_entropy, None, 0)
        with pytest.raises(NotApplicable, match=words):
            fisher_draws(snapshot)
    problem = problems.mlp()
    problem.model.requires_grad_(requires_grad=False)
    with pytest.raises(NotApplicable, match="all frozen"):
        fisher_draws(snapshot_of(problem))


# -- draws ---------------------------------------------------------------------------------------


def test_unequal_counts_give_the_ratio_and_its_delta_method_error() -> None:
    rng = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(2000):
        counts = rng.integers(1, 9, size=60).astype(float)
        amounts = counts * rng.gamma(2.0, 1.0, size=60)
        draws = ratio_draws(amounts, counts)
        assert draws.mean() == pytest.approx(amounts.sum() / counts.sum(), rel=1e-12)
        estimates.append(draws.mean())
        errors.append(mean_of(draws).stderr)
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.06)


def test_a_jackknife_of_a_mean_has_the_error_of_the_mean_of_its_groups() -> None:
    values = np.random.default_rng(0).normal(size=(8, 5))
    without = np.array([np.delete(values, g, axis=0).mean() for g in range(8)])
    draws = jackknife_draws(values.mean(), without)
    np.testing.assert_allclose(draws, values.mean(1), rtol=1e-12)


def test_one_draw_has_no_error() -> None:
    assert math.isnan(mean_of(np.array([2.0])).stderr)
    assert mean_of(np.array([2.0])).value == 2.0


# -- the probe -----------------------------------------------------------------------------------


def measured(problem: Problem, probe: FisherTrace | None = None) -> dict[tuple[str, str], Measurement]:
    found = list((probe or FisherTrace()).measure(snapshot_of(problem), {}))
    keyed = {(m.quantity.name, m.labels.get("layer", "")): m for m in found}
    assert len(keyed) == len(found)
    return keyed


@pytest.mark.parametrize("problem", [*problems.CLASSIFIERS, problems.token_transformer, problems.linear_regression])
def test_layers_add_up_to_the_whole(problem: Callable[[], Problem]) -> None:
    found = measured(problem())
    for quantity in ("fisher_trace", "fisher_trace_empirical"):
        total = found[quantity, ""].estimate
        layers = [m.estimate.value for (name, layer), m in found.items() if name == quantity and layer]
        assert sum(layers) == pytest.approx(total.value, rel=1e-12)
        assert total.outcome is Outcome.OK
        assert total.n == problem().probe_set.n
    for m in found.values():
        assert m.draws is not None
        assert m.estimate.value == m.draws.mean()
        assert m.estimate.stderr == pytest.approx(mean_of(m.draws).stderr)


def test_layers_are_named_by_the_module_that_owns_the_parameters() -> None:
    assert [layer for name, layer in measured(problems.conv_batch_norm()) if name == "fisher_trace"] == [
        *("", "0", "1", "3", "4", "6"),
    ]
    assert [layer for name, layer in measured(problems.unused_parameter()) if name == "fisher_trace"] == [
        *("", "gain", "used", "unused"),
    ]
    assert layer_of("features.0.weight") == "features.0"
    assert layer_of("weight") == "weight"
    assert layer_of("features.0.parametrizations.weight.original0") == "features.0"
    assert layer_of("parametrizations.weight.original") == "weight"


def test_a_parametrised_layer_is_one_layer() -> None:
    torch.manual_seed(0)
    first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    problem = Problem(
        nn.Sequential(first, nn.Tanh(), nn.Linear(5, 3)).double(), F.cross_entropy, problems.vectors(6, 4, 3)
    )
    assert [layer for name, layer in measured(problem) if name == "fisher_trace"] == ["", "0", "2"]


def test_settings_say_how_the_numbers_were_made() -> None:
    found = measured(problems.mlp())
    assert found["fisher_trace", ""].settings == {"labels": "exact", "route": "factored", "n": "6"}
    assert found["fisher_trace_empirical", "0"].settings == {"score": "likelihood", "route": "factored", "n": "6"}
    found = measured(problems.lstm(), FisherTrace(labels="sampled", draws=2))
    assert found["fisher_trace", "lstm"].settings == {
        "labels": "sampled",
        "draws": "2",
        "route": "loop",
        "route_because": "not factored: no rule for LSTM at lstm",
        "n": "4",
    }


def test_layers_can_be_left_out() -> None:
    assert list(measured(problems.mlp(), FisherTrace(per_layer=False))) == [
        ("fisher_trace", ""),
        ("fisher_trace_empirical", ""),
        ("fisher_trace_per_parameter", ""),
    ]
    assert len(measured(smoothed(), FisherTrace(per_layer=False))) == 3


def test_an_undefined_true_trace_is_a_visible_gap_beside_the_empirical_one() -> None:
    defined, found = measured(problems.mlp()), measured(smoothed())
    assert set(found) == set(defined)
    for (name, _), m in found.items():
        if name != "fisher_trace_empirical":
            assert m.estimate.outcome is Outcome.NOT_APPLICABLE
            assert m.settings["reason"].startswith("The loss is not a known likelihood")
        else:
            assert m.estimate.outcome is Outcome.OK
            assert m.settings["score"] == "loss"


@pytest.mark.parametrize("problem", [problems.mlp, problems.conv_batch_norm, problems.transformer, problems.lstm])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("labels", ["exact", "sampled"])
def test_weights_that_are_not_finite_give_an_estimate_that_says_so(
    problem: Callable[[], Problem], poison: float, labels: fisher.Labels
) -> None:
    made = problem()
    likelihood = snapshot_of(made).likelihood
    for p in made.model.parameters():
        p.data[..., 0] = poison
    snapshot = Snapshot.take(made.model, 0, made.probe_set, made.loss_fn, likelihood, 0)
    for m in FisherTrace(labels=labels).measure(snapshot, {}):
        if not m.labels:
            assert m.estimate.outcome is Outcome.NON_FINITE


def test_settings_that_do_not_exist_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="Got labels='all'; need \"auto\""):
        FisherTrace(labels="all")
    with pytest.raises(ValueError, match="Got draws=0"):
        FisherTrace(draws=0)


@pytest.mark.parametrize("problem", [*problems.CLASSIFIERS, problems.token_transformer])
def test_measuring_leaves_no_trace_in_training(problem: Callable[[], Problem]) -> None:
    made = problem()
    made.model.train()
    for p in made.model.parameters():
        p.grad = torch.full_like(p, 0.5)
    weights = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    modes = [module.training for module in made.model.modules()]
    snapshot = snapshot_of(made)
    stream = torch.get_rng_state()
    frozen = {name: tensor.clone() for name, tensor in snapshot.model.state_dict().items()}

    list(FisherTrace(labels="sampled").measure(snapshot, {}))

    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in made.model.state_dict().items())
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in snapshot.model.state_dict().items())
    assert all(bool((p.grad == 0.5).all()) for p in made.model.parameters() if p.grad is not None)
    assert all(p.grad is None for p in snapshot.model.parameters())
    assert [module.training for module in made.model.modules()] == modes
    assert not any(module._forward_hooks for module in snapshot.model.modules())


def test_the_trace_per_parameter_and_the_shares_are_views_of_the_same_trace() -> None:
    found = measured(problems.mlp())
    whole = found["fisher_trace", ""].estimate
    count = sum(p.numel() for p in problems.mlp().model.parameters())
    per = found["fisher_trace_per_parameter", ""]
    assert per.estimate.value == pytest.approx(whole.value / count)
    assert per.estimate.stderr == pytest.approx(whole.stderr / count)
    assert per.settings["trainable"].startswith(f"{count} in ")
    shares = {layer: m.estimate for (name, layer), m in found.items() if name == "fisher_trace_share"}
    assert sum(share.value for share in shares.values()) == pytest.approx(1)
    for layer, share in shares.items():
        assert share.value == pytest.approx(found["fisher_trace", layer].estimate.value / whole.value)


def test_unfreezing_changes_the_mark_of_the_trainable_set() -> None:
    problem = problems.mlp()
    before = measured(problem)["fisher_trace_per_parameter", ""].settings["trainable"]
    problem.model[0].requires_grad_(False)  # type: ignore[index]
    assert measured(problem)["fisher_trace_per_parameter", ""].settings["trainable"] != before
