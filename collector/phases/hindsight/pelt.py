"""PELT: the levels of a series, and where it changed from one to the next.

The piecewise constant curve of least weighted squared error plus ``penalty`` for every change, found
exactly. A start that already costs more than the best by the penalty can never win again and is
pruned (Killick, Fearnhead, Eckley 2012): O(n) when changes keep coming, O(n^2) when there are none.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from collector.phases.axis import Floats


def changes(y: Floats, sigma: Floats, penalty: float) -> list[int]:
    """The index at which each level but the first begins; shapes (n,), ``penalty`` in units of the noise, squared."""
    weight = 1.0 / sigma**2
    level = y - np.median(y)  # sums of large levels would swallow the changes
    w, wy, wyy = (np.append(0.0, np.cumsum(x)) for x in (weight, weight * level, weight * level**2))
    best = np.empty(y.size + 1)
    best[0] = -penalty
    whence = np.zeros(y.size + 1, dtype=np.intp)
    starts: NDArray[np.intp] = np.zeros(1, dtype=np.intp)
    for end in range(1, y.size + 1):
        error = wyy[end] - wyy[starts] - (wy[end] - wy[starts]) ** 2 / (w[end] - w[starts])
        cost = best[starts] + error
        winner = int(cost.argmin())
        whence[end], best[end] = starts[winner], cost[winner] + penalty
        starts = np.append(starts[cost <= best[end]], end)
    found = []
    at = int(whence[-1])
    while at > 0:
        found.append(at)
        at = int(whence[at])
    return found[::-1]


def levels(y: Floats, sigma: Floats, penalty: float) -> Floats:
    """The piecewise constant curve itself, shape (n,)."""
    ends = [0, *changes(y, sigma, penalty), y.size]
    weight = 1.0 / sigma**2
    means = [float(np.average(y[a:b], weights=weight[a:b])) for a, b in pairwise(ends)]
    return np.repeat(means, np.diff(ends))
