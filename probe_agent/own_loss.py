"""The loss a model computes itself, from labels it is given, and what is known of it as a function of its logits.

Models of the transformers library return an object with ``.logits`` and, where they are given ``labels``, ``.loss``.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from typing import Any, final

import torch
from torch import Tensor, nn

from probe_agent.errors import AttachError
from probe_agent.likelihood import Likelihood, logits_of, part_of
from probe_agent.measuring import Subject
from probe_agent.probe_set import ProbeSet
from probe_agent.recognition import CANDIDATES, multiple
from probe_agent.snapshot import Snapshot

LABELS = "labels"
"""The keyword by which such a model takes the targets."""


def own_loss(outputs: Any, _targets: Tensor) -> Tensor:
    """The loss that the model has returned; what `attach` takes where it is given none."""
    loss = part_of(outputs, "loss")
    if loss is None:
        raise AttachError(
            f"Got no loss_fn, and a model that returns {type(outputs).__name__} without a loss; need "
            "loss_fn(model(inputs), targets), the scalar training loss."
        )
    return loss


def with_labels(model: nn.Module, probe_set: ProbeSet) -> ProbeSet:
    """The probe set whose targets are among the inputs, as labels.

    Raises:
        AttachError: the model takes none.
    """
    if isinstance(probe_set.inputs, dict):
        if LABELS in probe_set.inputs:
            return probe_set
        parameters = signature(model.forward).parameters
        if LABELS in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
            return ProbeSet({**probe_set.inputs, LABELS: probe_set.targets}, probe_set.targets)
    raise AttachError(
        "Got no loss_fn; need loss_fn(model(inputs), targets), or a model that computes its loss itself from "
        "model(**inputs, labels=targets), with the inputs in a dict."
    )


def looked_through(subject: Subject, snapshot: Snapshot) -> Subject:
    """The subject measured by its logits, where the model returns an object that has them and the loss is about them."""
    try:
        outputs = snapshot.outputs()
        if isinstance(outputs, Tensor) or logits_of(outputs) is None:
            return subject
    except Exception:  # noqa: BLE001 - what the model cannot take is told where it is evaluated
        labelled = _labelled(subject, snapshot)
        return subject if labelled is None else looked_through(labelled, _of_sets(snapshot, labelled))
    try:
        snapshot.loss_fn(outputs, snapshot.probe_set.targets)
    except AttachError:
        raise
    except Exception as error:  # noqa: BLE001 - a loss such as cross_entropy takes no object
        # Of a tuple only where it was not taken at all: its first part and the first sample of a tensor are both called [0].
        refused = not isinstance(outputs, tuple | list) or isinstance(error, TypeError | AttributeError)
        return replace(subject, logits=True) if refused else subject
    known = _as_loss_of_logits(snapshot)
    if known is None:
        return subject
    further = {split: _without_labels(snapshot.on(split)) for split in snapshot.further_sets}
    return replace(subject, logits=True, loss_fn=known, probe_set=_without_labels(snapshot), further_sets=further)


def _labelled(subject: Subject, snapshot: Snapshot) -> Subject | None:
    """The subject with its targets among the inputs as well; None where the model, such as one that decodes its labels, does not need them."""
    with suppress(Exception):
        further = {split: with_labels(subject.model, of) for split, of in subject.further_sets.items()}
        found = replace(subject, probe_set=with_labels(subject.model, subject.probe_set), further_sets=further)
        if found.probe_set is not subject.probe_set:
            _of_sets(snapshot, found).outputs()
            return found
    return None


def _of_sets(snapshot: Snapshot, subject: Subject) -> Snapshot:
    return replace(snapshot, probe_set=subject.probe_set, further_sets=subject.further_sets)


def _without_labels(snapshot: Snapshot) -> ProbeSet:
    """The probe set without labels among its inputs, where the logits are the same without them: no loss is computed for nothing."""
    inputs = snapshot.probe_set.inputs
    if not isinstance(inputs, dict) or LABELS not in inputs:
        return snapshot.probe_set
    without = {name: tensor for name, tensor in inputs.items() if name != LABELS}
    try:
        with torch.no_grad():
            seen = replace(snapshot, logits=True)
            same = torch.equal(seen.outputs(), seen.outputs(inputs=without))
    except Exception:  # noqa: BLE001 - a model may need its labels, as one does that decodes them
        same = False
    return replace(snapshot.probe_set, inputs=without) if same else snapshot.probe_set


@final
@dataclass(frozen=True, slots=True)
class MeanNegativeLog:
    """A loss of logits: ``scale`` times the mean of −log p(y | f) over the predictions."""

    likelihood: Likelihood
    scale: float

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar."""
        total = self.likelihood.negative_log(logits, targets).sum()
        return self.scale * total / self.likelihood.predictions(logits, targets).sum()


def _as_loss_of_logits(snapshot: Snapshot) -> MeanNegativeLog | None:
    """What the loss is as a function of the logits among the model's outputs; None where it is none that is known.

    The logits cannot be put in the model's mouth, so what makes them is varied: the weights, and which samples
    there are. The loss must be one multiple of the mean −log p(y | f) throughout.
    """
    pairs: dict[Likelihood, list[tuple[float, float]]] = {candidate: [] for candidate in CANDIDATES}
    dtype = torch.float32
    with torch.no_grad():
        for params, probe_set in _trials(snapshot):
            try:
                outputs = snapshot.outputs(params, probe_set.inputs)
                logits, targets = logits_of(outputs), probe_set.targets
                fitting = () if logits is None else [known for known in pairs if known.fits(logits, targets)]
                if logits is None or not fitting:
                    return None  # before the loss is tried: a GPU is lost to who looks beyond a tensor's end
                loss = snapshot.loss_fn(outputs, targets)
            except Exception:  # noqa: BLE001 - a stranger's loss may refuse other weights in any way
                return None
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                return None
            if not loss.isfinite():  # weights so large tell nothing
                continue
            dtype = logits.dtype
            pairs = {known: pairs[known] for known in fitting}
            for likelihood, tried in pairs.items():
                count = likelihood.predictions(logits, targets).sum()
                tried.append((float(loss), float(likelihood.negative_log(logits, targets).sum() / count)))
    for likelihood, tried in pairs.items():
        if (scale := multiple(tried, dtype)) is not None:
            return MeanNegativeLog(likelihood, 1.0 if abs(scale - 1) < 1e-3 else scale)
    return None


def _trials(snapshot: Snapshot) -> Iterator[tuple[dict[str, Tensor] | None, ProbeSet]]:
    """The weights and the probe set as they are; half of the samples; and other weights."""
    whole = snapshot.probe_set
    yield None, whole
    yield None, whole.part(slice(0, (whole.n + 1) // 2))
    for by in (
        0.5,
        2.0,
        8.0,
    ):  # of small weights, with logits near zero, only the last tells a loss from one and a constant
        yield _moved(snapshot, by), whole


def _moved(snapshot: Snapshot, by: float) -> dict[str, Tensor]:
    """Each trainable parameter moved at random ``by`` so many times its size."""
    generator = snapshot.generator(f"weights moved by {by}")
    return {
        name: p.detach()
        + by
        * (p.detach().square().mean().sqrt() + 0.02)
        * torch.randn(p.shape, generator=generator, device=generator.device).to(p)
        for name, p in snapshot.params.items()
    }
