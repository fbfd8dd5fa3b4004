"""Pace: the usual distance between the probes of a series, and what comes more densely made one probe of it.

A probe that is measured more often while something is suspected sees the noise of training again and
again, correlated from one to the next: four dense probes are worth far less than four. So they are averaged to
the usual distance, and count as one. Measured on small networks, the lag-1 autocorrelation of log tr(F) about its
trend rose from 0.4 at 20 steps between probes to 0.65 at 5.
"""

import math
import statistics
from collections import deque
from itertools import pairwise
from typing import Any

GAPS = 9
"""Newest distances whose median is the usual one."""
DENSE = 0.6
"""Part of the usual distance below which a probe comes more densely."""


class Pace:
    """See the module. Positions are on the step axis of the test."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=GAPS)
        self._steps: deque[int] = deque(maxlen=GAPS + 1)
        self._last: float | None = None
        self._held: list[tuple[float, float]] = []

    def usual(self) -> int | None:
        """The median distance in steps; None with fewer than two probes."""
        steps = list(self._steps)
        gaps = [b - a for a, b in pairwise(steps)]
        return max(1, round(statistics.median(gaps))) if gaps else None

    def take(self, step: int, x: float, y: float, paired: float, *, dense: bool) -> tuple[float, float] | None:
        """The value and paired error of the probe that this one completes; None where more are to come first.

        Only where ``dense`` are probes waited for; else each is one.
        """
        if dense and self._last is not None and len(self._gaps) == GAPS:
            if x - self._last < DENSE * statistics.median(self._gaps):
                self._held.append((y, paired))
                return None
        elif self._last is not None:
            self._gaps.append(x - self._last)
        if not dense:
            self._steps.append(step)
        self._last = x
        if not self._held:
            return y, abs(paired)
        held, self._held = [*self._held, (y, paired)], []
        mean = math.fsum(value for value, _ in held) / len(held)
        return mean, math.sqrt(math.fsum(error * error for _, error in held) / len(held))

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        return {"gaps": list(self._gaps), "steps": list(self._steps), "last": self._last, "held": list(self._held)}

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when the state was given."""
        self._gaps.extend(state["gaps"])
        self._steps.extend(state["steps"])
        self._last = state["last"]
        self._held = [(float(y), float(paired)) for y, paired in state["held"]]
