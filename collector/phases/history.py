"""History: the cleaned probes of one phase, the newest one by one and older ones in ever larger buckets.

An exponential histogram (Datar, Gionis, Indyk, Motwani 2002): buckets of 1, 2, 4, … probes and a bounded
number of each, so that n probes need O(log n) buckets and a window that reaches k probes back is
right to about k / ``EACH``. What is kept depends on nothing but what was appended.
"""

from array import array
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

_WIDE = 5


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

    def before(self, part: slice) -> float:
        """How many probes came before the middle of a range of buckets."""
        return float(self.n[: part.start].sum() + self.n[part].sum() / 2.0)

    def middle(self) -> Floats:
        """The mean step of each bucket."""
        return (self.first + self.last) / 2.0

    def around(self, first: int, last: int) -> tuple[int, int]:
        """The steps of the probes on either side of some buckets: what happened there, happened anywhere between them."""
        before = self.last[first - 1] if first else self.first[0]
        after = self.first[last + 1] if last + 1 < len(self) else self.last[-1]
        return int(before), int(after)


class History:
    """See the module."""

    def __init__(self) -> None:
        self._rows = array("d")  # bucket by bucket the five numbers of `Buckets`, the oldest bucket first
        self._each = [0]  # how many buckets of 1, 2, 4, … probes
        self._before = 0  # the last step dropped, or the first there was
        self._first: int | None = None  # the oldest bucket's first, where nothing was dropped

    def append(self, probe: Probe) -> float:
        """Take in the next probe; returns its value as it is kept. O(1) on average, O(log n) at most."""
        if not self._rows:
            self._before, self._first = probe.step, probe.step
        y = short(probe.y)
        self._rows.extend((1.0, y, short(probe.variance), probe.step, probe.step))
        each = self._each
        each[0] += 1
        if each[0] > FINEST:
            self._merge(0)
            level = 1
            while each[level] > EACH:
                self._merge(level)
                level += 1
        return y

    def drop(self, buckets: int) -> None:
        """Forget the oldest buckets."""
        if buckets <= 0:
            return
        self._before, self._first = int(self._rows[_WIDE * buckets - 1]), None
        del self._rows[: _WIDE * buckets]
        for level in reversed(range(len(self._each))):
            gone = min(buckets, self._each[level])
            self._each[level] -= gone
            buckets -= gone
        while len(self._each) > 1 and not self._each[-1]:
            self._each.pop()

    def buckets(self, newest: Sequence[Probe] = ()) -> Buckets:
        """All buckets, and probes that are not final yet as buckets of one."""
        rows = self._rows[:]
        for one in newest:
            rows.extend((1.0, one.y, one.variance, one.step, one.step))
        return Buckets(*np.frombuffer(rows).reshape(-1, _WIDE).T.copy())

    def _first_of(self, at: int, last: float, size: int) -> float:
        """The first step of the bucket at a place in the rows, from how far it reaches."""
        if not at and self._first is not None:
            return self._first
        before = self._rows[at - 1] if at else self._before
        return before + round((last - before) / size)

    def _merge(self, level: int) -> None:
        """Make one bucket of the two oldest of a size."""
        rows, each = self._rows, self._each
        if level + 1 == len(each):
            each.append(0)
        at, size = _WIDE * sum(each[level + 1 :]), 2 << level
        _, y, variance, _, _, _, more, noise, _, last = rows[at : at + 2 * _WIDE]
        first = self._first_of(at, last, size)
        rows[at : at + 2 * _WIDE] = array("d", (size, short(y + more), short(variance + noise), first, last))
        each[level] -= 2
        each[level + 1] += 1

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        last = [int(step) for step in self._rows[4::_WIDE]]
        return {
            "y": packed(self._rows[1::_WIDE], are_short=True),
            "variance": packed(self._rows[2::_WIDE], are_short=True),
            "before": self._before,
            "first": self._first,
            "steps": [b - a for a, b in pairwise([self._before, *last])],
            "each": list(self._each),
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "History":
        """A history as it was when it gave its state."""
        history = cls()
        ys, variances = (unpacked(state[name], are_short=True) for name in ("y", "variance"))
        history._each, history._before, history._first = list(state["each"]), state["before"], state["first"]
        sizes = [1 << level for level in reversed(range(len(history._each))) for _ in range(history._each[level])]
        reached = (history._before + step for step in accumulate(state["steps"]))
        for size, y, variance, last in zip(sizes, ys, variances, reached, strict=True):
            first = history._first_of(len(history._rows), last, size)
            history._rows.extend((size, y, variance, first, last))
        return history
