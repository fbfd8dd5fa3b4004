"""The loss probe: the training loss and the accuracy on the probe set, in evaluation mode, with their errors."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from probe_agent.estimators.draws import Draws, mean_of, numbers, ratio_draws
from probe_agent.estimators.loss_terms import loss_terms
from probe_agent.likelihood import Categorical
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
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
    "1",  # of either sign: a ratio's axis begins at zero
    "Accuracy on a further set minus accuracy on the probe set; negative where the network does worse there.",
    "Accuracy gap to the probe set",
)


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
    uses: ClassVar = frozenset({Need.CLASSES})
    takes_complex: ClassVar[bool] = True

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
        outputs = snapshot.predictions()
        whole = float(snapshot.loss_fn(outputs, snapshot.probe_set.targets))
        draws, terms = loss_terms(snapshot, outputs, whole)
    settings = {"n": str(snapshot.probe_set.n)}
    spread = Estimate(math.nan) if draws is None else mean_of(draws)
    yield Measurement(
        quantity=LOSS,
        estimate=Estimate(whole, spread.stderr, n=spread.n).checked(),
        labels=labels,
        draws=draws,
        settings=settings | {"terms": terms},
    )
    hits = _hits(snapshot, outputs if (seen := snapshot.of_logits()) is snapshot else seen.predictions())
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
