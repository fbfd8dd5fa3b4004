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
from functools import cache

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
_SHAPES = math.log(2.0)
_REACHES = np.array(
    [[2.0], [1.0 + GAP + BEFORE], [1.0], [1.0 + GAP]]
)  # from begin to end of the earlier windows of both
_SURE = 1.0 - 1e-6  # a bound is no bound in its last digits


class Folds(msgspec.Struct, frozen=True):
    """The evidence at each fold that ends at the newest probe: those without a gap, then those with one, the smallest first.

    ``log_e`` is the natural logarithm of the weighted e-value, -inf where it is certainly below 0 or was not asked. ``later``
    and ``earlier`` are the windows' probes, sums of values and of variances (3, folds), in units of ``unit`` and from
    ``center`` on; bounds of windows are buckets counted back from ``last``, the newest.
    """

    log_e: Floats
    later: Floats
    earlier: Floats
    bounds: NDArray[np.int64]
    last: int
    unit: float
    center: float

    @property
    def k(self) -> Floats:
        """Probes in the later window of each."""
        return np.asarray(self.later[0])

    @property
    def before(self) -> Floats:
        """The mean of the earlier window of each."""
        return np.asarray((self.earlier[1] / self.earlier[0] + self.center) * self.unit)

    @property
    def after(self) -> Floats:
        """The mean of the later window of each."""
        return np.asarray((self.later[1] / self.later[0] + self.center) * self.unit)

    def windows(self, fold: int) -> tuple[slice, slice]:
        """The buckets of the earlier and of the later window of a fold."""
        after, until, before = (self.last - self.bounds[:, fold]).tolist()
        return slice(before, until), slice(after, self.last + 1)

    def together(self) -> float:
        """The logarithm of the sum of all e-values; -inf where there is none."""
        top = float(self.log_e.max(initial=-math.inf))
        return top + math.log(float(np.exp(self.log_e - top).sum())) if top > -math.inf else top


def fall(buckets: Buckets, sigma: float, counts: Counts | None = None, least: float = -math.inf) -> Folds:
    """The evidence against "the mean has been non-decreasing"; ``sigma`` is the least noise of a probe believed.

    Of folds that do not count, by their means before and after and their probes, it is not asked; nor of any where all
    together certainly stay below ``least``, a log e-value.
    """
    return _folds(buckets, sigma, counts, least, 1.0)


def rise(buckets: Buckets, sigma: float, counts: Counts | None = None, least: float = -math.inf) -> Folds:
    """The evidence against "the mean has been non-increasing": the fall of its mirror image."""
    return _folds(buckets, sigma, counts, least, -1.0)


def none(buckets: Buckets, sigma: float, way: str) -> bool:
    """Whether there is certainly no fold with evidence of a "fall" or a "rise": cheap, and at most probes there is none.

    It takes the noise at its least, and for all folds the largest weight that a split in the newer half can have. Where it
    says nothing, `fall` and `rise` know.
    """
    n = buckets.n[::-1]
    y = buckets.y[::-1] / (sigma if way == "fall" else -sigma)
    y -= n * (float(y[0]) / float(n[0]))
    k, y = np.add.accumulate(n), np.add.accumulate(y)
    close, apart = _halves(k)
    found = k.searchsorted(_REACHES * k[:close])
    found[1::2, apart:] = found[::2, apart:]  # of the second shape there are fewer
    later, sums = k[:close], y.take(found, mode="clip")
    counts = k.take(found, mode="clip")
    share = later / (counts[:2] - counts[2:])
    drop = share * (sums[:2] - sums[2:]) - y[:close]
    drop *= np.abs(drop)
    share += 1.0
    share *= later
    drop /= share
    return 0.5 * float(drop.max(initial=0.0)) < _SURE * (_SHAPES - largest_weight(int(k[-1])))


def _halves(k: Floats) -> tuple[int, int]:
    """How many folds there are of each shape, by the probes up to each bucket counted back."""
    probes, before = float(k[-1]), float(k[k.size - 2])  # a large old bucket may leave no gap
    half = probes / 2.0, min(probes / (2.0 + GAP), before / (1.0 + GAP))
    close, apart = k.searchsorted(half, side="right").tolist()
    return close, apart


def _folds(buckets: Buckets, sigma: float, counts: Counts | None, least: float, way: float) -> Folds:
    """In units of sigma, whose square alone may be too small or too large for a float."""
    unit = sigma if sigma > 0.0 else 1.0
    columns = np.empty((3, len(buckets)))
    columns[0] = buckets.n
    np.divide(buckets.y, way * unit, out=columns[1])
    np.divide(buckets.variance, unit, out=columns[2])
    columns[2] /= unit
    if sigma > 0.0:
        np.maximum(columns[2], columns[0], out=columns[2])
    center = float(columns[1].sum() / columns[0].sum())  # a sum of large levels would swallow the drop
    columns[1] -= center * columns[0]
    sums = columns[:, ::-1].cumsum(axis=1)
    k = sums[0]
    probes, last = float(k[-1]), k.size - 1
    close, apart = _halves(k)
    touching, parted = k[:close], k[:apart]
    found = k.searchsorted(np.concatenate((2.0 * touching, (1.0 + GAP + BEFORE) * parted, (1.0 + GAP) * parted)))
    m = close + apart
    straight = np.arange(close)
    bounds = np.concatenate((straight, straight[:apart], straight, found[m:], found[:m])).reshape(3, m)
    np.minimum(bounds[2], last, out=bounds[2])
    later, skipped, whole = sums.take(bounds, axis=1).swapaxes(0, 1)
    earlier = whole - skipped
    share = later[0] / earlier[0]
    drop = share * earlier[1] - later[1]
    noise = later[2] + share * share * earlier[2]
    weight = log_weight(probes - later[0]) - _SHAPES
    most = np.maximum(drop, 0.0)  # no rate does better than the best one for a fold, whose exponent is drop^2 / 2 noise
    most *= 0.5 * most / noise
    most += weight
    some = np.flatnonzero(most > 0.0)
    log_e = np.full(m, -np.inf)
    folds = Folds(log_e, later, earlier, bounds, last, way * unit, center)
    if not some.size or most.max() < least - math.log(some.size):
        return folds
    if counts is not None:
        some = some[counts(folds.before[some], folds.after[some], later[0, some])]
    if some.size:
        rate = _RATES / math.sqrt(sums[2, -1] / probes)
        exponents = rate * drop[some] - 0.5 * rate**2 * noise[some]
        top = exponents.max(axis=0)
        log_e[some] = top + np.log(np.exp(exponents - top).mean(axis=0)) + weight[some]
    return folds


def log_weight(split: Floats) -> Floats:
    """The logarithm of the weight of each split, which is a whole number of probes from 1 on."""
    whole = split.astype(np.int64)
    return _TABLE.take(whole) if whole.max(initial=0) < _TABLED else _log_weight(whole)


def _log_weight(whole: NDArray[np.int64]) -> Floats:
    power = (whole & -whole).astype(np.float64)  # 2^j, the largest power of two in it
    level = np.log2(power)
    i = (whole / power + 1.0) / 2.0
    return -np.log((level + 1.0) * (level + 2.0) * i * (i + 1.0))


@cache
def _largest_weight_below(power: int) -> float:
    """The largest logarithm of the weight of a split between a quarter of a power of two and all of it."""
    # From 16 on that is the power of two in between.
    splits = range(power // 4 + 1, power) if power <= 32 else (power // 2,)
    return float(log_weight(np.array(splits, dtype=float)).max(initial=-math.inf))


def largest_weight(probes: int) -> float:
    """The largest logarithm of the weight of a split in the newer half of so many probes."""
    return _largest_weight_below(1 << (probes - 1).bit_length())


_TABLED = 4096
_TABLE = np.concatenate([[np.nan], _log_weight(np.arange(1, _TABLED))])
