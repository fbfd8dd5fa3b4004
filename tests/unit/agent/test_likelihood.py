import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent.likelihood import Categorical, Gaussian, Likelihood
from probe_agent.recognition import named, recognise

N, T, C = 6, 4, 3


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(C, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("loss_fn", "outputs", "targets", "expected"),
    [
        (F.cross_entropy, (N, C), (N,), Categorical()),
        (nn.CrossEntropyLoss(), (N, C), (N,), Categorical()),
        (nn.CrossEntropyLoss(reduction="sum"), (N, C), (N,), Categorical()),
        (lambda f, y: F.cross_entropy(input=f, target=y), (N, C), (N,), Categorical()),
        (lambda f, y: F.cross_entropy(f.flatten(0, 1), y.flatten()), (N, T, C), (N, T), Categorical()),
        (lambda f, y: F.cross_entropy(f.transpose(1, 2), y), (N, T, C), (N, T), Categorical()),
        (F.cross_entropy, (N, C, T), (N, T), Categorical(class_axis=1)),
        (F.cross_entropy, (N, C, C), (N, C), Categorical(class_axis=1)),
        (F.cross_entropy, (N, C, 2, 2), (N, 2, 2), Categorical(class_axis=1)),
    ],
)
def test_cross_entropy_is_recognised_however_it_is_written(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    outputs: tuple[int, ...],
    targets: tuple[int, ...],
    expected: Likelihood,
) -> None:
    assert recognise(loss_fn, logits(*outputs), labels(*targets)) == expected
    assert recognise(loss_fn, logits(*outputs).float(), labels(*targets)) == expected


@pytest.mark.parametrize(
    "loss_fn",
    [
        F.mse_loss,
        nn.MSELoss(reduction="sum"),
        lambda f, y: 0.5 * F.mse_loss(f, y),
        lambda f, y: (f - y).square().sum(-1).mean(),
    ],
)
def test_squared_error_is_recognised_up_to_a_constant(loss_fn: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert recognise(loss_fn, logits(N, 2), logits(N, 2, seed=3)) == Gaussian()
    assert recognise(loss_fn, logits(N, 1, 2).float(), logits(N, 1, 2, seed=3).float()) == Gaussian()


def test_squared_error_of_squeezed_outputs_is_recognised() -> None:
    assert recognise(lambda f, y: F.mse_loss(f.squeeze(1), y), logits(N, 1), logits(N)) == Gaussian()


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_squared_error_that_broadcasts_by_mistake_is_not_taken_for_a_likelihood() -> None:
    assert recognise(F.mse_loss, logits(N, 1), logits(N)) is None


def test_a_model_that_ends_in_log_softmax_is_recognised_with_nll_loss() -> None:
    logp = logits(N, C).log_softmax(-1)
    assert recognise(F.nll_loss, logp, labels(N)) == Categorical()
    assert recognise(F.nll_loss, logits(N, C), labels(N)) is None


def test_ignored_targets_are_recognised_and_do_not_count() -> None:
    targets = labels(N, T)
    targets[0] = -100
    targets[1, 2:] = -100
    loss_fn = nn.CrossEntropyLoss()
    found = recognise(lambda f, y: loss_fn(f.flatten(0, 1), y.flatten()), logits(N, T, C), targets)
    assert found == Categorical()
    assert found.predictions(logits(N, T, C), targets).tolist() == [0, 2, 4, 4, 4, 4]


def _refuses(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.abs().max() > 2.0:
        raise ValueError("outside my range")
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
        lambda f, y: F.cross_entropy(f, y) + 1e-2 * f.square().mean(),
        lambda f, y: F.cross_entropy(f, y) + 0.3,
        lambda f, y: F.cross_entropy(f / 2, y),
        F.multi_margin_loss,
        lambda f, y: F.cross_entropy(f, y, reduction="none"),
        lambda f, y: float(F.cross_entropy(f, y)),
        lambda f, y: 0.0 * F.cross_entropy(f, y),
        lambda f, y: F.cross_entropy(f, y) * math.nan,
        _refuses,
    ],
)
def test_a_loss_that_is_no_multiple_of_a_likelihood_is_not_recognised(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
) -> None:
    assert recognise(loss_fn, logits(N, C).clamp(-1, 1), labels(N)) is None


def test_outputs_that_are_no_tensor_are_not_recognised() -> None:
    assert recognise(lambda f, y: F.cross_entropy(f["logits"], y), {"logits": logits(N, C)}, labels(N)) is None


def test_a_perfect_fit_is_recognised() -> None:
    targets = labels(N)
    assert recognise(F.cross_entropy, (60.0 * F.one_hot(targets, C)).float(), targets) == Categorical()
    assert recognise(F.mse_loss, logits(N, 2), logits(N, 2)) == Gaussian()


def test_recognising_draws_nothing_from_the_global_stream_and_leaves_the_outputs() -> None:
    outputs, before = logits(N, C).requires_grad_(), torch.get_rng_state()
    recognise(F.cross_entropy, outputs, labels(N))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(outputs, logits(N, C))
    assert outputs.grad is None


def test_names_lead_to_likelihoods_and_an_unknown_name_says_which_there_are() -> None:
    assert named("categorical") == Categorical()
    assert named("gaussian") == Gaussian()
    with pytest.raises(ValueError, match=r"Got likelihood='poisson'; the known ones are \"categorical\""):
        named("poisson")


CASES = [
    (Categorical(), (N, C), labels(N)),
    (Categorical(), (N, T, C), labels(N, T)),
    (Categorical(class_axis=1), (N, C, T), labels(N, T)),
    (Gaussian(), (N, 2), logits(N, 2, seed=5)),
    (Gaussian(), (N, 1), logits(N, seed=5)),
    (Gaussian(), (N,), logits(N, seed=5)),
]


@pytest.mark.parametrize(("likelihood", "shape", "targets"), CASES)
def test_the_score_is_the_gradient_of_the_negative_log_likelihood(
    likelihood: Likelihood, shape: tuple[int, ...], targets: Tensor
) -> None:
    outputs = logits(*shape).requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.negative_log(outputs, targets).sum(), outputs)
    torch.testing.assert_close(likelihood.score(outputs.detach(), targets), slope)


def test_the_negative_log_likelihood_is_the_loss() -> None:
    f, y = logits(N, T, C), labels(N, T)
    f.requires_grad_()
    ours = Categorical().negative_log(f, y)
    torch.testing.assert_close(ours.sum() / (N * T), F.cross_entropy(f.flatten(0, 1), y.flatten()))
    torch.testing.assert_close(Gaussian().negative_log(f, f + 2.0), torch.full((N,), 2.0 * T * C, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(N, 2, C), (N, C, 2)])
def test_exact_scores_have_the_covariance_of_the_models_own_labels(shape: tuple[int, ...]) -> None:
    likelihood = Categorical(class_axis=-1 if shape[-1] == C else 1)
    outputs = logits(*shape)
    expected = torch.zeros(N, 2 * C, 2 * C, dtype=torch.float64)
    for pair in itertools.product(range(C), repeat=2):
        y = torch.tensor(pair).expand(N, 2)
        s = likelihood.score(outputs, y).flatten(1)
        p = torch.exp(-likelihood.negative_log(outputs, y))
        expected += p[:, None, None] * s[:, :, None] * s[:, None, :]
    exact = likelihood.exact_scores(outputs, torch.zeros(N, 2, dtype=torch.long)).flatten(2)
    assert exact.shape == (N, 2 * C, 2 * C)
    torch.testing.assert_close(torch.einsum("nki,nkj->nij", exact, exact), expected)


def test_exact_gaussian_scores_have_the_identity_as_covariance() -> None:
    exact = Gaussian().exact_scores(logits(N, 2, 2), logits(N, 2, 2)).flatten(2)
    torch.testing.assert_close(exact.mT @ exact, torch.eye(4, dtype=torch.float64).expand(N, 4, 4))


@pytest.mark.parametrize(("likelihood", "shape", "targets"), CASES)
def test_sampled_scores_have_the_covariance_of_the_exact_ones(
    likelihood: Likelihood, shape: tuple[int, ...], targets: Tensor
) -> None:
    draws = 20_000
    outputs = logits(*shape)
    sampled = likelihood.sampled_scores(outputs, targets, draws, torch.Generator().manual_seed(0))
    assert sampled.shape == (N, draws, *shape[1:])
    s, e = sampled.reshape(N, draws, -1), likelihood.exact_scores(outputs, targets).reshape(N, outputs[0].numel(), -1)
    products = s[:, :, :, None] * s[:, :, None, :]
    error = products.std(1) / draws**0.5
    assert ((products.mean(1) - torch.einsum("nki,nkj->nij", e, e)).abs() <= 4.5 * error + 1e-12).all()
    assert (s.mean(1).abs() <= 4.5 * s.std(1) / draws**0.5).all()


def test_ignored_predictions_have_no_score() -> None:
    outputs, targets = logits(N, T, C), labels(N, T)
    targets[:, 1] = -100
    generator = torch.Generator().manual_seed(0)
    assert not Categorical().score(outputs, targets)[:, 1].any()
    assert not Categorical().sampled_scores(outputs, targets, 3, generator)[:, :, 1].any()
    assert not Categorical().exact_scores(outputs, targets)[:, :, 1].any()


def test_more_draws_begin_with_the_same_draws() -> None:
    outputs, targets = logits(N, C), labels(N)
    one = Categorical().sampled_scores(outputs, targets, 1, torch.Generator().manual_seed(7))
    three = Categorical().sampled_scores(outputs, targets, 3, torch.Generator().manual_seed(7))
    torch.testing.assert_close(one[:, 0], three[:, 0])


def test_an_impossible_class_is_never_drawn() -> None:
    outputs = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).expand(2000, 4)
    scores = Categorical().sampled_scores(
        outputs, torch.zeros(2000, dtype=torch.long), 1, torch.Generator().manual_seed(0)
    )
    assert not scores[:, 0, 0].any()
    assert not scores[:, 0, 3].any()


def binary() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    outputs = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return outputs, torch.randint(2, (6, 3), generator=generator).double()


def test_binary_cross_entropy_is_recognised_and_named() -> None:
    outputs, targets = binary()
    found = recognise(F.binary_cross_entropy_with_logits, outputs, targets)
    assert found is not None
    assert found.name == "bernoulli"
    assert named("bernoulli") == found
    assert recognise(F.mse_loss, outputs, targets).name == "gaussian"  # type: ignore[union-attr]
    assert float(found.negative_log(outputs, targets).sum() / 18) == pytest.approx(
        float(F.binary_cross_entropy_with_logits(outputs, targets))
    )


def test_bernoulli_scores_are_the_derivatives_and_their_moments_agree() -> None:
    outputs, targets = binary()
    known = named("bernoulli")
    leaf = outputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(known.negative_log(leaf, targets).sum(), leaf)
    torch.testing.assert_close(known.score(outputs, targets), slope)
    exact = known.exact_scores(outputs, targets)
    moment = torch.einsum("nki,nkj->nij", exact, exact)
    v = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.einsum("nij,nj->ni", moment, v), known.output_curvature(outputs, targets, v))
    drawn = known.sampled_scores(outputs, targets, 20_000, torch.Generator().manual_seed(0))
    sampled = torch.einsum("nki,nkj->nij", drawn, drawn) / 20_000
    assert float((sampled - moment).abs().max()) < 0.02
    assert float(drawn.mean(1).abs().max()) < 0.02


def test_targets_that_are_no_probabilities_do_not_fit_a_bernoulli() -> None:
    outputs, targets = binary()
    assert not named("bernoulli").fits(outputs, 2 * targets)
    assert not named("bernoulli").fits(outputs, targets[:, :2])
    assert not named("bernoulli").fits(outputs, targets.long())
