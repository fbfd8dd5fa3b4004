"""Reflected e-process: the evidence that a mean which should only have risen so far has fallen.

Null hypothesis: the mean has been non-decreasing since the phase began; nothing else, no shape, no
horizon. Hold the k newest probes against m earlier ones, with a gap between the two windows or none. Under the null
the mean of the later window is at least that of the earlier one, so for independent noise of known sigma and any rate r > 0

    E(r) = exp( r k (earlier mean - later mean)  -  r^2/2 (v + (k/m)^2 u) )

has a mean of at most one; v and u are the sums of the variances in the later and in the earlier window. For a fixed begin b
of the later window and m = k it is a supermartingale in k, as if the series were folded at b, and so is its mean over a
few rates. By Ville's inequality it ever reaches 1/a with probability at most a; with weights w_b that sum to one over all
splits, their union keeps that bound for ever: P(some b, k: w_b E_{b,k} >= 1/alpha) <= alpha. Round splits weigh more: with
b = 2^j (2i - 1) the weight is 1/((j+1)(j+2) i(i+1)). A change need not be placed to the probe, and one
seen late is seen in large windows, for which a rough split does.

Two shapes share that weight. Windows that touch need the least past. Of a rounded top the middle tells nothing, so the
other shape leaves ``GAP`` k probes out and takes twice as many before: of c t^2 it gathers 1.4 times as much evidence, where
the nearest curve that only rises would give 1.6 times. The evidence at a probe is the *sum* over all folds that end
there, whose mean under the null is at most one as well.

The bound is a theorem for one shape without a gap, the largest fold instead of the sum, independent noise of known
sigma and a first probe fixed in advance. Here windows grow together, folds are summed, sigma is estimated, outliers are
replaced, the first probe is where the last turn happened, and older probes are at hand in buckets only, so a window may
be longer than asked. In use the bound is therefore measured, on curves that never turn, and not proved. Noise that is
strongly correlated from probe to probe breaks it.

The probe that just came closes all folds. Of those, the ones at the bounds of buckets are
evaluated: O(log n) for a new probe. Of a rise: the same with -y.

After Ville (1939); Howard, Ramdas, McAuliffe, Sekhon (2020) for the sub-Gaussian exponential form; where the mean before is flat,
the folds together are a generalised likelihood ratio for one change (Siegmund, Venkatraman 1995; FOCuS: Romano et al. 2023).
"""

import math
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.phases.axis import Floats
from collector.phases.history import Buckets

Counts = Callable[[Floats, Floats, Floats], NDArray[np.bool_]]
RATES = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Rates of the mixture, in units of 1/sigma: from a drop of a quarter sigma kept up long to one of four sigma."""


GAP = 1.5
"""Probes left out between the windows of the second shape, in units of those after it."""
BEFORE = 2.0
"""Probes before that gap, in the same units; at the begin of a phase as few as one unit."""

_RATES = np.array(RATES)[:, None]
_LIGHTEST = 1.38  # no split weighs more than 1/4, whose logarithm is -1.386
_SHAPES = math.log(2.0)


class Folds(msgspec.Struct, frozen=True):
    """The evidence at each fold that ends at the newest probe: those without a gap, then those with one, the smallest first.

    Fold j has the newest ``after_from[j]``… buckets behind it, of ``k[j]`` probes, and those from ``before_from[j]`` up to
    ``before_until[j]`` before it. ``before`` and ``after`` are the windows' means, ``log_e`` is
    the natural logarithm of the weighted e-value, -inf where it is certainly below 0 or was not asked.
    """

    log_e: Floats
    before: Floats
    after: Floats
    k: Floats
    before_from: NDArray[np.int64]
    before_until: NDArray[np.int64]
    after_from: NDArray[np.int64]

    def together(self) -> float:
        """The logarithm of the sum of all e-values; -inf where there is none."""
        some = self.log_e[self.log_e > -np.inf]
        top = float(some.max()) if some.size else -math.inf
        return top + math.log(float(np.exp(some - top).sum())) if some.size else top


def fall(buckets: Buckets, sigma: float, counts: Counts | None = None) -> Folds:
    """The evidence against "the mean has been non-decreasing"; ``sigma`` is the least noise of a probe believed.

    Of folds that do not count, by their means before and after and their probes, it is not asked.
    """
    center = buckets.y.sum() / buckets.n.sum()  # a sum of large levels would swallow the drop
    noise = np.maximum(buckets.variance, buckets.n * sigma**2)
    sums = np.array([buckets.n, buckets.y - buckets.n * center, noise])[:, ::-1].cumsum(axis=1)
    k, last = sums[0], buckets.n.size - 1
    close, apart = k.searchsorted(k[-1] / np.array([2.0, 2.0 + GAP]), side="right").tolist()
    skipped = k.searchsorted((1.0 + GAP) * k[:apart])
    apart = int(skipped.searchsorted(last))  # a large old bucket may leave nothing before the gap
    after = np.concatenate([np.arange(close), np.arange(apart)])
    until = np.concatenate([after[:close], skipped[:apart]])
    far = k.searchsorted(np.concatenate([2.0 * k[:close], (1.0 + GAP + BEFORE) * k[:apart]]))
    before = np.minimum(far, last)
    (ka, ya, va), (kb, yb, vb) = sums[:, after], sums[:, before] - sums[:, until]
    mean_after, mean_before = ya / ka, yb / kb
    drop = ka * (mean_before - mean_after)
    noise = va + vb * (ka / kb) ** 2
    log_e = np.full(after.size, -np.inf)
    # No rate does better than the best one for a fold, whose exponent is drop^2 / 2 noise.
    best = 0.5 * drop * drop
    some = np.flatnonzero((drop > 0.0) & (best > (_LIGHTEST + _SHAPES) * noise))
    weight = log_weight(k[-1] - ka[some]) - _SHAPES
    worth = best[some] > -weight * noise[some]
    if worth.any() and counts is not None:
        worth &= counts(mean_before[some] + center, mean_after[some] + center, ka[some])
    some, weight = some[worth], weight[worth]
    if some.size:
        rate = _RATES / math.sqrt(sums[2, -1] / k[-1])
        exponents = rate * drop[some] - 0.5 * rate**2 * noise[some]
        top = exponents.max(axis=0)
        log_e[some] = top + np.log(np.exp(exponents - top).mean(axis=0)) + weight
    return Folds(
        log_e=log_e,
        before=mean_before + center,
        after=mean_after + center,
        k=ka,
        before_from=last - before,
        before_until=last - until,
        after_from=last - after,
    )


def log_weight(split: Floats) -> Floats:
    """The logarithm of the weight of each split, which is a whole number of probes from 1 on."""
    whole = split.astype(np.int64)
    if whole.size and whole.max() < _TABLED:
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
    return msgspec.structs.replace(mirror, before=-mirror.before, after=-mirror.after)
