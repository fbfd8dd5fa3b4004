"""Isotonic regression: the non-decreasing curve nearest to a series, by pooling adjacent violators.

Least weighted squares over all curves that never fall. Wherever neighbours violate the order they
are pooled to their weighted mean, until none do (Ayer, Brunk, Ewing, Reid, Silverman 1955). One
pass fits every prefix of the series on its way (Stout 2008), which makes the errors of all
prefixes as cheap as that of the whole. Each function is O(n).
"""

import numpy as np

from collector.phases.axis import Floats


def isotonic(y: Floats, weight: Floats) -> Floats:
    """The non-decreasing fit to ``y``; shapes (n,)."""
    means: list[float] = []
    weights: list[float] = []
    sizes: list[int] = []
    for value, weight_of_one in zip(y.tolist(), weight.tolist(), strict=True):
        mean, w, size = value, weight_of_one, 1
        while means and means[-1] > mean:
            w0 = weights.pop()
            mean = (w0 * means.pop() + w * mean) / (w0 + w)
            w += w0
            size += sizes.pop()
        means.append(mean)
        weights.append(w)
        sizes.append(size)
    return np.repeat(means, sizes)


def prefix_errors(y: Floats, weight: Floats) -> Floats:
    """Entry m: the least weighted squared error of a non-decreasing curve through the first m + 1 values."""
    errors = np.empty(y.size)
    pools: list[tuple[float, float, float]] = []  # weight, mean, squared error
    total = 0.0
    for m, (value, weight_of_one) in enumerate(zip(y.tolist(), weight.tolist(), strict=True)):
        mean, w, pooled = value, weight_of_one, 0.0
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
