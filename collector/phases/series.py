"""Series: the measurements of one quantity in one run, in step order, on the axes of its test, in bounded memory."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["linear", "log"]
Floats = NDArray[np.float64]

CAP = 1024
"""Probes a series keeps. Every test is O(n), so this also caps the time of one update."""
LARGEST = 1e150
"""Largest value that can still be squared; beyond it training has diverged."""


@dataclass(frozen=True, slots=True)
class Points:
    """What a test sees of a series: arrays of one length.

    ``steps`` as reported; ``x`` the steps on their axis, ``log(1 + step)`` when it is logarithmic;
    ``y`` the values on theirs, in nats when it is logarithmic; ``paired`` the paired standard
    error of ``y``, NaN where it is not known.
    """

    steps: NDArray[np.int64]
    x: Floats
    y: Floats
    paired: Floats


class Series:
    """A buffer of (step, value, paired standard error) that grows to ``cap`` probes.

    When it is full, the older half gives up every second probe: recent probes stay complete, the
    past keeps its shape, and what is left depends on nothing but what was appended. Nothing is
    given up silently: ``skipped`` counts values that were not finite (or beyond ``LARGEST``), or not positive
    on a logarithmic axis; ``behind`` those at a step not beyond the last; ``thinned`` those
    given up to the cap.
    """

    def __init__(self, value_scale: Scale = "linear", step_scale: Scale = "linear", cap: int = CAP) -> None:
        if cap < 16:
            raise ValueError(f"Got a cap of {cap} probes; a series needs at least 16 to be judged.")
        self.value_scale = value_scale
        self.step_scale = step_scale
        self.skipped = 0
        self.behind = 0
        self.thinned = 0
        self._cap = cap
        self._n = 0
        self._steps = np.empty(min(64, cap), dtype=np.int64)
        self._rows = np.empty((3, min(64, cap)), dtype=np.float64)  # x, y, paired

    def __len__(self) -> int:
        """The number of probes kept."""
        return self._n

    def append(self, step: int, value: float, paired: float = math.nan) -> bool:
        """Whether the measurement was taken in; otherwise one of the counters says why not."""
        if not abs(value) <= LARGEST or (self.value_scale == "log" and value <= 0.0):
            self.skipped += 1
            return False
        if step <= (self._steps[self._n - 1] if self._n else -1):
            self.behind += 1
            return False
        if self._n == self._steps.size:
            self._make_room()
        x = math.log1p(step) if self.step_scale == "log" else float(step)
        if self.value_scale == "log":
            value, paired = math.log(value), paired / value
        self._steps[self._n] = step
        self._rows[:, self._n] = x, value, paired if 0.0 <= paired <= LARGEST else math.nan
        self._n += 1
        return True

    def points(self) -> Points:
        """The probes so far. Views: valid until the next ``append``."""
        x, y, paired = self._rows[:, : self._n]
        return Points(self._steps[: self._n], x, y, paired)

    def _make_room(self) -> None:
        size = min(2 * self._n, self._cap)
        if size > self._n:
            self._steps = np.concatenate([self._steps, np.empty(size - self._n, dtype=np.int64)])
            self._rows = np.concatenate([self._rows, np.empty((3, size - self._n))], axis=1)
            return
        half = self._n // 2
        kept = np.concatenate([np.arange(0, half, 2), np.arange(half, self._n)])
        self.thinned += self._n - kept.size
        self._n = kept.size
        self._steps[: self._n] = self._steps[kept]
        self._rows[:, : self._n] = self._rows[:, kept]
