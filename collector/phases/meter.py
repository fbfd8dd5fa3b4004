"""NoiseMeter: how far single probes stray from the trend, known from the past alone and without knowing the trend.

The distance of a probe from the chord of its neighbours sees noise and no straight trend. Of means of
2 and of 4 probes it sees noise that lasts: for white noise all three agree, noise that is correlated
from probe to probe grows with the block (Allan 1966), that of a random walk 2.6-fold from single probes to means of four.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from functools import cache
from typing import Any

from collector.phases.packing import packed, short, unpacked
from collector.phases.residual import residual
from collector.phases.wandering import Wandering

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
_APART = {m: m // every for m, every in EVERY.items()}  # means that overlap come between those of one residual
_MOST = max(points * m for m, points in _POINTS.items())
_MEDIAN, _MEAN = 1.4826, 1.2533  # sigma over the median and over the mean size of a Gaussian
_SHARES = ((0.5, 1.4826), (0.62, 1.1391), (0.74, 0.8878))  # and over other quantiles of its size


@cache
def _places(count: int) -> tuple[tuple[float, int, int, float], ...]:
    """For each of ``_SHARES`` its factor, and between which two of so many numbers its quantile lies, and how far on."""
    positions = [share * (count - 1) for share, _ in _SHARES]
    return tuple(
        (factor, int(at), min(int(at) + 1, count - 1), at - int(at))
        for at, (_, factor) in zip(positions, _SHARES, strict=True)
    )


class Ring:
    """The newest numbers, at most ``size``, and their quantiles."""

    def __init__(self, size: int, numbers: list[float] | None = None) -> None:
        self.numbers = deque(numbers or (), size)
        self._sorted = sorted(self.numbers)
        self._sigma: float | None = None

    def append(self, number: float) -> None:
        """Take in a number, and forget the oldest where the ring is full."""
        self._sigma = None
        numbers, ordered = self.numbers, self._sorted
        if len(numbers) == numbers.maxlen:
            del ordered[bisect_left(ordered, numbers[0])]
        numbers.append(number)
        insort(ordered, number)

    def __len__(self) -> int:
        """The numbers there are."""
        return len(self.numbers)

    def quantile(self, share: float) -> float:
        """The number below which a share of them lies; between two, their mean weighted."""
        ordered = self._sorted
        position = share * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (position - low) * (ordered[high] - ordered[low])

    def sigma(self) -> float:
        """The standard deviation of a Gaussian of which these are sizes, by three quantiles.

        Its variance is 1.7 times that of the best estimate, where that of the median alone is 2.6 times; a quarter may be
        wild.
        """
        if self._sigma is None:
            ordered = self._sorted
            self._sigma = sum(
                [
                    factor * (ordered[low] + part * (ordered[high] - ordered[low]))
                    for factor, low, high, part in _places(len(ordered))
                ]
            ) / len(_SHARES)
        return self._sigma


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
        self.wandering = Wandering()
        self._x: list[float] = []
        self._y: list[float] = []
        self._begin()

    def _begin(self) -> None:
        """The means of blocks, of all that is at hand."""
        self._means = {m: deque[tuple[float, float]](maxlen=(_POINTS[m] - 1) * _APART[m] + 1) for m in EVERY}
        there = len(self._x)
        for m, means in self._means.items():
            ends = (end for end in range(m, there + 1) if (self.probes - there + end) % EVERY[m] == 0)
            means.extend((sum(self._x[end - m : end]) / m, sum(self._y[end - m : end]) / m) for end in ends)

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
        for m, means in self._means.items():
            if self.probes % EVERY[m] or len(self._x) < m:
                continue
            means.append((x, y) if m == 1 else (sum(self._x[-m:]) / m, sum(self._y[-m:]) / m))
            if len(means) == means.maxlen:
                stray = short(residual(m, list(means)[:: _APART[m]]))
                self.residuals[m].append(stray)
                if m == 1:
                    self._local.append(stray)
        if len(self.residuals[2]):
            self.wandering.take(self._x, self._y, self._size(1), self._size(2))
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
        if not len(self._reported) or self.few:
            return False
        known = math.hypot(self._reported.quantile(0.5), self.floor)
        return all(self._size(m) <= AS_REPORTED[m] * known for m in blocks)

    def walks(self) -> bool:
        """Whether the series may be a random walk.

        Not where single probes stray no more than the errors reported of them, which believes few residuals as `sigma` does.
        """
        count = len(self.residuals[1])
        if len(self._reported) and count >= _POINTS[4]:
            most = (
                MORE * (1.0 + UNTRIED / count) * self._reported.quantile(0.5)
            )  # a walk's steps may be below the floor
            if self._size(1) <= most:
                return False
        return not self.wandering.ruled_out()

    @property
    def few(self) -> bool:
        """Whether there are too few probes to say how noise is correlated."""
        return len(self.residuals[4]) < ENOUGH

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
        blocks = [m for m, (_, least) in _TELLING.items() if len(self.residuals[m].numbers) >= least]
        if not blocks:
            return math.nan
        count = len(self.residuals[1].numbers)
        few = GUESSED / count
        if not len(self.paired):
            return max(_together({m: self.seen(m) for m in blocks}) * min(1.0 + few, GUESSED_MOST[0]), self.floor)
        floor = self.floor
        known, then = math.hypot(self.paired.quantile(0.5), floor), math.hypot(self._reported.quantile(0.5), floor)
        excess = _together({m: self._size(m) for m in blocks}) / then
        untried = 1.0 + UNTRIED / count
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
            "wandering": self.wandering.state(),
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
        self.wandering.restore(state["wandering"])
        self._local = Ring(LOCAL, list(self.residuals[1].numbers)[-LOCAL:])
        self._x, self._y = unpacked(state["x"]), unpacked(state["y"])
        self._begin()


def _together(scatter: dict[int, float]) -> float:
    """The geometric mean of what block sizes show, by their weight."""
    if not any(scatter.values()):
        return 0.0
    whole = logs = 0.0
    for m, seen in scatter.items():
        size = max(seen, TINY)
        if m == 4:
            pairs, (low, high) = max(scatter[2], TINY), GROWS
            size = min(max(size, low * pairs), high * pairs)
        weight = _TELLING[m][0]
        whole += weight
        logs += weight * math.log(size)
    return math.exp(logs / whole)
