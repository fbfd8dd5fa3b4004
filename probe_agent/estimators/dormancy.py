"""Dormancy: which units of a layer have fallen silent beside the others (Sokar et al. 2023, "The dormant neuron phenomenon")."""

import torch
from torch import Tensor

from probe_agent.estimators.draws import Draws, numbers

REPLICATES = 200
"""Bootstrap replicates: they tell a standard error to some 5 %."""


def dormant(magnitudes: Tensor, threshold: float) -> Tensor:
    """Whether each unit's mean |h| is at most ``threshold`` times the mean of its layer's units (their eq. 1).

    Where every unit is silent, all of them are dormant: 0/0 counts as 0.

    Args:
        magnitudes: mean |h|, units along the last axis.
        threshold: τ; 0 asks for units that are exactly silent.

    Returns:
        0 or 1, of the same shape in double precision; NaN where a magnitude is not finite.
    """
    silent = (magnitudes <= threshold * magnitudes.mean(-1, keepdim=True)).to(magnitudes)
    return silent.masked_fill(~magnitudes.isfinite().all(-1, keepdim=True), torch.nan)


def reweighted(n: int, generator: torch.Generator) -> Tensor:
    """Weights of n samples, shape ``(1 + REPLICATES, n)``: equal ones, then random ones (Rubin 1981, the Bayesian bootstrap)."""
    weights = torch.ones(1 + REPLICATES, n, dtype=torch.float64, device=generator.device)
    weights[1:].exponential_(generator=generator)
    return weights / weights.sum(1, keepdim=True)


def dormant_draws(layers: list[Tensor], threshold: float, weights: Tensor) -> Draws:
    """Draws whose mean is the share of dormant units in some layers together.

    A share of units on one side of a threshold moves in jumps, so its error is not told by a derivative
    but by a bootstrap: by the shares that samples weighted at random give. The draws are those shares,
    moved to the mean and scaled so that sd / √draws is their sd. A unit that none of the samples
    wakes stays dormant in every replicate: of how rarely it may wake in others the error says nothing.

    Args:
        layers: of each layer the units' magnitudes at each sample, shape ``(n, units)``.
        threshold: τ.
        weights: `reweighted` samples, the same at every snapshot.
    """
    silent = torch.stack([dormant(weights @ magnitudes, threshold).sum(1) for magnitudes in layers]).sum(0)
    shares = silent / sum(magnitudes.shape[1] for magnitudes in layers)
    value, replicates = shares[0], shares[1:]
    if replicates.min() == replicates.max() == value:
        return numbers(replicates)  # to the last digit
    return numbers(value + REPLICATES**0.5 * (replicates - replicates.mean()))
