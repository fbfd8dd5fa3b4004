"""Calibration: how far a classifier's confidence is from how often it is right.

The expected calibration error of Guo et al. (2017, "On calibration of modern neural networks", sec. 2)
sorts predictions into M equal bins of confidence and averages |accuracy − confidence| over them:

    ECE = Σ_b (n_b / n) |acc_b − conf_b|

A finite sample has a positive one even where the network is perfectly calibrated: acc_b − conf_b then
is noise of variance Σ_b p (1 − p) / n_b², whose mean absolute value is √(2/π) of its deviation. Their
sum is the *floor*, to be read beside it (Bröcker & Smith 2007, "Increasing the reliability of
reliability diagrams", test a diagram against the same null).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import Draws, numbers, ratio_draws
from probe_agent.likelihood import Categorical
from probe_agent.snapshot import Snapshot

BINS = 15


@dataclass(frozen=True, slots=True)
class CalibrationDraws:
    """Parts of each quantity, one a probe sample, float64 of shape ``(n,)``, whose mean is the quantity."""

    confidence: Draws
    error: Draws
    floor: Draws


def calibration_draws(snapshot: Snapshot) -> CalibrationDraws:
    """Confidence, calibration error and its floor on the snapshot's probe set.

    The draws of the error are sign_b (confidence − correct): to first order the sign of a bin's gap
    does not change when a sample is exchanged, so their spread is its sampling error wherever the
    error stands clear of the floor; at the floor it is too large.

    Raises:
        NotApplicable: the network does not classify, or its outputs are not finite.
    """
    confidence, correct, scored = _graded(snapshot)
    counts = numbers(scored.sum(1))
    bins = (confidence * BINS).long().clamp(0, BINS - 1)
    kept = scored.to(confidence)

    def by_bin(values: Tensor) -> Tensor:
        return torch.zeros(BINS, dtype=values.dtype, device=values.device).index_add_(
            0, bins.flatten(), (values * kept).flatten()
        )

    gap = confidence - correct.to(confidence)
    signs = by_bin(gap).sign()[bins]
    uncertain = confidence * (1 - confidence)
    deviation = by_bin(uncertain).sqrt()  # of Σ (correct − confidence) in each bin, were the network calibrated
    half_normal = math.sqrt(2 / math.pi)
    floor = half_normal * float(deviation.sum()) / counts.sum()
    # The floor is the sum of roots of sums over samples; a sample's influence on it is the derivative.
    share = torch.where(deviation > 0, half_normal / (2 * deviation), 0.0)[bins] * uncertain
    influence = numbers((share * kept).sum(1))
    return CalibrationDraws(
        confidence=ratio_draws(numbers((confidence * kept).sum(1)), counts),
        error=ratio_draws(numbers((signs * gap * kept).sum(1)), counts),
        floor=floor + (influence - influence.mean()) / counts.mean(),
    )


def _graded(snapshot: Snapshot) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, correctness and whether it counts, of every prediction, the first in double precision."""
    known, targets = snapshot.likelihood, snapshot.probe_set.targets
    outputs = snapshot.of_logits().predictions()
    if not isinstance(known, Categorical) or not isinstance(outputs, Tensor) or not known.fits(outputs, targets):
        raise NotApplicable(
            "Calibration is defined for classifiers: need a loss that is a cross-entropy of one tensor of logits and class "
            'targets. Say so with attach(likelihood="categorical") where the loss does not tell.'
        )
    confidence, correct, scored = known.graded(outputs.double(), targets)
    if not scored.any():
        raise NotApplicable("Every target of the probe batch is marked as ignored, so nothing is predicted there.")
    return confidence, correct, scored
