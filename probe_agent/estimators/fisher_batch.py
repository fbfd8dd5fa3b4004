"""The Fisher trace from gradients of batches: B ‖g‖² with labels drawn from the model, whatever the architecture.

With labels y ~ p_w(y|x) scores have mean zero and are independent given the outputs, so the mean gradient g
of B predictions has E‖g‖² = tr F / B. Where groups make unequally many predictions, it is the mean over all of them:
Σ B² ‖g‖² / Σ B, whose mean over labels is tr F per prediction whatever the groups are. One forward and one backward pass, nothing per sample, so that it
also holds where samples have no gradients of their own: with BatchNorm in training mode the score is the
joint one of the batch. ‖g‖² without the factor B is tr(F)/B.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import Draws, numbers, ratio_draws
from probe_agent.estimators.fisher import by_layer
from probe_agent.estimators.group_gradients import equal_parts
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot


def batch_draws(snapshot: Snapshot, groups: int, *, training: bool = False) -> dict[str, Draws]:
    """B ‖g‖² of each of equal groups of the probe set, by layer: float64 of shape ``(groups,)``, whose mean is the trace.

    Groups in which no target counts say nothing and are left out.

    Args:
        snapshot: the model.
        groups: how many; with fewer samples each, the same mean and a smaller error of labels.
        training: whether BatchNorm normalises with the statistics of each group, as in training.

    Raises:
        NotApplicable: the likelihood is unknown or does not fit the outputs, or nothing is trainable, or the targets that count
            are not in two groups.
    """
    if not snapshot.params:
        raise NotApplicable(
            "Got a model whose parameters are all frozen; the Fisher information is defined by the trainable ones."
        )
    snapshot = snapshot.of_logits()
    parts = equal_parts(snapshot, groups)
    if len(parts) < 2:
        raise NotApplicable(f"Got a probe set of {snapshot.probe_set.n} sample; need two groups to see a spread.")
    generator = snapshot.generator("fisher batch labels")
    with _batch_statistics(snapshot.model, on=training):
        found = [_squares(snapshot, part, generator) for part in parts]
    found = [each for each in found if each.predictions]
    if len(found) < 2:
        raise NotApplicable(
            f"Got a probe set whose targets are all marked as ignored but for those in {len(found)} of {len(parts)} groups; need two groups "
            "to see a spread. Use a larger probe set, or one in which more targets count."
        )
    counts = np.array([each.predictions for each in found])
    squares = by_layer({name: np.array([each.squares[name] for each in found]) for name in snapshot.params})
    return {layer: ratio_draws(amounts, counts) for layer, amounts in squares.items()}


@dataclass(frozen=True, slots=True)
class _Group:
    """The squared lengths of the gradient of a group's summed negative log-likelihood by each parameter, and of how many predictions."""

    squares: dict[str, float]
    predictions: float


def _squares(snapshot: Snapshot, part: ProbeSet, generator: torch.Generator) -> _Group:
    # Clones of the buffers: normalisation in training mode moves its running statistics.
    state = dict(snapshot.params) | {name: b.clone() for name, b in snapshot.model.named_buffers()}
    with torch.enable_grad():
        outputs = snapshot.outputs(state, part.inputs)
    known = snapshot.likelihood
    if known is None or not isinstance(outputs, Tensor) or not known.fits(outputs, part.targets):
        raise NotApplicable(
            "Got a loss that is not a known likelihood of one tensor of outputs (cross-entropy or squared error); labels cannot "
            'be drawn from the model. attach(likelihood="categorical") names one.'
        )
    count = float(numbers(known.predictions(outputs, part.targets)).sum())
    with torch.no_grad():
        scores = known.sampled_scores(outputs, part.targets, 1, generator)[:, 0]
    gradients = torch.autograd.grad(
        outputs, list(snapshot.params.values()), scores, allow_unused=True, materialize_grads=True
    )
    norms = (float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in gradients)
    return _Group({name: norm * norm for name, norm in zip(snapshot.params, norms, strict=True)}, count)


@contextmanager
def _batch_statistics(model: nn.Module, *, on: bool) -> Iterator[None]:
    """BatchNorm normalises with the batch inside, where that is asked for; everything else stays in evaluation mode."""
    normalising = [m for m in model.modules() if on and isinstance(m, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001 - the common class
    try:
        for module in normalising:
            module.training = True
        yield
    finally:
        for module in normalising:
            module.training = False
