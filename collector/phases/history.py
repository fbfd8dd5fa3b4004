"""History: the cleaned probes of one phase, the newest one by one and older ones in ever larger buckets.

An exponential histogram (Datar, Gionis, Indyk, Motwani 2002): buckets of 1, 2, 4, … probes and a bounded
number of each, so that n probes need O(log n) buckets and a window that reaches k probes back is
right to about k / ``EACH``. What is kept depends on nothing but what was appended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from collector.phases.axis import Floats
from collector.phases.packing import packed, short, unpacked

FINEST = 32
"""Newest probes that are kept one by one, at least."""
EACH = 8
"""Buckets of every larger size, at least."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A cleaned probe on the axes of its test: ``variance`` is that of its noise."""

    step: int
    y: float
    variance: float
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Buckets:
    """Arrays of one length, oldest first.

    ``n`` probes, the sums ``y`` of their values and ``variance`` of their noise, the steps of a
    bucket's outermost probes: ``first`` is exact where probes are equally spaced.
    """

    n: Floats
    y: Floats
    variance: Floats
    first: Floats
    last: Floats

    def __len__(self) -> int:
        """The number of buckets."""
        return self.n.size

    def middle(self) -> Floats:
        """The mean step of each bucket."""
        return (self.first + self.last) / 2.0


class History:
    """See the module."""

    def __init__(self) -> None:
        self._y: list[float] = []
        self._variance: list[float] = []
        self._last: list[int] = []
        self._each = [0]  # how many buckets of 1, 2, 4, … probes
        self._before = 0  # the last step dropped, or the first there was
        self._first: int | None = None  # the oldest bucket's first, where nothing was dropped

    def append(self, probe: Probe) -> None:
        """Take in the next probe. O(1) on average, O(log n) at most."""
        if not self._y:
            self._before, self._first = probe.step, probe.step
        self._y.append(short(probe.y))
        self._variance.append(short(probe.variance))
        self._last.append(probe.step)
        self._each[0] += 1
        level = 0
        while self._each[level] > (EACH if level else FINEST):
            self._merge(level)
            level += 1

    def drop(self, buckets: int) -> None:
        """Forget the oldest buckets."""
        if buckets <= 0:
            return
        self._before, self._first = self._last[buckets - 1], None
        for column in (self._y, self._variance, self._last):
            del column[:buckets]
        for level in reversed(range(len(self._each))):
            gone = min(buckets, self._each[level])
            self._each[level] -= gone
            buckets -= gone
        while len(self._each) > 1 and not self._each[-1]:
            self._each.pop()

    def buckets(self, newest: Sequence[Probe] = ()) -> Buckets:
        """All buckets, and probes that are not final yet as buckets of one."""
        n: list[float] = []
        for level in reversed(range(len(self._each))):
            n += [float(1 << level)] * self._each[level]
        steps = self._last + [probe.step for probe in newest]
        begin = self._before if self._y or not newest else newest[0].step - 1
        columns = np.array(
            (
                n + [1.0] * len(newest),
                self._y + [probe.y for probe in newest],
                self._variance + [probe.variance for probe in newest],
                [begin, *steps[:-1]] if steps else [],
                steps,
            )
        )
        sizes, y, variance, before, last = columns
        first = before + np.rint((last - before) / sizes)
        if self._y and self._first is not None:
            first[0] = self._first
        return Buckets(sizes, y, variance, first, last)

    def _merge(self, level: int) -> None:
        """Make one bucket of the two oldest of a size."""
        at = sum(self._each[level + 1 :])
        self._y[at : at + 2] = [short(self._y[at] + self._y[at + 1])]
        self._variance[at : at + 2] = [short(self._variance[at] + self._variance[at + 1])]
        del self._last[at]
        if level + 1 == len(self._each):
            self._each.append(0)
        self._each[level] -= 2
        self._each[level + 1] += 1

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        return {
            "y": packed(self._y, are_short=True),
            "variance": packed(self._variance, are_short=True),
            "before": self._before,
            "first": self._first,
            "steps": [b - a for a, b in pairwise([self._before, *self._last])],
            "each": self._each,
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "History":
        """A history as it was when it gave its state."""
        history = cls()
        history._y, history._variance = (unpacked(state[name], are_short=True) for name in ("y", "variance"))
        history._each, history._before = list(state["each"]), state["before"]
        history._first = state["first"]
        history._last = [history._before + reached for reached in accumulate(state["steps"])]
        return history
