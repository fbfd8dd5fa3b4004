"""Turning point: where a rise became a fall, by the best unimodal curve.

Least squares over all curves that rise to probe m and fall after it (Frisén 1986) needs no width
and no shape. The error of the best such curve, as a function of m, is a profile likelihood of the
mode; with a flat prior over the probes its median is the estimate and its central part the interval.
"""

from dataclasses import dataclass

import numpy as np

from collector.phases.series import Floats

COVER = 0.9
"""Mass of the profile likelihood inside the interval."""


@dataclass(frozen=True, slots=True)
class TurningPoint:
    """Indices of the probe at a turn and of the ends of its interval."""

    at: int
    first: int
    last: int


def peak(y: Floats, sigma: Floats) -> TurningPoint:
    """The peak of ``y`` with noise ``sigma``; its valley is the peak of ``-y``. O(n)."""
    weight = 1.0 / sigma**2
    level = y - np.median(y)
    up = _isotonic_errors(level, weight)
    down = _isotonic_errors(level[::-1], weight[::-1])[::-1]
    error = up + np.append(down[1:], 0.0)  # rises through probe m, falls from m + 1
    likelihood = np.exp(-0.5 * (error - error.min()))
    mass = np.cumsum(likelihood) / likelihood.sum()
    ends = ((1.0 - COVER) / 2, 0.5, (1.0 + COVER) / 2)
    first, at, last = (min(int(i), y.size - 1) for i in np.searchsorted(mass, ends))
    return TurningPoint(at, first, last)


def _isotonic_errors(y: Floats, weight: Floats) -> Floats:
    """Entry m: the least weighted squared error of a non-decreasing curve through the first m + 1 values.

    Pool adjacent violators, keeping the error of what is pooled (Stout 2008): O(n) for all m.
    """
    errors = np.empty(y.size)
    pools: list[tuple[float, float, float]] = []  # weight, mean, squared error
    total = 0.0
    for m in range(y.size):
        w, mean, pooled = float(weight[m]), float(y[m]), 0.0
        while pools and pools[-1][1] > mean:
            w0, mean0, pooled0 = pools.pop()
            total -= pooled0 + pooled
            pooled += pooled0 + w0 * w / (w0 + w) * (mean0 - mean) ** 2
            total += pooled
            mean = (w0 * mean0 + w * mean) / (w0 + w)
            w += w0
        pools.append((w, mean, pooled))
        errors[m] = total
    return errors
