"""Turning point: where a rise became a fall, by the best unimodal curve.

Least squares over all curves that rise to probe m and fall after it (Frisén 1986) needs no width
and no shape. The error of the best such curve, as a function of m, is a profile likelihood of the
mode; with a flat prior over the probes its median is the estimate and its central part the interval.
"""

from dataclasses import dataclass

import numpy as np

from collector.phases.axis import Floats
from collector.phases.isotonic import prefix_errors

COVER = 0.9
"""Mass of the profile likelihood inside the interval."""
CHANCE = (2.71, 1.7)
"""By how much a curve that falls is nearer to two probes of a level by chance, and to more of them, times the logarithm of
all but one: the 95 % quantiles of Bartholomew (1959) for 2 to 12 probes."""


@dataclass(frozen=True, slots=True)
class TurningPoint:
    """Indices of the probe at a turn and of the ends of its interval."""

    at: int
    first: int
    last: int


def peak(y: Floats, sigma: Floats) -> TurningPoint:
    """The peak of ``y`` with noise ``sigma``; its valley is the peak of ``-y``. O(n).

    A top may be flat, and the fall begins at its end: the interval reaches as far as it may be.
    """
    weight = 1.0 / sigma**2
    level = y - np.median(y)
    up = prefix_errors(level, weight)
    down = prefix_errors(level[::-1], weight[::-1])[::-1]
    top = _central(up + np.append(down[1:], 0.0))  # rises through probe m, falls from m + 1
    flat = _flat_for(level[top.first :], weight[top.first :])
    return TurningPoint(top.at, top.first, max(top.last, top.first + flat))


def _flat_for(y: Floats, weight: Floats) -> int:
    """How far from its start on ``y`` may be a level: beyond that a curve that falls is nearer to it by more than ``CHANCE``."""
    w, wy, wyy = (np.cumsum(weight * y**power) for power in (0, 1, 2))
    nearer = wyy - wy**2 / w - prefix_errors(-y, weight)
    first, more = CHANCE
    return int(np.flatnonzero(nearer <= first + more * np.log(np.maximum(np.arange(y.size), 1)))[-1])


def onset(y: Floats, sigma: Floats) -> TurningPoint:
    """Where ``y`` left a level and began to fall: level through probe m, lower after it. O(n).

    A curve that only falls after m would follow the noise of the level before it, so what comes after is a level of its
    own; where the fall is slow the split lies within it, and the interval reaches back to where it began.
    """
    weight = 1.0 / sigma**2
    level = y - np.median(y)
    w, wy, wyy = (np.cumsum(weight * level**power) for power in (0, 1, 2))
    before = wyy - wy**2 / w
    rest = np.maximum(w[-1] - w, 1e-300)
    after = np.where(w[-1] > w, (wyy[-1] - wyy) - (wy[-1] - wy) ** 2 / rest, 0.0)
    split = _central(np.maximum(before + after, 0.0))
    begun = np.flatnonzero(np.abs(level[: split.at + 1] - wy[split.at] / w[split.at]) <= sigma[: split.at + 1])
    at = int(begun[-1]) if begun.size else split.at
    return TurningPoint(at, min(at, split.first), max(at, split.last))


def _central(error: Floats) -> TurningPoint:
    """The median and the central part of the likelihood of errors, the least the likeliest."""
    likelihood = np.exp(-0.5 * (error - error.min()))
    mass = np.cumsum(likelihood) / likelihood.sum()
    ends = ((1.0 - COVER) / 2, 0.5, (1.0 + COVER) / 2)
    first, at, last = (min(int(i), error.size - 1) for i in np.searchsorted(mass, ends))
    return TurningPoint(at, first, last)
