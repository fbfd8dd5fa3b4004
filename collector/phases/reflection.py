"""Reflected e-process: the evidence that a mean which should only have risen so far has fallen.

Null hypothesis: the mean has been non-decreasing since the phase began; nothing else, no shape, no
horizon. Fold the series at a split b: under the null the k probes before it and the k after it differ by
at most zero in the mean, so for independent noise of known sigma and any rate r > 0

    E_{b,k}(r) = exp( r * sum_{i<=k} (y[b-i+1] - y[b+i])  -  r^2/2 * sum_{i<=k} (s[b-i+1]^2 + s[b+i]^2) )

is a supermartingale in k, and so is its mean over a few rates. By Ville's inequality it ever
reaches 1/a with probability at most a; with weights w_b that sum to one over all splits, their union
keeps that bound for ever: P(some b, k: w_b E_{b,k} >= 1/alpha) <= alpha. Round splits weigh more: with
b = 2^j (2i - 1) the weight is 1/((j+1)(j+2) i(i+1)). A change need not be placed to the probe, and one
seen late is seen in large windows, for which a rough split does.

That is a theorem for independent noise of known sigma and a first probe fixed in advance. Here
sigma is estimated, outliers are replaced, the first probe is where the last turn happened, and older
probes are at hand in buckets only, so the window before a split may be longer than the one after it. In use
the bound is therefore measured, on curves that never turn, and not proved. Noise that is strongly
correlated from probe to probe breaks it.

The probe that just came closes the folds with b + k = n. Of those, the ones at the bounds of buckets are
evaluated: O(log n) for a new probe. Of a rise: the same with -y.

After Ville (1939); Howard, Ramdas, McAuliffe, Sekhon (2020) for the sub-Gaussian exponential form.
"""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.phases.axis import Floats
from collector.phases.history import Buckets

Counts = Callable[[Floats, Floats, Floats], NDArray[np.bool_]]
RATES = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Rates of the mixture, in units of 1/sigma: from a drop of a quarter sigma kept up long to one of four sigma."""


_RATES = np.array(RATES)[:, None]
_LIGHTEST = 1.38  # no split weighs more than 1/4, whose logarithm is -1.386


class Folds(msgspec.Struct, frozen=True):
    """The evidence at each fold that ends at the newest probe, the smallest first.

    Fold j has the newest ``after_from[j]``… buckets behind it and those from ``before_from[j]`` up to there
    before it, of ``k[j]`` probes or a few more. ``before`` and ``after`` are the windows' means, ``log_e`` is
    the natural logarithm of the weighted e-value, -inf where it is certainly below 0 or was not asked.
    """

    log_e: Floats
    before: Floats
    after: Floats
    k: Floats
    before_from: NDArray[np.int64]
    after_from: NDArray[np.int64]


def fall(buckets: Buckets, sigma: float, counts: Counts | None = None) -> Folds:
    """The evidence against "the mean has been non-decreasing"; ``sigma`` is the least noise of a probe believed.

    Of folds that do not count, by their means before and after and their probes, it is not asked.
    """
    k = buckets.n[::-1].cumsum()
    total = k[-1]
    center = buckets.y.sum() / total  # a sum of large levels would swallow the drop
    y = (buckets.y - buckets.n * center)[::-1].cumsum()
    variance = np.maximum(buckets.variance, buckets.n * sigma**2)[::-1].cumsum()
    folds = int(k.searchsorted(total / 2.0, side="right"))
    after = slice(0, folds)
    before = k.searchsorted(2.0 * k[after])
    ka, kb = k[after], k[before] - k[after]
    mean_after, mean_before = y[after] / ka, (y[before] - y[after]) / kb
    drop = ka * (mean_before - mean_after)
    noise = variance[after] + (variance[before] - variance[after]) * (ka / kb) ** 2
    log_e = np.full(folds, -np.inf)
    # No rate does better than the best one for a fold, whose exponent is drop^2 / 2 noise.
    best = 0.5 * drop * drop
    some = (drop > 0.0) & (best > _LIGHTEST * noise)
    if counts is not None and some.any():
        some &= counts(mean_before + center, mean_after + center, ka)
    some = np.flatnonzero(some)
    if some.size:
        weight = log_weight(total - ka[some])
        worth = best[some] > -weight * noise[some]
        some, weight = some[worth], weight[worth]
    if some.size:
        rate = _RATES / np.sqrt(variance[-1] / total)
        exponents = rate * drop[some] - 0.5 * rate**2 * noise[some]
        top = exponents.max(axis=0)
        log_e[some] = top + np.log(np.exp(exponents - top).mean(axis=0)) + weight
    size = buckets.n.size
    return Folds(
        log_e=log_e,
        before=mean_before + center,
        after=mean_after + center,
        k=ka,
        before_from=size - 1 - before,
        after_from=size - 1 - np.arange(folds),
    )


def log_weight(split: Floats) -> Floats:
    """The logarithm of the weight of each split, which is a whole number of probes from 1 on."""
    whole = split.astype(np.int64)
    if whole.size and whole[0] < _TABLED:  # the first is the largest
        return _TABLE[whole]
    return _log_weight(whole)


def _log_weight(whole: NDArray[np.int64]) -> Floats:
    power = (whole & -whole).astype(np.float64)  # 2^j, the largest power of two in it
    level = np.log2(power)
    i = (whole / power + 1.0) / 2.0
    return -np.log((level + 1.0) * (level + 2.0) * i * (i + 1.0))


_TABLED = 4096
_TABLE = np.concatenate([[np.nan], _log_weight(np.arange(1, _TABLED))])


def rise(buckets: Buckets, sigma: float, counts: Counts | None = None) -> Folds:
    """The evidence against "the mean has been non-increasing": the fall of its mirror image."""
    image = Buckets(buckets.n, -buckets.y, buckets.variance, buckets.first, buckets.last)
    mirror = fall(image, sigma, None if counts is None else lambda before, after, k: counts(-before, -after, k))
    return Folds(mirror.log_e, -mirror.before, -mirror.after, mirror.k, mirror.before_from, mirror.after_from)
