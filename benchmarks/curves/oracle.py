"""Oracle: the delay that no causal detector can beat, for one curve whose mean and noise are known.

To tell a peak from a curve that never declined, the two must differ. The hardest null is the closest non-decreasing
curve, the isotonic regression of the mean so far. By Neyman and Pearson's lemma the most powerful test of false-alarm
rate ``alpha`` against it reaches power 1/2 where the distance, in standard deviations, is z_{1-alpha}.
"""

from statistics import NormalDist

import numpy as np

from .curve import Curve, Floats

ALPHA = 0.01


def oracle_step(curve: Curve, alpha: float = ALPHA) -> int | None:
    """The first step at which half of all runs could know that the curve has declined; None if never.

    The noise is white and Gaussian, of standard deviation ``curve.sd``. Only what follows the lowest probe before the
    truth counts: a decline before the rise is no sign of a peak.
    """
    needed = NormalDist().inv_cdf(1.0 - alpha) ** 2
    begin = 0
    if curve.truth is not None:
        before = curve.mean[curve.steps <= curve.truth]
        begin = before.size - 1 - int(np.argmin(before[::-1]))
    reached = np.flatnonzero(distances(curve.mean[begin:], curve.sd[begin:]) >= needed)
    return int(curve.steps[begin + reached[0]]) if reached.size else None


def oracle_delay(curve: Curve) -> float:
    """That step as a delay in rise times; infinite if never, NaN on a null."""
    step = oracle_step(curve)
    return float("nan") if curve.truth is None else float("inf") if step is None else curve.delay(step)


def distances(mean: Floats, sd: Floats) -> Floats:
    """Squared distance of mean[:i+1] from the closest non-decreasing curve, each probe weighted by 1/sd^2, for each i.

    Pool-adjacent-violators (Barlow et al. 1972, section 1.2) from left to right: the pools after probe i are the
    isotonic regression of the first i + 1 probes, so one pass gives all. Shape (n,).
    """
    pools: list[tuple[float, float]] = []  # weight, mean
    total, found = 0.0, []
    for level, w in zip(mean.tolist(), (1.0 / sd**2).tolist(), strict=True):
        weight, pooled = w, level
        while pools and pools[-1][1] >= pooled:
            left_weight, left = pools.pop()
            total += left_weight * weight / (left_weight + weight) * (left - pooled) ** 2
            pooled = (left_weight * left + weight * pooled) / (left_weight + weight)
            weight += left_weight
        pools.append((weight, pooled))
        found.append(total)
    return np.array(found)
