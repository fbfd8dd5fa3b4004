"""Pairing: the standard error of a change, from the same draws measured at two snapshots."""

import math

import numpy as np
from numpy.typing import NDArray


def paired_stderr(now: NDArray[np.float64], before: NDArray[np.float64] | None) -> float:
    """How noisy one estimate is *as a point of its curve*, when every point uses the same draws.

    The difference of two means over common draws has the standard error sd(now - before)/sqrt(n);
    each end of it carries 1/sqrt(2) of that. The marginal error would overstate the noise of the
    curve, since most of what makes draws differ is the same at both snapshots.

    Args:
        now: the draws of this snapshot, shape ``(n,)``.
        before: the draws of the previous one, the same inputs in the same order; None at the first.

    Returns:
        sd(now - before) / sqrt(2 n), or NaN where it cannot be known.
    """
    if before is None or before.shape != now.shape or now.size < 2:
        return math.nan
    difference = now - before
    if not np.isfinite(difference).all():
        return math.nan
    return float(np.std(difference, ddof=1) / math.sqrt(2 * now.size))
