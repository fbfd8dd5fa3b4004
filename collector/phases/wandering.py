"""Wandering: whether a series may be a random walk, of which no trend can be told.

A random walk rises and falls for as long as it likes, and to a test for independent noise each time is evidence. Two things
rule it out. About a parabola through four points, means of three probes of a random walk scatter 2.13 times as much as
single ones, each as the noise of one probe, where those of independent noise scatter alike (the growth of Allan 1966, and
the idea of the variance ratio of Lo and MacKinlay 1988). And after n steps it is rarely further off than a few sqrt(n) steps.

An AR(1) process of coefficient 0.8 that carries 0.7 of the variance gives 1.33. Means of two tell the two apart less well (1.53
and 1.14), and through means of four a parabola follows fewer of the bends of a trend. Beside independent noise as large as its
steps a random walk gives 1.35, and is not known for one.
"""

import math

from collector.phases.residual import residual

MEMORY = 128
"""Probes after which a residual weighs 1/e of what it did."""
WILD = 2.5
"""Times the noise from which on a residual counts as if it lay there."""
WALK = 2.134
"""How much more means of three scatter than single probes where the series is a random walk: its expectation."""
SPREAD = 1.5
"""Standard deviation of the logarithm of that for a random walk, times the root of the residuals it is of; by simulation."""
SURE = 1.75
"""How many of these below the logarithm of ``WALK`` that of the growth must lie for the series to be none."""
MARCHES = 6.0
"""By what part, over the root of their number, the distances gone must exceed those of a random walk for the series to be none."""
FAR = 3.5
"""How many times the root of the steps between two means, in steps, they must be apart for no random walk to do it."""
STEP = math.sqrt(3.0)
"""The step of a random walk over the noise that the distances of its values from the chord of their neighbours show."""

_REACH = 12  # probes in four means of three


class Wandering:
    """Follows one series by what its twelve newest probes show: residuals from a parabola, and how far they went."""

    def __init__(self) -> None:
        # sums of squares, in units of the noise at the time, and how many are in them
        self._single = self._mean = self._gone = self._count = 0.0

    def take(self, x: list[float], y: list[float], noise: float, pairs: float) -> None:
        """Take in the newest of some probes ``y`` at ``x``; their noise by single ones, and by means of two.

        From the second, wild residuals are told: jumps and bends are in few means of two, and a random walk is in all.
        """
        if len(x) < _REACH or not noise > 0.0:
            return
        x, y = x[-_REACH:], y[-_REACH:]
        threes = [(sum(x[i : i + 3]) / 3.0, sum(y[i : i + 3]) / 3.0) for i in range(0, _REACH, 3)]
        single = min(residual(1, list(zip(x[-4:], y[-4:], strict=True))), WILD * noise)
        mean = min(residual(3, threes), WILD * max(noise, pairs))
        gone = min(abs(y[-1] - y[0]) / (STEP * math.sqrt(_REACH - 1.0)), FAR * noise)
        kept = 1.0 - 1.0 / MEMORY
        self._single = kept * self._single + (single / noise) ** 2
        self._mean = kept * self._mean + (mean / noise) ** 2
        self._gone = kept * self._gone + (gone / noise) ** 2
        self._count = kept * self._count + 1.0

    def growth(self) -> float:
        """How much more means of three scatter than single probes; NaN while nothing was seen."""
        return math.sqrt(self._mean / self._single) if self._single > 0.0 else math.nan

    def ruled_out(self) -> bool:
        """Whether means of three scatter by too little for a random walk, or the series goes too far for one."""
        if not self._count:
            return False
        spread = 1.0 / math.sqrt(self._count)
        marches = math.sqrt(self._gone / self._count) > 1.0 + MARCHES * spread
        return marches or self.growth() < WALK * math.exp(-SURE * SPREAD * spread)

    def state(self) -> list[float]:
        """All there is, as JSON has it."""
        return [self._single, self._mean, self._gone, self._count]

    def restore(self, state: list[float]) -> None:
        """Be as when the state was given."""
        self._single, self._mean, self._gone, self._count = state
