"""Slopes: whether a curve has settled, or hovers at a level, shown by equivalence and not by the absence of a trend.

That a trend cannot be told from noise says nothing: with enough noise every curve is flat. Settled means
that the slope, with its error, is certainly less than a fraction of the steepest slope seen, itself taken
at the low end of its error (two one-sided tests: Schuirmann 1987), over a window as long as
the whole change took at that slope. Where noise makes this unprovable, nothing is said. Much slower than at its fastest
is not yet still: a power law never settles, so a turn may ask besides how far the curve would go if it lasted as long again.
"""

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from collector.phases.axis import Floats, Scale, placed, value_of
from collector.phases.history import Buckets
from collector.phases.machine import Turn

LEAST = 6
"""Probes in a window whose slope is looked at, at least."""
MARGIN = 2.0
"""Standard errors that an equivalence must be clear of: each holds by chance with a probability of 2.3 %."""
CERTAIN = 4.0
"""Standard errors that the steepest slope is taken low: it is the largest of very many."""
AHEAD = 2.0
"""For how many times the length of its line a curve must stay within the band if it goes on as it does."""
SETTLED_FOR = 0.7
"""How long a curve must have been flat, in units of the time its whole change takes at its steepest."""
LASTED = 1.0
"""The same to be confirmed: the rounded top of a peak is flat for a while, too."""
SURE = 0.35
"""And by how much less than what the turn asks its slope, as it is estimated, must be over that time."""
HOVERED_FOR = 0.15
"""How long it must have hovered; the band it hovers in is known beforehand."""

_SURE = 1.0 - 1e-6  # a bound is no bound in its last digits


class Lines:
    """Least-squares lines through the newest ``k`` probes, the shortest first: slopes and their standard errors.

    Through all suffixes of at least ``LEAST`` probes; ``x`` is where each bucket lies on the step axis. ``length`` is how far
    each reaches on that axis, ``first`` the bucket it begins with; ``ahead`` is how much farther the axis goes if the series
    lasts as long again. What is seldom asked is found when it is.
    """

    def __init__(self, buckets: Buckets, x: Floats, sigma: float, ahead: float = 0.0) -> None:
        n, self._t = buckets.n[::-1], (x - x[-1])[::-1]
        self._center = float(np.add.reduce(buckets.y)) / float(np.add.reduce(buckets.n))
        columns = np.empty((5, n.size))
        columns[0] = n
        np.multiply(n, self._t, out=columns[1])
        np.multiply(columns[1], self._t, out=columns[2])
        np.subtract(buckets.y[::-1], n * self._center, out=columns[3])
        np.multiply(self._t, columns[3], out=columns[4])
        columns = np.add.accumulate(columns, axis=1)
        spread = columns[2] - columns[1] * columns[1] / columns[0]
        self._some: slice | NDArray[np.bool_] = slice(int(columns[0].searchsorted(LEAST)), None)
        if not spread[self._some].min(initial=1.0) > 0.0:  # steps too close to tell apart
            self._some = (columns[0] >= LEAST) & (spread > 0.0)
        self.k, st, _, self._sums, sty = columns[:, self._some]
        self._spread = spread[self._some]
        self._middle = st / self.k
        self.slope = (sty - self._middle * self._sums) / self._spread
        self.steep: Floats = np.abs(self.slope)
        """The slopes without their signs."""
        self.least_error: Floats = _SURE * sigma / np.sqrt(self._spread)
        """What the standard errors are at least: as if no probe strayed by more than is believed of all."""
        self.length = -self._t[self._some]
        self.ahead = ahead
        self._buckets = buckets
        self._sigma = sigma

    @cached_property
    def error(self) -> Floats:
        """The standard error of each slope."""
        v, tv, ttv = self._variances[:, self._some]
        middle = self._middle
        return np.asarray(np.sqrt(np.maximum(ttv - 2.0 * middle * tv + middle**2 * v, 0.0)) / self._spread)

    @cached_property
    def mean(self) -> Floats:
        """The mean of each."""
        return np.asarray(self._sums / self.k + self._center)

    @cached_property
    def error_of_mean(self) -> Floats:
        """The standard error of each mean."""
        return np.asarray(np.sqrt(self._variances[0, self._some]) / self.k)

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """The bucket each begins with."""
        return np.arange(self._t.size - 1, -1, -1)[self._some]

    @cached_property
    def _variances(self) -> Floats:
        columns, t = np.empty((3, self._t.size)), self._t
        np.maximum(self._buckets.variance[::-1], self._buckets.n[::-1] * self._sigma**2, out=columns[0])
        np.multiply(t, columns[0], out=columns[1])
        np.multiply(t * t, columns[0], out=columns[2])
        return np.add.accumulate(columns, axis=1)

    def goes_on(self, value_scale: Scale) -> Floats:
        """By what part of itself the mean would change if the series lasted as long again and went on along each line."""
        change = self.steep * self.ahead
        if value_scale == "log":
            return np.asarray(np.expm1(np.minimum(change, 700.0)))
        return np.asarray(change / np.maximum(np.abs(self.mean), 1e-300))


class Steepest:
    """The steepest slope that a phase has certainly had: the largest of lower limits so far.

    ``whole`` is how far the values went, where that is known from before what is at hand.
    """

    def __init__(self, slope: float = 0.0, rows: dict[str, int] | None = None, whole: float = 0.0) -> None:
        self.slope = slope
        self.whole = whole
        self.rows = dict(rows or {})
        """Probes in a row at which the curve was found to settle, and to hover."""

    def see(self, found: Lines, probes: int) -> None:
        """Take in the newest lines; from few ``probes`` their errors are known poorly, so more of them are asked."""
        if found.k.size:
            certain, steep = CERTAIN * (1.0 + 4.0 / probes), found.steep
            if (steep - certain * found.least_error).max() <= self.slope:
                return
            self.slope = max(self.slope, float((steep - certain * found.error).max()))

    def flat(
        self, turn: Turn, buckets: Buckets, found: Lines, value_scale: Scale, target: float
    ) -> tuple[int, float] | None:
        """The line by which a curve has settled or hovers, and the chance of that margin; None while it has not.

        It takes two probes in a row.
        """
        shown = self.shown(turn, buckets, found, value_scale, target) if self.slope > 0.0 else None
        self.rows[turn.when] = self.rows.get(turn.when, 0) + 1 if shown else 0
        return shown if self.rows[turn.when] >= 2 else None

    def reach(self, buckets: Buckets) -> float:
        """How far the values went."""
        level = buckets.y / buckets.n
        return max(self.whole, float(level.max() - level.min()))

    def lasts(self, turn: Turn, buckets: Buckets, found: Lines, value_scale: Scale, target: float) -> bool:
        """Whether a curve is flat at this probe and has been so for long enough that it is no rounded top of a peak."""
        if self.shown(turn, buckets, found, value_scale, target) is None:
            return False
        if turn.when == "hover":
            return True
        long = np.flatnonzero(found.length >= LASTED * self.whole / self.slope)
        return bool(long.size and abs(found.slope[long[0]]) <= SURE * turn.slope * self.slope)

    def left(
        self, turn: Turn, found: Lines, value_scale: Scale, target: float, level: float
    ) -> tuple[int, float] | None:
        """The line by which a curve has certainly left what it was claimed to have reached: its band, or its level.

        A level is left where it has moved by the same part of the whole change as its slope may be of the steepest.
        """
        if not found.k.size:
            return None
        if turn.when == "hover":
            low, high = (placed(edge * target, 0.0, value_scale)[0] for edge in turn.band)
            beyond = np.maximum(low - found.mean, found.mean - high)
        else:
            beyond = np.abs(found.mean - level) - turn.slope * self.whole
        margin = beyond / np.maximum(found.error_of_mean, 1e-300)
        j = int(margin.argmax())
        return (j, _chance(float(margin[j]))) if margin[j] >= CERTAIN * (1.0 + 4.0 / found.k[-1]) else None

    def shown(
        self, turn: Turn, buckets: Buckets, found: Lines, value_scale: Scale, target: float
    ) -> tuple[int, float] | None:
        """The line by which a curve is flat at this probe, and the chance of that margin."""
        bound = turn.slope * self.slope
        whole = self.reach(buckets) / self.slope
        long = (HOVERED_FOR if turn.when == "hover" else SETTLED_FOR) * whole
        # A line of more probes is longer.
        start = max(int(found.length.searchsorted(long)), int(found.k.searchsorted(turn.min_points)))
        low, high = turn.band[0] * target, turn.band[1] * target
        if turn.when == "hover":
            value = value_of(found.mean, value_scale)[start:]
            if not ((value >= low) & (value <= high)).any():
                return None
        below = bound - found.steep[start:]
        if not (below >= MARGIN * found.least_error[start:]).any():
            return None
        margin = np.full(found.k.size, -np.inf)
        margin[start:] = below / np.maximum(found.error[start:], 1e-300)
        holds = margin >= MARGIN
        value = value_of(found.mean, value_scale)
        if turn.when == "hover":
            error = np.maximum(found.error_of_mean * (value if value_scale == "log" else 1.0), 1e-300)
            margin = np.minimum(margin, np.minimum(value - low, high - value) / error)
            ahead = value_of(
                found.mean + AHEAD * found.length * found.slope, value_scale
            )  # as long again after its end
            holds = (margin >= MARGIN) & (ahead >= low) & (ahead <= high)
        elif turn.min_effect:
            holds &= found.goes_on(value_scale) <= turn.min_effect
        some = np.flatnonzero(holds & turn.admits(value))
        for j in [*sorted(some, key=lambda j: -margin[j])[:3], *some[:1]]:
            quarters = _quarters(found, int(j))
            if turn.when == "hover":
                bottom, top = (placed(edge, 0.0, value_scale)[0] for edge in (low, high))
                level_throughout = all(mean + far >= bottom and mean - far <= top for mean, far in quarters)
            else:
                # As far as the outer quarters of a line at the bound, and no farther for a longer one.
                reach, level = 0.375 * bound * min(float(found.length[j]), whole), float(found.mean[j])
                level_throughout = all(abs(mean - level) - MARGIN * far <= reach for mean, far in quarters)
                level_throughout = level_throughout and not _steepens(found, int(j), bound)
            if level_throughout and not (turn.when == "hover" and _sinking(buckets, found, int(j))):
                return int(j), _chance(float(margin[j]))
        return None


def _chance(margin: float) -> float:
    """The probability of so many standard errors by chance, or more."""
    return 0.5 * math.erfc(min(margin, 6.0) / math.sqrt(2.0))


def _quarters(found: Lines, j: int) -> list[tuple[float, float]]:
    """The means of the quarters of a window and their errors: an arch has slope zero as a whole."""
    whole, error = float(found.k[j]), float(found.error_of_mean[j])
    ends = [*found.k[:j].searchsorted((0.25 * whole, 0.5 * whole, 0.75 * whole)).tolist(), j]
    quarters, before, total = [], 0.0, 0.0
    for k, mean in zip(found.k[ends].tolist(), found.mean[ends].tolist(), strict=True):
        sums = mean * k
        if k > before:
            quarters.append(((sums - total) / (k - before), error * math.sqrt(whole / (k - before))))
        before, total = k, sums
    return quarters


def _steepens(found: Lines, j: int, bound: float) -> bool:
    """Whether a newest part of a window, a quarter of it at least, is certainly steeper: a growth that has only begun."""
    part = slice(int(np.searchsorted(found.k, 0.25 * found.k[j])), j)
    return bool(np.any(np.abs(found.slope[part]) - MARGIN * found.error[part] > bound))


def _sinking(buckets: Buckets, found: Lines, j: int) -> bool:
    """Whether it was certainly higher just before: what comes down through the band does not hover in it."""
    first = int(found.first[j])
    back = np.cumsum(buckets.n[:first][::-1])
    if not back.size:
        return False
    start = first - 1 - min(int(np.searchsorted(back, found.k[j])), back.size - 1)
    n = buckets.n[start:first].sum()
    mean = buckets.y[start:first].sum() / n
    error = math.hypot(float(found.error_of_mean[j]), float(found.error_of_mean[j]) * math.sqrt(float(found.k[j] / n)))
    return bool(mean - found.mean[j] > MARGIN * error)
