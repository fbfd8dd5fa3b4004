"""Slopes: whether a curve has settled, or hovers at a level, shown by equivalence and not by the absence of a trend.

That a trend cannot be told from noise says nothing: with enough noise every curve is flat. Settled means
that the slope, with its error, is certainly less than a fraction of the steepest slope seen, itself taken
at the low end of its error (two one-sided tests: Schuirmann 1987), over a window as long as
the whole change took at that slope. Where noise makes this unprovable, nothing is said. Much slower than at its fastest
is not yet still: a power law never settles, so a turn may ask besides how far the curve would go if it lasted as long again.
"""

import math
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Lines:
    """Least-squares lines through the newest ``k`` probes, the shortest first: slopes and their standard errors.

    ``length`` is how far each reaches on the step axis, ``first`` the bucket it begins with; ``ahead`` is how much farther
    the axis goes if the series lasts as long again.
    """

    k: Floats
    mean: Floats
    error_of_mean: Floats
    slope: Floats
    error: Floats
    length: Floats
    first: NDArray[np.int64]
    ahead: float = 0.0

    def goes_on(self, value_scale: Scale) -> Floats:
        """By what part of itself the mean would change if the series lasted as long again and went on along each line."""
        change = np.abs(self.slope) * self.ahead
        if value_scale == "log":
            return np.asarray(np.expm1(np.minimum(change, 700.0)))
        return np.asarray(change / np.maximum(np.abs(self.mean), 1e-300))


def lines(buckets: Buckets, x: Floats, sigma: float, ahead: float = 0.0) -> Lines:
    """The lines through all suffixes of at least ``LEAST`` probes; ``x`` is where each bucket lies on the step axis."""
    n = buckets.n[::-1]
    t = (x - x[-1])[::-1]
    center = buckets.y.sum() / buckets.n.sum()
    y = (buckets.y - buckets.n * center)[::-1]
    v = np.maximum(buckets.variance, buckets.n * sigma**2)[::-1]
    columns = np.cumsum(np.array([n, n * t, n * t * t, y, t * y, v, t * v, t * t * v]), axis=1)
    spread = columns[2] - columns[1] ** 2 / columns[0]
    long = np.flatnonzero((columns[0] >= LEAST) & (spread > 0.0))
    k, st, _, sy, sty, sv, stv, sttv = columns[:, long]
    spread = spread[long]
    middle = st / k
    return Lines(
        k=k,
        mean=sy / k + center,
        error_of_mean=np.sqrt(sv) / k,
        slope=(sty - middle * sy) / spread,
        error=np.sqrt(np.maximum(sttv - 2.0 * middle * stv + middle**2 * sv, 0.0)) / spread,
        length=-t[long],
        first=len(buckets) - 1 - long,
        ahead=ahead,
    )


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
            certain = CERTAIN * (1.0 + 4.0 / probes)
            self.slope = max(self.slope, float(np.max(np.abs(found.slope) - certain * found.error)))

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
        margin = (bound - np.abs(found.slope)) / np.maximum(found.error, 1e-300)
        whole = self.reach(buckets) / self.slope
        long = found.length >= (HOVERED_FOR if turn.when == "hover" else SETTLED_FOR) * whole
        value = value_of(found.mean, value_scale)
        if turn.when == "hover":
            error = np.maximum(found.error_of_mean * (value if value_scale == "log" else 1.0), 1e-300)
            inside = np.minimum(value - turn.band[0] * target, turn.band[1] * target - value) / error
            margin = np.minimum(margin, inside)
            ahead = value_of(
                found.mean + AHEAD * found.length * found.slope, value_scale
            )  # as long again after its end
            long &= (ahead >= turn.band[0] * target) & (ahead <= turn.band[1] * target)
        elif turn.min_effect:
            long &= found.goes_on(value_scale) <= turn.min_effect
        holds = long & (margin >= MARGIN) & (found.k >= turn.min_points) & turn.admits(value)
        some = np.flatnonzero(holds)
        for j in [*sorted(some, key=lambda j: -margin[j])[:3], *some[:1]]:
            means, errors = _quarters(found, int(j))
            if turn.when == "hover":
                low, high = (placed(edge * target, 0.0, value_scale)[0] for edge in turn.band)
                level_throughout = bool(np.all((means + errors >= low) & (means - errors <= high)))
            else:
                # As far as the outer quarters of a line at the bound, and no farther for a longer one.
                reach = 0.375 * bound * min(float(found.length[j]), whole)
                level_throughout = bool(np.all(np.abs(means - found.mean[j]) - MARGIN * errors <= reach))
                level_throughout = level_throughout and not _steepens(found, int(j), bound)
            if level_throughout and not (turn.when == "hover" and _sinking(buckets, found, int(j))):
                return int(j), _chance(float(margin[j]))
        return None


def _chance(margin: float) -> float:
    """The probability of so many standard errors by chance, or more."""
    return 0.5 * math.erfc(min(margin, 6.0) / math.sqrt(2.0))


def _quarters(found: Lines, j: int) -> tuple[Floats, Floats]:
    """The means of the quarters of a window and their errors: an arch has slope zero as a whole."""
    ends = np.append(np.searchsorted(found.k[:j], found.k[j] * np.array([0.25, 0.5, 0.75])), j)
    k = np.diff(np.concatenate([[0.0], found.k[ends]]))
    sums = np.diff(np.concatenate([[0.0], found.mean[ends] * found.k[ends]]))
    there = k > 0.0
    means = sums[there] / k[there]
    return means, found.error_of_mean[j] * np.sqrt(found.k[j] / k[there])


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
