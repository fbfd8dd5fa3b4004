import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent.estimators.draws import mean_of
from probe_agent.likelihood import Categorical
from probe_agent.probe import Measurement
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.loss import Loss
from probe_agent.snapshot import LossFn, Snapshot
from probe_wire import Outcome
from tests import problems
from tests.problems import Problem, snapshot_of


def measured(problem: Problem) -> tuple[Measurement, Measurement, float]:
    """The loss, the accuracy, and what the loss function gives for the whole batch."""
    snapshot = snapshot_of(problem)
    loss, accuracy = Loss().measure(snapshot, {})
    assert loss.quantity.name == "probe_loss"
    assert accuracy.quantity.name == "probe_accuracy"
    with torch.no_grad():
        return loss, accuracy, float(snapshot.loss())


def with_loss(loss_fn: LossFn, n: int = 40, seed: int = 0) -> Problem:
    problem = problems.softmax_regression(n, seed)
    return Problem(problem.model, loss_fn, problem.probe_set)


@pytest.mark.parametrize("problem", [*problems.CLASSIFIERS, problems.token_transformer])
def test_cross_entropy_is_the_mean_of_its_terms(problem: Callable[[], Problem]) -> None:
    loss, _, expected = measured(problem())
    assert loss.settings["terms"] == "likelihood"
    assert loss.estimate.value == expected
    assert loss.draws is not None
    assert loss.draws.mean() == pytest.approx(expected, rel=1e-12)
    assert loss.estimate.n == problem().probe_set.n
    assert loss.estimate.stderr == pytest.approx(mean_of(loss.draws).stderr)


def test_the_terms_of_cross_entropy_are_the_samples_losses() -> None:
    problem = problems.softmax_regression()
    loss, _, _ = measured(problem)
    inputs = problem.probe_set.inputs
    assert isinstance(inputs, Tensor)
    expected = F.cross_entropy(problem.model(inputs), problem.probe_set.targets, reduction="none")
    np.testing.assert_allclose(loss.draws, expected.detach(), rtol=1e-12)


@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(reduction="sum"),
        F.multi_margin_loss,
        lambda f, y: 3.0 * F.cross_entropy(f, y) + 0.1 * f.square().mean(),
        lambda f, y: F.cross_entropy(f, y) if f.sum().item() < math.inf else f.sum(),
    ],
)
def test_a_loss_that_adds_up_over_samples_has_the_error_of_its_samples(loss_fn: LossFn) -> None:
    loss, _, expected = measured(with_loss(loss_fn))
    assert loss.settings["terms"] in ("samples", "likelihood")
    assert loss.estimate.value == expected
    assert loss.draws is not None
    assert loss.draws.mean() == pytest.approx(expected, rel=1e-12)
    assert loss.estimate.n == 40


@pytest.mark.parametrize("outputs", [1, 3])
def test_squared_error_has_the_error_of_its_samples(outputs: int) -> None:
    loss, accuracy, expected = measured(problems.linear_regression(outputs=outputs))
    assert loss.settings["terms"] == "samples"
    assert loss.estimate.value == expected
    assert loss.estimate.stderr > 0
    assert accuracy.estimate.outcome is Outcome.NOT_APPLICABLE


def test_ignored_tokens_count_in_neither_the_loss_nor_its_error() -> None:
    problem = problems.token_transformer()
    problem.probe_set.targets[0, 1:] = -100
    problem.probe_set.targets[2] = -100
    loss, accuracy, expected = measured(problem)
    assert loss.settings["terms"] == "likelihood"
    assert loss.estimate.value == pytest.approx(expected)
    hits = (snapshot_of(problem).outputs().argmax(-1) == problem.probe_set.targets).sum()
    assert accuracy.estimate.value == pytest.approx(int(hits) / 7)


def test_a_weighted_mean_has_the_error_of_a_jackknife() -> None:
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    ratios = []
    for seed in range(40):
        problem = with_loss(nn.CrossEntropyLoss(weight=weights), 64, seed)
        loss, _, expected = measured(problem)
        assert loss.settings["terms"] == "jackknife"
        assert loss.estimate.value == expected
        assert loss.estimate.n == 16
        assert loss.draws is not None
        assert loss.draws.mean() == pytest.approx(expected, rel=1e-12)
        # The delta method's error of the same ratio, from its terms.
        snapshot = snapshot_of(problem)
        w, targets = weights[snapshot.probe_set.targets].numpy(), snapshot.probe_set.targets
        terms = w * F.cross_entropy(snapshot.outputs(), targets, reduction="none").detach().numpy()
        residuals = (terms - expected * w) / w.mean()
        ratios.append(loss.estimate.stderr / (residuals.std(ddof=1) / 8))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_a_contrast_between_samples_has_the_error_of_a_jackknife() -> None:
    def contrast(f: Tensor, _: Tensor) -> Tensor:
        return F.cross_entropy(f @ f.T, torch.arange(len(f)))

    loss, _, expected = measured(with_loss(contrast))
    assert loss.settings["terms"] == "jackknife"
    assert loss.estimate.value == expected
    assert loss.estimate.stderr > 0


def test_a_loss_that_needs_its_whole_batch_has_no_error_and_says_so() -> None:
    def whole(f: Tensor, y: Tensor) -> Tensor:
        if len(f) != 40:
            raise ValueError("need 40")
        return F.cross_entropy(f, y) + f.std()

    loss, _, expected = measured(with_loss(whole))
    assert loss.settings["terms"] == "unknown"
    assert loss.estimate.value == expected
    assert math.isnan(loss.estimate.stderr)
    assert loss.draws is None


def test_outputs_of_a_type_of_their_own_are_computed_again_for_the_jackknife() -> None:
    class InDict(nn.Linear):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": super().forward(x)}

    torch.manual_seed(0)
    problem = Problem(
        InDict(4, 3).double(), lambda out, y: F.cross_entropy(out["logits"], y), problems.vectors(64, 4, 3)
    )
    loss, accuracy, expected = measured(problem)
    assert loss.settings["terms"] == "jackknife"
    assert loss.estimate.value == expected
    inputs = problem.probe_set.inputs
    assert isinstance(inputs, Tensor)
    terms = F.cross_entropy(problem.model(inputs)["logits"], problem.probe_set.targets, reduction="none")
    groups = terms.detach().reshape(4, 16).mean(0)
    np.testing.assert_allclose(loss.draws, groups, rtol=1e-10)
    assert accuracy.estimate.outcome is Outcome.NOT_APPLICABLE


def test_accuracy_is_the_share_of_hits() -> None:
    problem = problems.softmax_regression(40)
    _, accuracy, _ = measured(problem)
    inputs = problem.probe_set.inputs
    assert isinstance(inputs, Tensor)
    hits = (problem.model(inputs).argmax(-1) == problem.probe_set.targets).double()
    assert accuracy.estimate.value == pytest.approx(float(hits.mean()))
    assert accuracy.estimate.stderr == pytest.approx(mean_of(hits.numpy()).stderr)
    assert accuracy.quantity.unit == "ratio"
    np.testing.assert_array_equal(accuracy.draws, hits)


def test_accuracy_needs_a_categorical_likelihood() -> None:
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    _, accuracy, _ = measured(with_loss(smoothed))
    assert accuracy.estimate.outcome is Outcome.NOT_APPLICABLE
    named = Snapshot.take(
        *(problems.softmax_regression().model, 0, problems.softmax_regression().probe_set, smoothed), Categorical(), 0
    )
    _, accuracy = Loss().measure(named, {})
    assert accuracy.estimate.outcome is Outcome.OK


def test_the_error_covers_the_truth() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    population = problems.vectors(30_000, 4, 3, seed=1)
    assert isinstance(population.inputs, Tensor)
    truth = float(F.cross_entropy(model(population.inputs), population.targets).detach())
    hits = 0
    for i in range(300):
        part = slice(100 * i, 100 * (i + 1))
        probe_set = ProbeSet(population.inputs[part], population.targets[part])
        loss, _ = Loss().measure(Snapshot.take(model, 0, probe_set, F.cross_entropy, Categorical(), 0), {})
        hits += abs(loss.estimate.value - truth) <= 1.96 * loss.estimate.stderr
    assert 0.90 <= hits / 300 <= 0.98


@pytest.mark.parametrize("problem", [problems.mlp, problems.transformer, problems.linear_regression])
def test_a_diverged_model_has_a_loss_that_is_not_finite(problem: Callable[[], Problem]) -> None:
    made = problem()
    likelihood = snapshot_of(made).likelihood
    for p in made.model.parameters():
        p.data[:] = math.nan
    loss, _ = Loss().measure(Snapshot.take(made.model, 0, made.probe_set, made.loss_fn, likelihood, 0), {})
    assert loss.estimate.outcome is Outcome.NON_FINITE


def test_a_single_precision_loss_is_reported_as_the_loss_function_gives_it() -> None:
    problem = problems.mlp()
    inputs = problem.probe_set.inputs
    assert isinstance(inputs, Tensor)
    low = Problem(problem.model.float(), problem.loss_fn, ProbeSet(inputs.float(), problem.probe_set.targets))
    loss, _, expected = measured(low)
    assert loss.estimate.value == expected
    assert loss.settings["terms"] == "likelihood"


def test_measuring_leaves_no_trace_in_training() -> None:
    made = problems.transformer()
    made.model.train()
    snapshot, stream = snapshot_of(made), torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in snapshot.model.state_dict().items()}
    list(Loss().measure(snapshot, {}))
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in snapshot.model.state_dict().items())
    assert all(module.training for module in made.model.modules())


def test_logits_that_are_not_numbers_have_no_accuracy() -> None:
    import probe_agent
    from probe_agent import ListOutbox, Watch

    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, math.nan)
    outbox = ListOutbox()
    probe_agent.attach(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=F.cross_entropy,
        probe_batch=(torch.randn(6, 3), torch.zeros(6, dtype=torch.long)),
        run="nan",
        likelihood="categorical",
        watches=[Watch(probe_agent.Every(1), (Loss(),))],
        outbox=outbox,
    )
    assert {estimate.outcome for _, _, estimate in outbox.drafts[0].columns} == {Outcome.NON_FINITE}


def test_an_accuracy_of_one_still_has_a_standard_error() -> None:
    from probe_agent.probes.loss import proportion

    certain = proportion(np.ones(256))
    assert certain.value == 1.0
    assert 0.003 < certain.stderr < 0.01
    assert proportion(np.repeat([0.0, 1.0], 128)).stderr == pytest.approx(0.5 / 16, rel=0.02)
