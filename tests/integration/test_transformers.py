"""Models of the transformers library in a plain attach, and the callback on the real Trainer. Nothing is downloaded."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import (
    BatchEncoding,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import probe_agent
from probe_agent import ListOutbox
from probe_agent.budget import UNLIMITED
from probe_agent.integrations.transformers import PhasewatchCallback
from probe_agent.likelihood import Bernoulli, Categorical, Gaussian
from tests.framework_runs import WATCHES, left_behind, measured_plainly, run_example, same, seed_all, values

WORDS, LENGTH, CLASSES = 4, 4, 3
"""So few that the Fisher trace is computed without drawing labels."""


def language_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_positions=8, n_embd=8, n_layer=1, n_head=2, **special))


def classifier(**settings: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS, **sizes, **{"num_labels": CLASSES, **settings}))


def sentences(n: int = 16) -> list[dict[str, Tensor]]:
    """Padded at the end; padding is not predicted."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for i in range(n):
        words = torch.randint(1, WORDS, (LENGTH,), generator=generator)
        kept = torch.arange(LENGTH) < LENGTH - i % 3
        found.append({"input_ids": words * kept, "attention_mask": kept.long(), "labels": words.where(kept, -100)})
    return found


def together(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class NextWord(nn.Module):
    """The same model as somebody would write it by hand: the logits of the words that are predicted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids, attention_mask=attention_mask).logits[:, :-1]


def by_hand(model: nn.Module, batch: dict[str, Tensor]) -> float:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    loss = lambda f, y: F.cross_entropy(f.flatten(0, 1), y.flatten())  # noqa: E731
    return measured_plainly(NextWord(model), loss, (inputs, batch["labels"][:, 1:]))


def attached(model: nn.Module, batch: Any, loss_fn: Any = None, **settings: Any) -> tuple[Any, ListOutbox]:
    """What attach made of it, and what it measured."""
    optimizer, outbox = torch.optim.SGD(model.parameters(), lr=0.1), ListOutbox()
    monitor = probe_agent.attach(
        model, optimizer, loss_fn=loss_fn, probe_batch=batch, run="hf", watches=WATCHES, outbox=outbox, **settings
    )
    monitor.close()
    return monitor.subject, outbox


def test_a_causal_language_model_is_measured_as_its_predictions_of_the_next_word() -> None:
    model, batch = language_model(), together(sentences())
    subject, outbox = attached(model, batch)
    assert subject.likelihood == Categorical(shifted=True)
    assert sorted(subject.probe_set.inputs) == ["attention_mask", "input_ids"]
    tokenized = BatchEncoding({name: batch[name] for name in ("input_ids", "attention_mask")})
    assert attached(model, (tokenized, batch["labels"]))[0].likelihood == subject.likelihood
    assert values(outbox)[0] == pytest.approx(by_hand(model, batch), rel=1e-5)
    loss = model.eval()(**batch).loss
    assert values(outbox, "probe_loss")[0] == pytest.approx(loss.item(), rel=1e-6)


def test_a_shifted_loss_is_recognised_of_plain_logits_too() -> None:
    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = language_model()

        def forward(self, words: Tensor) -> Tensor:
            return self.model(words).logits

    words = torch.stack([item["input_ids"] for item in sentences()])
    shifted = lambda f, y: F.cross_entropy(f[:, :-1].flatten(0, 1), y[:, 1:].flatten())  # noqa: E731
    subject, outbox = attached(Logits(), (words, words), shifted, likelihood="categorical")
    assert subject.likelihood == Categorical(shifted=True)
    assert values(outbox)[0] > 0


@pytest.mark.parametrize(
    "loss_fn", [None, F.cross_entropy, lambda out, y: F.cross_entropy(out.logits, y), lambda out, _: 2 * out.loss]
)
def test_a_model_that_returns_logits_is_measured_by_them_whatever_the_loss_takes(loss_fn: Any) -> None:
    model, batch = classifier(), together(sentences())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = torch.arange(16) % CLASSES
    given = {**inputs, "labels": labels} if loss_fn is not None and "loss" in loss_fn.__code__.co_names else inputs
    subject, outbox = attached(model, (given, labels), loss_fn)
    plain = lambda out, y: F.cross_entropy(out["logits"], y)  # noqa: E731
    assert (subject.likelihood, subject.logits) == (Categorical(), True)
    assert values(outbox)[0] == measured_plainly(model, plain, (inputs, labels))
    reference = F.cross_entropy(model.eval()(**inputs).logits, labels)
    factor = 2 if given is not inputs else 1
    assert values(outbox, "probe_loss")[0] == pytest.approx(factor * reference.item(), rel=1e-6)


def test_regression_and_several_labels_are_recognised() -> None:
    batch = together(sentences())
    numbers = torch.linspace(-1, 1, 16)
    subject, _ = attached(classifier(num_labels=1), {**batch, "labels": numbers})
    assert subject.likelihood == Gaussian()
    several = (torch.arange(16 * CLASSES).reshape(16, CLASSES) % 2).float()
    subject, _ = attached(classifier(problem_type="multi_label_classification"), {**batch, "labels": several})
    assert subject.likelihood == Bernoulli()


def test_a_model_that_decodes_its_labels_keeps_them() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(vocab_size=WORDS, decoder_start_token_id=0, pad_token_id=0, **sizes))
    subject, outbox = attached(model, together(sentences()))
    assert subject.likelihood == Categorical()
    assert "labels" in subject.probe_set.inputs
    assert values(outbox)[0] > 0


def test_a_compiled_model_is_measured_as_the_plain_one() -> None:
    model, batch = language_model(), together(sentences())
    _, plain = attached(model, batch)
    _, compiled = attached(torch.compile(model, backend="eager"), batch)
    model.compile(backend="eager")
    _, in_place = attached(model, batch)
    assert values(plain) == values(compiled) == values(in_place)


class Witness(TrainerCallback):
    """Keeps the model before its first step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        self.before = copy.deepcopy(found["model"])


def trained(
    folder: Path, *callbacks: TrainerCallback, resume: Any = None, **settings: Any
) -> tuple[Trainer, list[Any]]:
    seed_all()
    quiet = {
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": True,
        "logging_strategy": "no",
    }
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, **{"max_steps": 6, **quiet, **settings}
    )
    trainer = Trainer(language_model(), arguments, train_dataset=sentences(), callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return trainer, left_behind(trainer.model, trainer.optimizer)


def watching(**settings: Any) -> tuple[PhasewatchCallback, ListOutbox]:
    outbox = ListOutbox()
    settings = {
        "probe_batch": together(sentences()),
        "watches": WATCHES,
        "outbox": outbox,
        "budget": UNLIMITED,
    } | settings
    return PhasewatchCallback("hf", **settings), outbox


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's own looking
@pytest.mark.parametrize("how", [{}, {"bf16": True}, {"torch_compile": True, "torch_compile_backend": "eager"}])
def test_a_training_is_the_same_to_the_bit_watched_or_not_and_measured_as_a_plain_attach_does(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    settings = {"gradient_accumulation_steps": 2, **how}
    _, unwatched = trained(tmp_path, **settings)
    (callback, outbox), witness = watching(), Witness()
    trainer, watched = trained(tmp_path, witness, callback, **settings)
    assert same(unwatched, watched)
    assert callback.monitor is not None
    assert callback.monitor.step == trainer.state.global_step == 6
    assert list(values(outbox)) == [0, 2, 4, 6]
    batch = together(sentences())
    assert values(outbox)[0] == pytest.approx(by_hand(witness.before, batch), rel=1e-5)
    assert values(outbox)[6] == values(attached(trainer.model, batch)[1])[0]
    assert outbox.closed == "finished"


def test_a_training_resumed_from_a_checkpoint_goes_on_counting(tmp_path: Path) -> None:
    trained(tmp_path, max_steps=4, save_strategy="steps", save_steps=4)
    callback, outbox = watching()
    trained(tmp_path, callback, max_steps=8, resume=str(tmp_path / "checkpoint-4"))
    assert list(values(outbox)) == [4, 6, 8]


def test_what_cannot_be_watched_is_a_warning_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, unwatched = trained(tmp_path)
    callback, outbox = watching(probe_batch=(torch.randn(4, 4), torch.zeros(4)))
    with caplog.at_level(logging.WARNING, logger="probe_agent"):
        assert same(unwatched, trained(tmp_path, callback)[1])
    assert "this training is not watched: " in caplog.text
    assert callback.monitor is None
    assert not outbox.drafts


@pytest.mark.parametrize(("named", "traces"), [("categorical", 2), ("gaussian", 0)])
def test_a_likelihood_that_is_named_for_a_loss_of_its_own_never_loses_the_watch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, named: str, traces: int
) -> None:
    weighted = lambda out, y: F.cross_entropy(out.logits[:, :-1].flatten(0, 1), y[:, 1:].flatten(), label_smoothing=0.1)  # noqa: E731
    callback, outbox = watching(loss_fn=weighted, likelihood=named)
    trained(tmp_path, callback, max_steps=2)
    assert len(values(outbox, "probe_loss")) == 2
    assert len(values(outbox)) == traces
    assert ("watched as if no likelihood had been named: Got likelihood='gaussian'" in caplog.text) is (not traces)
    assert callback.monitor is not None
    assert callback.monitor.subject.likelihood == (Categorical(shifted=True) if traces else None)


class Raising(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        raise ZeroDivisionError


def test_a_training_that_raised_is_closed_when_the_next_begins(tmp_path: Path) -> None:
    callback, outbox = watching()
    with pytest.raises(ZeroDivisionError):
        trained(tmp_path, callback, Raising())
    first = callback.monitor
    assert first is not None
    assert outbox.closed is None  # a Trainer does not tell
    trained(tmp_path, callback)
    assert callback.monitor is not first
    assert first.closed
    assert callback.monitor is not None
    assert callback.monitor.step == 6


def test_the_trainers_label_smoothing_is_said_not_to_be_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback, _ = watching()
    trained(tmp_path, callback, label_smoothing_factor=0.1, max_steps=1)
    assert "without the Trainer's label smoothing" in caplog.text


@pytest.mark.filterwarnings("ignore:.pin_memory:UserWarning")
def test_the_example_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    run_example("next_letter_transformers.py", monkeypatch, "--steps", "2")
    assert "has not acknowledged" in caplog.text
    assert "not watched" not in caplog.text
