"""What the loss, the model and the batch look like where they are not as in most jobs: the right numbers, or a word that leads there."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import ListOutbox, Watch, attach
from probe_agent.errors import LikelihoodError
from probe_agent.likelihood import Bernoulli, Categorical
from probe_agent.probe_set import arguments
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.loss import Loss
from probe_agent.probes.reconstruction import Reconstruction
from probe_agent.recognition import chosen, recognise
from probe_agent.schedule import LogSpaced

N, T, C, PADDING = 6, 5, 4, 0
IMAGES = (N, C, T, T)


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def labels(*shape: int, least: int = 0) -> Tensor:
    return torch.randint(least, C, shape, generator=torch.Generator().manual_seed(1))


def padded() -> Tensor:
    lengths = torch.tensor([5, 3, 1, 2, 4, 5])
    return torch.where(torch.arange(T) < lengths[:, None], labels(N, T, least=1), PADDING)


def of_words(**settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda f, y: F.cross_entropy(f.flatten(0, 1), y.flatten(), **settings)


# -- targets that are not counted -----------------------------------------------------------------


@pytest.mark.parametrize("mark", [PADDING, -1, 255])
def test_targets_that_a_loss_ignores_are_not_counted_whatever_marks_them(mark: int) -> None:
    targets = torch.where(padded() == PADDING, mark, padded())
    found = recognise(of_words(ignore_index=mark), logits(N, T, C), targets)
    assert found == Categorical(ignored=mark)
    assert found.predictions(logits(N, T, C), targets).tolist() == [5, 3, 1, 2, 4, 5]
    plain = Categorical().negative_log(logits(N, T, C), torch.where(padded() == PADDING, -100, padded()))
    assert torch.equal(found.negative_log(logits(N, T, C), targets), plain)


def test_padding_that_only_the_test_batch_has_is_not_counted_there() -> None:
    torch.manual_seed(0)
    model, outbox, test = nn.Embedding(C, C), ListOutbox(), padded()
    attach(
        *(model, torch.optim.SGD(model.parameters(), lr=0.0)),
        loss_fn=of_words(ignore_index=PADDING),
        probe_batch=(labels(N, T, least=1), labels(N, T, least=1)),
        test_batch=(test, test),
        run="r",
        watches=[Watch(LogSpaced(), (Loss(),))],
        outbox=outbox,
    )
    found = {(q.name, column.labels.get("split")): e.value for q, column, e in outbox.drafts[0].columns}
    hits = model(test).argmax(-1) == test
    assert 0 < hits[test != PADDING].sum() < (test != PADDING).sum()
    assert found["probe_accuracy", "test"] == pytest.approx(float(hits[test != PADDING].double().mean()))


def test_of_a_loss_that_is_only_said_to_be_a_cross_entropy_the_same_targets_count() -> None:
    smoothed = of_words(ignore_index=PADDING, label_smoothing=0.1)
    assert recognise(smoothed, logits(N, T, C), padded()) is None
    assert chosen(smoothed, logits(N, T, C), padded(), "categorical") == Categorical(ignored=PADDING)


def test_a_class_whose_samples_are_all_beyond_a_margin_counts_all_the_same() -> None:
    targets = labels(4 * N)
    learned = logits(4 * N, C) + 9.0 * F.one_hot(targets, C) * (targets == 1)[:, None]
    assert targets.unique().tolist() == [0, 1, 2, 3]
    hinge = lambda f, y: F.multi_margin_loss(f["logits"], y)  # noqa: E731
    assert chosen(hinge, {"logits": learned.requires_grad_()}, targets, "categorical") == Categorical()
    smoothed = lambda f, y: F.cross_entropy(f["logits"], y, ignore_index=1, label_smoothing=0.1)  # noqa: E731
    of_its_own = lambda f, _: smoothed(f, targets)  # noqa: E731
    for loss in (smoothed, of_its_own):
        assert chosen(loss, {"logits": learned}, targets, "categorical") == Categorical(ignored=1)


def test_a_class_that_is_seen_is_not_taken_for_padding() -> None:
    assert recognise(of_words(), logits(N, T, C), padded()) == Categorical()
    some = lambda f, y: F.cross_entropy(f[:, 0], y[:, 0], label_smoothing=0.1)  # noqa: E731
    assert chosen(some, logits(N, T, C), torch.zeros(N, T, dtype=torch.long), "categorical") == Categorical()


def test_a_loss_about_the_next_word_that_is_only_said_to_be_a_cross_entropy_is_about_the_next_word() -> None:
    shifted = lambda f, y: of_words(label_smoothing=0.1)(f[:, :-1], y[:, 1:])  # noqa: E731
    assert chosen(shifted, logits(N, T, C), labels(N, T), "categorical") == Categorical(shifted=True)
    assert chosen(of_words(label_smoothing=0.1), logits(N, T, C), labels(N, T), "categorical") == Categorical()


class Classified(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 8)
        self.out = nn.Linear(8, C)

    def logits(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(torch.relu(self.hidden(x)))
        return found


class Plain(Classified):
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


def watched(model: nn.Module, loss_fn: Any, batch: Any, **settings: Any) -> dict[str, float]:
    """What probes find at the step before the first, by the names of quantities of the whole network."""
    outbox = ListOutbox()
    watches = [Watch(LogSpaced(), (Loss(), FisherTrace(labels="exact"), Reconstruction()))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, optimizer, loss_fn=loss_fn, probe_batch=batch, run="r", outbox=outbox, watches=watches, **settings)
    optimizer.step()
    return {q.name: estimate.value for q, column, estimate in outbox.drafts[0].columns if not column.labels}


def test_samples_that_are_ignored_leave_the_others_with_the_numbers_they_have() -> None:
    torch.manual_seed(0)
    model, x, y = Plain(), torch.randn(12, 3), labels(12, least=1)
    some = torch.where(torch.arange(12) < 3, PADDING, y)
    ours = watched(model, nn.CrossEntropyLoss(ignore_index=PADDING), (x, some))
    same = watched(model, nn.CrossEntropyLoss(), (x, torch.where(torch.arange(12) < 3, -100, y)))
    assert ours == pytest.approx(same, nan_ok=True)
    assert ours["fisher_trace"] > 0


# -- likelihoods by name --------------------------------------------------------------------------


def test_a_likelihood_by_name_has_the_layout_that_fits() -> None:
    weighted = nn.CrossEntropyLoss(weight=torch.arange(1.0, C + 1))
    assert chosen(weighted, logits(*IMAGES), labels(N, T, T), "categorical") == Categorical(class_axis=1)
    assert chosen(weighted, logits(N, C), labels(N), "categorical") == Categorical()


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (logits(N, C), r"returns a tensor of shape \(6, 4\)"),
        ({"logits": logits(N, C)}, "returns a dict"),
    ],
)
def test_a_likelihood_by_name_that_cannot_be_is_refused(outputs: Any, words: str) -> None:
    with pytest.raises(
        LikelihoodError,
        match=rf"Got likelihood='categorical', a model that {words}, and targets of .* type torch.float32; need one tensor of logits",
    ):
        chosen(lambda _, y: y.sum(), outputs, logits(N, C), "categorical")


def test_a_likelihood_by_name_of_logits_that_are_not_found_is_kept_and_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = (logits(N, C), logits(N, C))
    assert chosen(lambda f, y: F.cross_entropy(f[0], y), pair, labels(N), "categorical") == Categorical()
    assert "returns a tuple in which no logits are found" in caplog.text


def test_of_logits_beside_others_the_layout_is_that_of_the_loss_or_none(caplog: pytest.LogCaptureFixture) -> None:
    words = labels(N, T)
    of = {"logits": logits(N, T, C).requires_grad_()}
    shifted = lambda f, y: F.cross_entropy(f["logits"][:, :-1].flatten(0, 1), y[:, 1:].flatten(), label_smoothing=0.1)  # noqa: E731
    straight = lambda f, y: F.cross_entropy(f["logits"].flatten(0, 1), y.flatten(), label_smoothing=0.1)  # noqa: E731
    assert chosen(shifted, of, words, "categorical") == Categorical(shifted=True)
    assert chosen(straight, of, words, "categorical") == Categorical()
    assert caplog.text == ""
    assert chosen(lambda _, y: y.sum() * 1.0, of, words, "categorical") is None
    assert "does not tell which" in caplog.text


def test_one_who_is_told_that_no_likelihood_is_known_is_told_which_could_be_meant(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told(loss_fn: Any, outputs: Any, targets: Tensor) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "probe_agent"):
            assert chosen(loss_fn, outputs, targets, None) is None
        return caplog.text

    yes = labels(N, C).clamp(max=1).float()
    binary = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
    assert "logits of yes and no all the same, pass likelihood='gaussian' or likelihood='bernoulli'" in told(
        binary, logits(N, C), yes
    )
    assert chosen(binary, logits(N, C), yes, "bernoulli") == Bernoulli()
    smoothed = told(nn.CrossEntropyLoss(label_smoothing=0.1), logits(N, C), labels(N))
    assert "are logits of classes all the same, pass likelihood='categorical' to attach()" in smoothed
    mixed = 0.7 * F.one_hot(labels(N), C).float() + 0.3 * F.one_hot(labels(N).flip(0), C)
    assert "targets.argmax(1), and a cross-entropy is recognised" in told(F.cross_entropy, logits(N, C), mixed)
    assert "pass likelihood" not in told(lambda f, _: f[0].sum(), (logits(N, C), logits(N, C)), labels(N))


def test_one_is_told_also_where_the_loss_cannot_be_tried(caplog: pytest.LogCaptureFixture) -> None:
    complex_ = lambda f, _: f.sum() * 1j  # noqa: E731
    assert chosen(complex_, logits(N, C), labels(N), None) is None
    assert "the loss is not one of the likelihoods known here" in caplog.text
    assert chosen(complex_, logits(N, C), labels(N), "categorical") == Categorical()


# -- models that take all of their inputs as one --------------------------------------------------


class OfADict(Classified):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.logits(batch["x"]) + batch["shift"][:, None]


class OfAPair(Classified):
    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, shift = batch
        return self.logits(x) + shift[:, None]


class Batch(NamedTuple):
    x: Tensor
    shift: Tensor


class OfABatch(Classified):
    def forward(self, batch: Batch) -> Tensor:
        return self.logits(batch.x) + batch.shift[:, None]


class OfNames(Classified):
    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        return self.logits(x) + (0 if shift is None else shift[:, None])


def test_a_model_that_takes_a_dict_or_a_tuple_or_a_named_tuple_as_one_gets_it_as_one() -> None:
    x, shift, y = torch.randn(8, 3), torch.randn(8), labels(8)
    found = []
    for kind, inputs in (
        (OfNames, {"x": x, "shift": shift}),
        (OfNames, (x, shift)),
        (OfADict, {"x": x, "shift": shift}),
        (OfAPair, (x, shift)),
        (OfABatch, Batch(x, shift)),
    ):
        torch.manual_seed(0)
        found.append(watched(kind(), F.cross_entropy, (inputs, y)))
    assert all(each == pytest.approx(found[0], nan_ok=True) for each in found)
    assert found[0]["fisher_trace"] > 0


def test_a_forward_pass_that_somebody_put_another_around_is_given_names_as_before() -> None:
    class Optional(Classified):
        def forward(self, x: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
            raise NotImplementedError

    model, x = Optional(), torch.randn(8, 3)
    around = lambda *args, **kwargs: Optional.forward(model, *args, **kwargs)  # noqa: E731
    model.forward = wraps(Optional.forward)(around)  # type: ignore[method-assign]
    for inputs in ({"x": x}, {"x": x, "shift": x[:, 0]}):
        assert arguments(model, inputs) == ((), inputs)
