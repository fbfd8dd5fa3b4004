"""Sign e-process: a second key that asks nothing of the noise but that it is independent from probe to probe.

Fold the newest probes at a split, as the reflected e-process does, and count the pairs in which the later probe is
the lower one. Had the mean not fallen, that has a probability of at most one half whatever the tails, so

    E_{b,k}(p) = (2p)^{lower} (2 (1 - p))^{not lower},   p > 1/2

is a supermartingale in k, and with the weights of the splits the union stays below 1/alpha for ever with
probability 1 - alpha (Ville 1939). A pair gives a factor of two at most, so it takes some twenty probes on either side:
an excursion of correlated noise seldom lasts so long.
"""

import numpy as np

from collector.phases.axis import Floats
from collector.phases.reflection import log_weight

LEAST = 4
LONGEST = 48
"""Probes on either side of a split, at most."""
CHANCES = (0.6, 0.75, 0.9)
"""Probabilities of a lower probe that the mixture holds against one half."""


def fallen(y: Floats, before: int) -> float:
    """The log e-value against "the mean has been non-decreasing", of the newest probes ``y``; ``before`` came earlier."""
    longest = min(LONGEST, y.size // 2)
    if longest < LEAST:
        return -np.inf
    k = np.arange(LEAST, longest + 1)
    i = np.arange(longest)
    pairs = i < k[:, None]
    split = y.size - k[:, None]
    lower = np.count_nonzero(
        pairs & (y[np.minimum(split + i, y.size - 1)] < y[split - 1 - np.minimum(i, k[:, None] - 1)]), axis=1
    )
    chances = np.array(CHANCES)[:, None]
    logs = lower * np.log(2.0 * chances) + (k - lower) * np.log(2.0 * (1.0 - chances))
    mixed = np.logaddexp.reduce(logs, axis=0) - np.log(len(CHANCES))
    return float(np.max(mixed + log_weight(before + split[:, 0].astype(float))))
