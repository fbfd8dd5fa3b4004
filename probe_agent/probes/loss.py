"""The loss probe: the training loss and the accuracy on the probe set, in evaluation mode, with their errors."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor

from probe_agent.estimators.draws import Draws, jackknife_draws, mean_of, numbers, ratio_draws
from probe_agent.likelihood import Categorical
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probe_set import rows
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

LOSS = Quantity(
    "probe_loss",
    "1",  # nats for cross-entropy, but a loss may be anything
    "The training loss on the probe set, in evaluation mode, as the loss function reduces it.",
    "Loss on the probe set",
    "log",
)
ACCURACY = Quantity(
    "probe_accuracy",
    "ratio",
    "The share of predictions on the probe set whose largest logit is at the target.",
    "Accuracy on the probe set",
)

LOSS_GAP = Quantity(
    "probe_loss_gap",
    "1",
    "Loss on a further set minus loss on the probe set: what generalisation (test) or a shift of the inputs (ood) costs.",
    "Loss gap to the probe set",
)
ACCURACY_GAP = Quantity(
    "probe_accuracy_gap",
    "ratio",
    "Accuracy on a further set minus accuracy on the probe set; negative where the network does worse there.",
    "Accuracy gap to the probe set",
)

JACKKNIFE_GROUPS = 16

Terms = Literal["likelihood", "samples", "jackknife", "unknown"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(Probe):
    """The loss of the whole probe set, exactly as the loss function gives it, and the accuracy of a classifier.

    Setting ``terms`` says what the standard error is made of: the terms of the likelihood, the losses
    of single samples, or, where the loss is no mean of these (normalised weights, contrasts between
    samples), a jackknife over groups. Where even that fails it is "unknown" and the error NaN.
    """

    name: ClassVar[str] = "loss"
    quantities: ClassVar[tuple[Quantity, ...]] = (LOSS, ACCURACY, LOSS_GAP, ACCURACY_GAP)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """Loss and accuracy of the probe set, then of each further set, with the gaps between them."""
        here: tuple[Measurement, ...] = ()
        for labels, view in snapshot.views():
            there = tuple(_graded(view, labels))
            yield from there
            here = here or there
            if labels:
                yield _gap(LOSS_GAP, here[0], there[0])
                yield _gap(ACCURACY_GAP, here[1], there[1])


def _graded(snapshot: Snapshot, labels: dict[str, str]) -> Iterator[Measurement]:
    """The loss, then the accuracy, on the snapshot's probe set."""
    with torch.no_grad():
        outputs = snapshot.outputs()
        whole = float(snapshot.loss_fn(outputs, snapshot.probe_set.targets))
        draws, terms = _terms(snapshot, outputs, whole)
    settings = {"n": str(snapshot.probe_set.n)}
    spread = Estimate(math.nan) if draws is None else mean_of(draws)
    yield Measurement(
        quantity=LOSS,
        estimate=Estimate(whole, spread.stderr, n=spread.n).checked(),
        labels=labels,
        draws=draws,
        settings=settings | {"terms": terms},
    )
    hits = _hits(snapshot, outputs)
    yield Measurement(
        quantity=ACCURACY,
        estimate=Estimate.without_value(Outcome.NOT_APPLICABLE) if hits is None else proportion(hits),
        labels=labels,
        draws=hits,
        settings=settings,
    )


def _gap(quantity: Quantity, here: Measurement, there: Measurement) -> Measurement:
    """There minus here; the two sets are independent, so their errors add in quadrature."""
    one, other = here.estimate, there.estimate
    estimate = Estimate(
        other.value - one.value,
        math.hypot(one.stderr, other.stderr),
        n=min(one.n, other.n),
        outcome=max(one.outcome, other.outcome),
    )
    return Measurement(quantity=quantity, estimate=estimate.checked(), labels=there.labels)


def _terms(snapshot: Snapshot, outputs: Any, whole: float) -> tuple[Draws | None, Terms]:
    """Independent parts whose mean is the loss, tried in order of how sharp an error they give."""
    if not math.isfinite(whole):
        return None, "unknown"
    targets = snapshot.probe_set.targets
    if isinstance(outputs, Tensor):
        known = snapshot.likelihood
        if known is not None and known.fits(outputs, targets):
            counts = numbers(known.predictions(outputs, targets))
            draws = ratio_draws(numbers(known.negative_log(outputs, targets)), counts)
            if _mean_is(draws, whole, outputs.dtype):
                return draws, "likelihood"
        alone = _alone(snapshot, outputs)
        for reduction in (1, snapshot.probe_set.n):  # a mean of the samples' losses, or a sum
            if alone is not None and _mean_is(reduction * alone, whole, outputs.dtype):
                return reduction * alone, "samples"
    without = _without(snapshot, outputs)
    if without is None or not np.isfinite(without).all():
        return None, "unknown"
    return jackknife_draws(whole, without), "jackknife"


def _alone(snapshot: Snapshot, outputs: Tensor) -> Draws | None:
    """The loss of every sample as a batch of its own, shape ``(n,)``."""
    targets = snapshot.probe_set.targets

    def one(output: Tensor, target: Tensor) -> Tensor:
        return snapshot.loss_fn(output[None], target[None]).reshape(())

    try:
        return numbers(torch.func.vmap(one)(outputs, targets))
    except Exception:  # noqa: BLE001 - a stranger's loss may refuse vmap in any way
        try:
            return numbers(torch.stack([one(output, target) for output, target in zip(outputs, targets, strict=True)]))
        except Exception:  # noqa: BLE001 - or one sample alone
            return None


def _without(snapshot: Snapshot, outputs: Any) -> Draws | None:
    """The loss with each of the groups left out, shape ``(G,)``; sample i is in group i modulo G."""
    n = snapshot.probe_set.n
    groups = min(JACKKNIFE_GROUPS, n)
    member = torch.arange(n, device=snapshot.probe_set.device) % groups
    losses = []
    try:
        for group in range(groups):
            kept = (member != group).nonzero().squeeze(1)
            targets = snapshot.probe_set.targets[kept]
            if isinstance(outputs, Tensor):
                losses.append(float(snapshot.loss_fn(outputs[kept], targets)))
            else:  # outputs of a type of their own cannot be cut, only computed again
                losses.append(float(snapshot.loss(inputs=rows(snapshot.probe_set.inputs, kept), targets=targets)))
    except Exception:  # noqa: BLE001 - a loss may need its whole batch; then its error is not known
        return None
    return np.array(losses)


def _hits(snapshot: Snapshot, outputs: Any) -> Draws | None:
    """Parts whose mean is the accuracy, shape ``(n,)``; None where nothing is classified."""
    known, targets = snapshot.likelihood, snapshot.probe_set.targets
    if not isinstance(known, Categorical) or not isinstance(outputs, Tensor) or not known.fits(outputs, targets):
        return None
    counts = numbers(known.predictions(outputs, targets))
    if not counts.any():
        return None
    _, right, _ = known.graded(outputs, targets)
    correct = numbers(right.sum(1))
    # The largest of logits that are not numbers would still be at some class, and sometimes the right one.
    correct[~numbers(outputs.flatten(1).isfinite().all(dim=1)).astype(bool)] = np.nan
    return ratio_draws(correct, counts)


def proportion(hits: Draws) -> Estimate:
    """The mean of shares in [0, 1], with an error that does not vanish where all of them are 0 or 1.

    Two successes and two failures are added before the binomial error is taken (Agresti and Coull
    1998): with all of 256 predictions right the accuracy is 1 ± 0.005, not 1 ± 0.
    """
    mean = mean_of(hits)
    share = (float(hits.sum()) + 2) / (hits.size + 4)
    return Estimate(mean.value, max(mean.stderr, math.sqrt(share * (1 - share) / (hits.size + 4))), n=mean.n).checked()


def _mean_is(draws: Draws, whole: float, dtype: torch.dtype) -> bool:
    """Whether the parts' mean is the loss, to the digits its type carries through a sum."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(abs(draws.mean() - whole) <= torch.finfo(dtype).eps ** 0.5 * np.abs(draws).mean())
