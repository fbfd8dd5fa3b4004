"""Losses that models compute themselves, and the likelihood of next words."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import probe_agent
from probe_agent import AttachError, Every, ListOutbox, Watch
from probe_agent.budget import UNLIMITED
from probe_agent.likelihood import IGNORED, Categorical, Gaussian
from probe_agent.probes.calibration import Calibration
from probe_agent.probes.fisher_batch import FisherBatch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.gauss_newton import GaussNewton
from probe_agent.probes.loss import Loss
from probe_agent.recognition import recognise
from probe_wire import Outcome
from tests.framework_runs import WATCHES, measured_plainly, values

CLASSES = 3


class Returning(nn.Module):
    """Returns an object with logits and, given labels, with a loss of them."""

    def __init__(self, loss: Any = F.cross_entropy, outputs: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.loss = nn.Linear(4, outputs), loss

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.net(x)
        return SimpleNamespace(logits=logits, loss=None if labels is None else self.loss(logits, labels))


def data(n: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(1)), torch.arange(n) % CLASSES


def attached(model: nn.Module, batch: Any, loss_fn: Any = None, **settings: Any) -> tuple[Any, ListOutbox]:
    optimizer, outbox = torch.optim.SGD(model.parameters(), lr=0.1), ListOutbox()
    monitor = probe_agent.attach(
        model, optimizer, loss_fn=loss_fn, probe_batch=batch, run="own", watches=WATCHES, outbox=outbox, **settings
    )
    monitor.close()
    return monitor.subject, outbox


def test_a_loss_that_is_no_likelihood_is_measured_as_the_model_computes_it(caplog: pytest.LogCaptureFixture) -> None:
    x, y = data()
    for loss in (
        lambda f, y: F.cross_entropy(f, y, label_smoothing=0.1),
        lambda f, y: F.cross_entropy(f, y, weight=torch.tensor([1.0, 2.0, 3.0])),
        lambda f, y: F.cross_entropy(f, y) + 0.1 * f.square().mean(),
        lambda f, y: F.cross_entropy(f, y, reduction="sum") / 16,  # which is their mean on the whole probe set only
    ):
        model = Returning(loss)
        subject, outbox = attached(model, {"x": x, "labels": y})
        assert (subject.likelihood, subject.logits) == (None, False)
        assert "not one of the likelihoods known here" in caplog.text
        assert values(outbox, "probe_loss")[0] == pytest.approx(model(x, y).loss.item(), rel=1e-6)
        caplog.clear()


def test_a_likelihood_named_for_it_is_about_its_logits_and_the_loss_stays_the_models_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    x, y = data()
    model = Returning(lambda f, y: F.cross_entropy(f, y, label_smoothing=0.1))
    optimizer, outbox = torch.optim.SGD(model.parameters(), lr=0.1), ListOutbox()
    probes = (Loss(), FisherTrace(per_layer=False), Calibration(), FisherBatch(per_layer=False), GaussNewton())
    watching = probe_agent.attach(
        *(model, optimizer),
        probe_batch={"x": x, "labels": y},
        test_batch={"x": x + 1, "labels": y},
        run="own",
        watches=[Watch(Every(1), probes)],
        budget=UNLIMITED,
        outbox=outbox,
        likelihood="categorical",
    )
    watching.close()
    assert caplog.text == ""
    assert [cost.outcome for cost in outbox.drafts[0].costs] == [Outcome.OK] * len(probes)
    assert values(outbox, "probe_loss")[0] == pytest.approx(model(x, y).loss.item(), rel=1e-6)
    assert values(outbox, "probe_accuracy")[0] == pytest.approx(float((model(x).logits.argmax(1) == y).float().mean()))
    assert values(outbox)[0] == pytest.approx(measured_plainly(model.net, F.cross_entropy, (x, y)), rel=1e-6)


class Decoding(Returning):
    """Cannot do without labels, as a model that decodes them to be told the words so far."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        if labels is None:
            raise ValueError("you have to give labels")
        return super().forward(x + labels.roll(1)[:, None], labels)


def test_a_model_that_decodes_its_labels_is_given_them_also_where_the_loss_is_another() -> None:
    x, y = data()
    model = Decoding()
    smoothed = lambda out, y: F.cross_entropy(out.logits, y, label_smoothing=0.1)  # noqa: E731
    settings = {"likelihood": "categorical", "test_batch": {"x": x, "labels": y}}
    subject, outbox = attached(model, {"x": x, "labels": y}, smoothed, **settings)
    assert subject.likelihood == Categorical()
    assert values(outbox, "probe_loss")[0] == pytest.approx(float(smoothed(model(x, y), y).detach()), rel=1e-6)
    with pytest.raises(AttachError, match="raise ValueError: you have to give labels"):
        attached(model, (x, y), smoothed)


def test_without_one_it_is_told_which_likelihood_could_be_named(caplog: pytest.LogCaptureFixture) -> None:
    x, y = data()
    attached(Returning(lambda f, y: F.cross_entropy(f, y, label_smoothing=0.1)), {"x": x, "labels": y})
    assert "pass likelihood='categorical' to attach()" in caplog.text


class Weighing(Returning):
    """Learns how much its loss weighs (Kendall et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        outputs = super().forward(x, labels)
        outputs.loss = None if labels is None else outputs.loss * (-self.log_variance).exp()
        return outputs


def test_a_loss_whose_size_depends_on_the_weights_is_no_likelihood() -> None:
    x, y = data()
    subject, _ = attached(Weighing(), {"x": x, "labels": y})
    assert (subject.likelihood, subject.logits) == (None, False)


def test_a_loss_that_is_a_multiple_of_a_likelihood_keeps_its_size() -> None:
    x, y = data()
    model = Returning(lambda f, y: 3 * F.cross_entropy(f, y))
    subject, outbox = attached(model, {"x": x, "labels": y})
    assert subject.likelihood == Categorical()
    assert values(outbox, "probe_loss")[0] == pytest.approx(model(x, y).loss.item(), rel=1e-6)
    assert values(outbox)[0] == values(attached(Returning(), {"x": x, "labels": y})[1])[0]
    model, numbers = Returning(F.mse_loss, outputs=2), torch.randn(16, 2)
    subject, outbox = attached(model, {"x": x, "labels": numbers})
    assert subject.likelihood == Gaussian()
    assert values(outbox, "probe_loss")[0] == pytest.approx(model(x, numbers).loss.item(), rel=1e-6)


class InATuple(Returning):
    """Returns the logits and, given labels, the loss beside them, as nanoGPT does."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        found = super().forward(x, labels)
        return found.logits, found.loss


@pytest.mark.parametrize(
    "loss_fn", [lambda out, y: F.cross_entropy(out[0].view(-1, CLASSES), y.view(-1)), F.cross_entropy]
)
def test_a_model_that_returns_a_tuple_with_its_logits_is_measured_by_them(loss_fn: Any) -> None:
    x, y = data()
    subject, outbox = attached(model := InATuple(), (x, y), loss_fn)
    assert (subject.likelihood, subject.logits) == (Categorical(), True)
    assert values(outbox) == pytest.approx(values(attached(model.net, (x, y), F.cross_entropy)[1]))
    assert values(outbox)[0] > 0


def test_of_a_tuple_with_several_tensors_none_is_taken_for_the_logits() -> None:
    class Pair(Returning):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            found = super().forward(x, labels)
            return found.logits, found.logits.exp()

    subject, _ = attached(Pair(), data(), lambda out, y: F.cross_entropy(out[0], y))
    assert (subject.likelihood, subject.logits) == (None, False)


@pytest.mark.parametrize("beside", [0.01, 0.04])
@pytest.mark.parametrize("spread", [0.02, 1.0])
def test_a_loss_with_a_small_part_beside_the_likelihood_is_not_taken_for_a_multiple_of_it(
    beside: float, spread: float
) -> None:
    class Balancing(InATuple):
        """As a mixture of experts does, whose loss of balance is near constant."""

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            logits, loss = super().forward(x, labels)
            return logits, None if loss is None else loss + beside

    x, y = data()
    torch.manual_seed(0)
    model = Balancing()
    for p in model.parameters():
        nn.init.normal_(p, std=spread)  # at small weights the logits hardly change with them
    subject, outbox = attached(model, ((x, y), y), lambda out, _: out[1])
    assert subject.likelihood is None
    assert values(outbox, "probe_loss")[0] == pytest.approx(model(x, y)[1].item(), rel=1e-6)


def test_an_error_of_the_loss_of_a_tuple_is_told_and_the_loss_is_not_tried_on_its_tensor() -> None:
    def loss(out: Any, y: Tensor) -> Tensor:
        if isinstance(out, tuple):
            raise IndexError("of its own")
        return out[0].logsumexp(-1).mean() + 0 * y.sum()  # of a tensor the first part is the first sample

    with pytest.raises(AttachError, match="of its own"):
        attached(InATuple(), data(), loss)


def test_further_sets_are_measured_by_their_logits_too() -> None:
    x, y = data()
    model = Returning()
    subject, _ = attached(
        model, {"x": x, "labels": y}, test_batch={"x": x + 1, "labels": y}, ood_batch=({"x": 2 * x}, y)
    )
    assert {split: list(further.inputs) for split, further in subject.further_sets.items()} == {
        "test": ["x"],
        "ood": ["x"],
    }
    assert torch.equal(subject.snapshot(0).on("test").predictions(), model(x + 1).logits)


def test_a_missing_loss_is_refused_where_the_model_has_none_of_its_own() -> None:
    x, y = data()
    with pytest.raises(AttachError, match="Got no loss_fn; need loss_fn"):
        attached(nn.Linear(4, CLASSES), (x, y))
    with pytest.raises(AttachError, match="Got no loss_fn; need loss_fn"):
        attached(Returning(), (x, y))
    with pytest.raises(AttachError, match="Got no loss_fn, and a model that returns SimpleNamespace without a loss"):
        attached(Returning(lambda *_: None), {"x": x, "labels": y})
    with pytest.raises(AttachError, match='with the targets under "labels"'):
        attached(Returning(), {"x": x, "targets": y})


def next_words() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    outputs = torch.randn(4, 5, CLASSES, generator=generator, dtype=torch.float64)
    words = torch.randint(CLASSES, (4, 5), generator=generator)
    words[0, 3:] = IGNORED
    return outputs, words


def test_the_likelihood_of_next_words_is_that_of_words_moved_by_one() -> None:
    outputs, words = next_words()
    ahead, there = Categorical(shifted=True), Categorical()
    moved = torch.cat([words[:, 1:], torch.full((4, 1), IGNORED)], 1)
    assert ahead.fits(outputs, words)
    assert ahead.predictions(outputs, words).tolist() == [2, 4, 4, 4]
    for what in ("negative_log", "score", "exact_scores", "predictions"):
        assert torch.equal(getattr(ahead, what)(outputs, words), getattr(there, what)(outputs, moved))
    v = torch.randn_like(outputs)
    assert torch.equal(ahead.output_curvature(outputs, words, v), there.output_curvature(outputs, moved, v))
    assert not ahead.fits(outputs[:, :1], words[:, :1])


def test_a_shifted_loss_is_recognised_and_told_from_one_that_is_not() -> None:
    outputs, words = next_words()
    shifted = lambda f, y: F.cross_entropy(f[:, :-1].flatten(0, 1), y[:, 1:].flatten())  # noqa: E731
    straight = lambda f, y: F.cross_entropy(f.flatten(0, 1), y.flatten())  # noqa: E731
    assert recognise(shifted, outputs, words) == Categorical(shifted=True)
    assert recognise(straight, outputs, words) == Categorical()


def test_a_named_likelihood_takes_the_layout_the_loss_tells() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(CLASSES, CLASSES)

        def forward(self, words: Tensor) -> Tensor:
            return self.embed(words)

    words = torch.arange(20).reshape(4, 5) % CLASSES
    shifted = lambda f, y: F.cross_entropy(f[:, :-1].flatten(0, 1), y[:, 1:].flatten())  # noqa: E731
    subject, _ = attached(Words(), (words, words), shifted, likelihood="categorical")
    assert subject.likelihood == Categorical(shifted=True)
    smoothed = lambda f, y: F.cross_entropy(f.flatten(0, 1), y.flatten(), label_smoothing=0.1)  # noqa: E731
    subject, _ = attached(Words(), (words, words), smoothed, likelihood="categorical")
    assert subject.likelihood == Categorical()
