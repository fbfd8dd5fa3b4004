"""Stillness: the rule by which Liu and Gurevych (2024, arXiv 2403.15210, appendix D, algorithm 2) end an intervention.

The signal, divided by its largest value so far, is averaged over ``window`` probes; once it has moved by more than
``slope`` from one probe to the next, the first move of at most that much ends the period. It is here because
it was published: ``slope`` is per probe, so it depends on the cadence, and noise alone can fulfil it. Its
errors are not controlled, and nothing is claimed of them.
"""

import math
from collections import deque
from typing import Any

from collector.phases.machine import Turn
from collector.phases.transition import Window
from collector.phases.verdict import Verdict

LONGEST = 64
"""Probes in the longest window a machine may ask for."""


class Stillness:
    """Follows one series as it comes."""

    def __init__(self) -> None:
        self._last: deque[tuple[int, float]] = deque(maxlen=LONGEST + 1)
        self._largest = 0.0
        self._moved = False

    def take(self, step: int, value: float) -> None:
        """Take in a value."""
        self._last.append((step, value))
        self._largest = max(self._largest, abs(value))

    def verdict(self, turn: Turn) -> Verdict | None:
        """The case for "still", where it holds at present."""
        if len(self._last) <= turn.window or not self._largest > 0.0:
            return None
        last = list(self._last)[-turn.window - 1 :]
        before, after = (sum(value for _, value in part) / turn.window for part in (last[:-1], last[1:]))
        move = abs(after - before) / self._largest
        if move > turn.slope:
            self._moved = True
        if move > turn.slope or not self._moved:
            return None
        step, first = last[-1][0], last[0][0]
        return Verdict(
            turn,
            "moving_average_still",
            0.0,
            1.0,
            Window(first, last[-2][0], turn.window, before, None),
            Window(last[1][0], step, turn.window, after, None),
            (after - before) / (abs(before) or 1.0),
            math.nan,
            (step, first, step),
        )

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        return {"last": list(self._last), "largest": self._largest, "moved": self._moved}

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when the state was given."""
        self._last.extend((int(step), float(value)) for step, value in state["last"])
        self._largest, self._moved = state["largest"], state["moved"]
