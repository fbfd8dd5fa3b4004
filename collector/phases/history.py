"""History: the cleaned probes of one phase, the newest one by one and older ones in ever larger buckets.

An exponential histogram (Datar, Gionis, Indyk, Motwani 2002): buckets of 1, 2, 4, … probes and a bounded
number of each, so that n probes need O(log n) buckets and a window that reaches k probes back is
right to about k / ``EACH``. What is kept depends on nothing but what was appended.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import numpy as np

from collector.phases.axis import Floats
from collector.phases.packing import packed, short, unpacked

FINEST = 32
"""Newest probes that are kept one by one, at least."""
EACH = 8
"""Buckets of every larger size, at least."""


class Probe(msgspec.Struct, frozen=True):
    """A cleaned probe on the axes of its test: ``variance`` is that of its noise."""

    step: int
    y: float
    variance: float
    replaced: bool = False


class Buckets(msgspec.Struct, frozen=True):
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
        self._table = np.empty((5, 2 * FINEST))  # all that again, as `buckets` gives it

    def append(self, probe: Probe) -> None:
        """Take in the next probe. O(1) on average, O(log n) at most."""
        if not self._y:
            self._before, self._first = probe.step, probe.step
        self._y.append(short(probe.y))
        self._variance.append(short(probe.variance))
        self._last.append(probe.step)
        self._each[0] += 1
        if len(self._y) > self._table.shape[1]:
            self._table = np.concatenate([self._table, np.empty_like(self._table)], axis=1)
        self._tabulate(len(self._y) - 1, 1)
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
        self._tabulate_all()

    def buckets(self, newest: Sequence[Probe] = ()) -> Buckets:
        """All buckets, and probes that are not final yet as buckets of one."""
        size = len(self._y)
        columns = np.empty((5, size + len(newest)))
        columns[:, :size] = self._table[:, :size]
        if newest:
            columns[:, size:] = np.array([(1.0, one.y, one.variance, one.step, one.step) for one in newest]).T
        return Buckets(*columns)

    def _tabulate(self, at: int, size: int) -> None:
        before, last = float(self._last[at - 1] if at else self._before), float(self._last[at])
        first = before + round((last - before) / size)
        if at == 0 and self._first is not None:
            first = self._first
        self._table[:, at] = size, self._y[at], self._variance[at], first, last

    def _tabulate_all(self) -> None:
        self._table = np.empty((5, max(2 * FINEST, len(self._y))))
        sizes = [1 << level for level in reversed(range(len(self._each))) for _ in range(self._each[level])]
        for at, size in enumerate(sizes):
            self._tabulate(at, size)

    def _merge(self, level: int) -> None:
        """Make one bucket of the two oldest of a size."""
        at, end = sum(self._each[level + 1 :]), len(self._y)
        self._y[at : at + 2] = [short(self._y[at] + self._y[at + 1])]
        self._variance[at : at + 2] = [short(self._variance[at] + self._variance[at + 1])]
        del self._last[at]
        if level + 1 == len(self._each):
            self._each.append(0)
        self._each[level] -= 2
        self._each[level + 1] += 1
        self._table[:, at + 1 : end - 1] = self._table[:, at + 2 : end]
        self._tabulate(at, 2 << level)

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        return {
            "y": packed(self._y, are_short=True),
            "variance": packed(self._variance, are_short=True),
            "before": self._before,
            "first": self._first,
            "steps": [b - a for a, b in pairwise([self._before, *self._last])],
            "each": list(self._each),
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "History":
        """A history as it was when it gave its state."""
        history = cls()
        history._y, history._variance = (unpacked(state[name], are_short=True) for name in ("y", "variance"))
        history._each, history._before = list(state["each"]), state["before"]
        history._first = state["first"]
        history._last = [history._before + reached for reached in accumulate(state["steps"])]
        history._tabulate_all()
        return history
