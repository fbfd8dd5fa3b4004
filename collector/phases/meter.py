"""NoiseMeter: how far single probes stray from the trend, known from the past alone and without knowing the trend.

The distance of a probe from the chord of its neighbours sees noise and no straight trend. Of means of
2 and of 4 probes it sees noise that lasts: for white noise all three agree, noise that is correlated
from probe to probe grows with the block (Allan 1966), that of a random walk 2.6-fold from single probes to means of four.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from itertools import pairwise
from operator import mul
from typing import Any

from collector.phases.packing import packed, short, unpacked

EVERY = {1: 1, 2: 1, 4: 2, 8: 4}
"""Probes in the means whose scatter is compared, and after how many probes the next residual is taken: means overlap."""
KEPT = 64
"""Residuals that tell the present noise."""
LOCAL = 24
"""Residuals that tell the noise around one probe: noise may grow, and an average over the run hides it."""
FLOOR = 0.005
"""Least relative noise believed: below it are rounding and smoothing, which a test must not read as precision."""

CHANCE = 1.25
"""Factor by which some two dozen residuals may overstate a standard deviation by chance alone."""
MORE = 1.15
"""Factor over the reported error from which the series is believed to stray more than it says, of many residuals."""
GUESSED = 7.0
"""How much larger noise is taken, over the count of residuals, where it is not the reported error: the far tail of Student's t."""
GUESSED_MOST = (1.5, 1.2)
"""The most of that: without any reported error, and with one that the series shows to be too small."""
UNTRIED = 3.0
"""Residuals with which a reported error, as yet believed, is doubled: so few could not show that training adds to it."""
PROCESS = 1.25
"""By what factor noise is taken larger besides where a reported error is too small: what training adds is rarely independent."""
AS_REPORTED = {1: 1.15, 2: 1.15, 4: 1.1}
"""Factors over the reported error, by block size, up to which a series strays as that error says."""
ENOUGH = 12
"""Residuals of means of four without which nothing is said of how noise is correlated."""
DOUBT = 1.2
"""The least of `NoiseMeter.lasting` where noise has not been shown to be independent and as large as reported."""
LASTING_MOST = 3.0
"""The most of `NoiseMeter.lasting`: that of an AR(1) process of coefficient 0.8, sqrt(1.8 / 0.2). A few means of eight may show more by chance."""
GROWS = (0.75, 1.6)
"""Bounds on the noise in means of four over that in means of two: less is chance, more than a random walk's is a bend."""
UNSEEN = 1.5
"""By what factor noise is taken larger where it cannot be seen yet whether it lasts."""
TINY = 1e-300

_TELLING = {
    1: (1.0, 1),
    2: (1.0, 10),
    4: (2.0, 12),
}  # weight of a block size, and residuals without which it says nothing
_POINTS = {1: 3, 2: 3, 4: 4, 8: 4}  # means of a block size that one residual takes
_MOST = max(points * m for m, points in _POINTS.items())
_MEDIAN, _MEAN = 1.4826, 1.2533  # sigma over the median and over the mean size of a Gaussian
_SHARES = ((0.5, 1.4826), (0.62, 1.1391), (0.74, 0.8878))  # and over other quantiles of its size


class Ring:
    """The newest numbers, at most ``size``, and their quantiles."""

    def __init__(self, size: int, numbers: list[float] | None = None) -> None:
        self.numbers = deque(numbers or (), size)
        self._sorted = sorted(self.numbers)

    def append(self, number: float) -> None:
        """Take in a number, and forget the oldest where the ring is full."""
        if len(self.numbers) == self.numbers.maxlen:
            del self._sorted[bisect_left(self._sorted, self.numbers[0])]
        self.numbers.append(number)
        insort(self._sorted, number)

    def __len__(self) -> int:
        """The numbers there are."""
        return len(self.numbers)

    def quantile(self, share: float) -> float:
        """The number below which a share of them lies; between two, their mean weighted."""
        position = share * (len(self._sorted) - 1)
        low = int(position)
        high = min(low + 1, len(self._sorted) - 1)
        return self._sorted[low] + (position - low) * (self._sorted[high] - self._sorted[low])

    def sigma(self) -> float:
        """The standard deviation of a Gaussian of which these are sizes, by three quantiles.

        Its variance is 1.7 times that of the best estimate, where that of the median alone is 2.6 times; a quarter may be
        wild.
        """
        return sum(factor * self.quantile(share) for share, factor in _SHARES) / len(_SHARES)


class NoiseMeter:
    """See the module. ``relative`` says that values are logarithms, so that the floor is ``FLOOR`` nats."""

    def __init__(self, *, relative: bool) -> None:
        self.relative = relative
        self._sigma: float | None = None
        self._seen = dict[int, float]()
        self.probes = 0
        self.replaced = 0
        self.paired = Ring(KEPT // 2)
        """The newest reported errors."""
        self._reported = Ring(KEPT)  # those of the probes the residuals are of
        self.level = 0.0
        """About how large values are of late, without their sign."""
        self.residuals = {m: Ring(KEPT // every) for m, every in EVERY.items()}
        self._local = Ring(LOCAL)
        self._x: list[float] = []
        self._y: list[float] = []

    def take(self, x: float, y: float, paired: float, *, replaced: bool) -> float:
        """Take in a cleaned probe at ``x`` on the step axis; returns the variance of its noise as far as it is known."""
        self._sigma = None
        self._seen.clear()
        self.probes += 1
        self.replaced += replaced
        if paired > 0.0:
            error = short(paired)
            self.paired.append(error)
            self._reported.append(error)
        self.level += (abs(y) - self.level) / min(self.probes, KEPT)
        self._x.append(x)
        self._y.append(y)
        if len(self._x) > _MOST:
            del self._x[0], self._y[0]
        for m, ring in self.residuals.items():
            if self.probes % EVERY[m] == 0 and len(self._x) >= _POINTS[m] * m:
                residual = short(self._residual(m))
                ring.append(residual)
                if m == 1:
                    self._local.append(residual)
        local = _MEDIAN * self._local.quantile(0.5) if len(self._local) == LOCAL else 0.0
        known = math.hypot(max(0.0, paired), self.floor)
        return max(local / CHANCE, known) ** 2

    @property
    def floor(self) -> float:
        """The least noise believed, on the axis of the test."""
        return FLOOR * (1.0 if self.relative else self.level)

    def seen(self, m: int = 1) -> float:
        """The standard deviation of one probe by the scatter of means of ``m``; NaN while nothing was seen.

        A few residuals know it poorly and too small is the dangerous side, so it is widened by 1 + 3/count.
        """
        if m not in self._seen:
            self._seen[m] = self._scatter(m)
        return self._seen[m]

    def _scatter(self, m: int) -> float:
        ring = self.residuals[m]
        return self._size(m) * (1.0 + 3.0 / (len(ring) * EVERY[m])) if len(ring) else math.nan

    def _size(self, m: int) -> float:
        ring = self.residuals[m]
        return ring.sigma() or _MEAN * sum(ring.numbers) / len(ring)  # most of quantised values may be 0

    def as_reported(self, *blocks: int) -> bool:
        """Whether means of so many probes stray by no more than the reported errors say: noise of known size, independent.

        False where no error is reported, and with few probes.
        """
        if not len(self._reported) or len(self.residuals[4]) < ENOUGH:
            return False
        known = math.hypot(self._reported.quantile(0.5), self.floor)
        return all(self._size(m) <= AS_REPORTED[m] * known for m in blocks)

    def single(self) -> float:
        """The largest standard deviation that single probes may have: as believed, or as they or means of two show."""
        return max(self.sigma() * self.lasting(), *(self._size(m) for m in (1, 2) if len(self.residuals[m])))

    def sigma(self) -> float:
        """The standard deviation of one probe at present; NaN with fewer than three.

        The geometric mean of what the blocks show, the largest twice: for white noise each is right and their
        errors partly cancel, and correlated noise shows in the larger ones. Where the estimator reports
        its error, that is believed until the series shows more than chance would add to it, and then is
        taken larger in proportion: the errors of a peak are not those of the level after it. Errors that fall are
        believed only as far as the newest residuals fall with them: a better estimator does not calm training.
        """
        if self._sigma is None:
            self._sigma = self._present()
        return self._sigma

    def lasting(self) -> float:
        """By what factor noise in means of many probes exceeds that of independent probes, where the mean itself stays.

        From single probes to means of eight it grows 2.2-fold for an AR(1) process of coefficient 0.8 that carries 0.7 of
        the variance, and 6.6-fold in the long run as a variance: about the square of the first. A bend of the
        mean would look the same, so this is for what has been flat so far.
        """
        if len(self.residuals[8]) < LOCAL // 8:
            return UNSEEN
        if not self.seen() > 0.0:
            return 1.0
        return min(
            max(1.0 if self.as_reported(1, 2, 4) else DOUBT, (self.seen(8) / self.seen() / CHANCE) ** 2), LASTING_MOST
        )

    def _present(self) -> float:
        blocks = [m for m, (_, least) in _TELLING.items() if len(self.residuals[m]) >= least]
        if not blocks:
            return math.nan
        few = GUESSED / len(self.residuals[1])
        if not len(self.paired):
            return max(_together({m: self.seen(m) for m in blocks}) * min(1.0 + few, GUESSED_MOST[0]), self.floor)
        known, then = (math.hypot(ring.quantile(0.5), self.floor) for ring in (self.paired, self._reported))
        excess = _together({m: self._size(m) for m in blocks}) / then
        untried = 1.0 + UNTRIED / len(self.residuals[1])
        factor = untried
        if excess > MORE * untried:
            factor = max(1.0, excess * PROCESS * min(1.0 + few, GUESSED_MOST[1]))
        if known < then:  # the errors fall before the residuals can tell whether the noise does
            lately = CHANCE * _together({m: self._lately(m) for m in blocks}) / max(1.0, excess)
            known = max(known, min(then, lately))
        return known * factor

    def _lately(self, m: int) -> float:
        newest = list(self.residuals[m].numbers)[-(LOCAL // EVERY[m]) :]
        return _MEDIAN * sorted(newest)[len(newest) // 2]

    def _residual(self, m: int) -> float:
        """How far the last means of ``m`` probes stray from a polynomial, as the noise of one probe.

        Single probes and pairs from a straight line, by the second divided difference of three means, and
        means of 4, which span a good part of a rise, from a parabola, by the third of four.
        """
        if m == 1:
            xs, ys = self._x[-3:], self._y[-3:]
        else:
            starts = range(len(self._x) - _POINTS[m] * m, len(self._x), m)
            xs, ys = [sum(self._x[i : i + m]) / m for i in starts], [sum(self._y[i : i + m]) / m for i in starts]
        width = xs[-1] - xs[0]
        if min([b - a for a, b in pairwise(xs)]) <= 1e-9 * width:  # steps too close to tell apart
            return abs(ys[1] - ys[0]) * math.sqrt(m / 2.0)
        if len(xs) == 3:
            u = (xs[1] - xs[0]) / width
            v = 1.0 - u
            return abs(ys[1] - v * ys[0] - u * ys[2]) * math.sqrt(m / (1.0 + u * u + v * v))
        _, u, v, _ = ((x - xs[0]) / width for x in xs)
        c = (
            -1.0 / (u * v),
            1.0 / (u * (u - v) * (u - 1.0)),
            1.0 / (v * (v - u) * (v - 1.0)),
            1.0 / ((1.0 - u) * (1.0 - v)),
        )
        return abs(math.fsum(map(mul, c, ys))) * math.sqrt(m / math.fsum(map(mul, c, c)))

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        return {
            "probes": self.probes,
            "replaced": self.replaced,
            "level": self.level,
            "paired": packed(self._reported.numbers, are_short=True),
            "residuals": [packed(self.residuals[m].numbers, are_short=True) for m in EVERY],
            "x": packed(self._x),
            "y": packed(self._y),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when the state was given."""
        self._sigma = None
        self._seen.clear()
        self.probes, self.replaced = state["probes"], state["replaced"]
        self.level = state["level"]
        self._reported = Ring(KEPT, unpacked(state["paired"], are_short=True))
        self.paired = Ring(KEPT // 2, list(self._reported.numbers))
        for (m, every), ring in zip(EVERY.items(), state["residuals"], strict=True):
            self.residuals[m] = Ring(KEPT // every, unpacked(ring, are_short=True))
        self._local = Ring(LOCAL, list(self.residuals[1].numbers)[-LOCAL:])
        self._x, self._y = unpacked(state["x"]), unpacked(state["y"])


def _together(scatter: dict[int, float]) -> float:
    """The geometric mean of what block sizes show, by their weight."""
    if not any(scatter.values()):
        return 0.0
    whole = logs = 0.0
    for m, seen in scatter.items():
        size = max(seen, TINY)
        if m == 4:
            low, high = GROWS
            size = min(max(size, low * max(scatter[2], TINY)), high * max(scatter[2], TINY))
        weight = _TELLING[m][0]
        whole += weight
        logs += weight * math.log(size)
    return math.exp(logs / whole)
