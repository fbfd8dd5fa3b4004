"""Spikes: sudden rises of a noisy curve above its running median, and whether it comes down again.

The reference is an estimate that a spike cannot raise: the median of the past values, carried on along their decline
where there is one but no lower than the newest of them, and the median of their distances from it; a loss that falls
fast would hide its spikes behind its own fall. One probe far out is chance or a bad batch; two in a row are a spike. While it lasts the
reference stays as it was; what stays up for long is the new level. No probability model holds for the tails of
a loss: the evidence quoted is the bound of Vysochanskij and Petunin (1980) for unimodal noise, 4 / (9 z^2) a
probe, as if probes were independent.
"""

import math
from collections import deque
from typing import Any

from collector.phases.figures import finite
from collector.phases.machine import Turn
from collector.phases.meter import Ring
from collector.phases.packing import packed, unpacked
from collector.phases.transition import Window
from collector.phases.verdict import Verdict

BEHIND = 32
"""Past probes whose median and spread a new one is compared with."""
LEAST = 12
"""Past probes without which nothing is judged."""
DECLINES = 0.5
"""Spreads by which the median of the newer half must lie below that of the older one to be more than chance."""
AHEAD = 0.53
"""From the middle of the newer half to the next probe, in units of the distance between the middles of the halves: 8.5 of 16."""
CALM = 5
"""Probes in a row that end a spike."""
CLIMBING = 8
"""Probes in a row above the reference, the later half ``CLIMB`` times as far as the earlier, that are no spike any more."""
CLIMB = 1.5
OVERFLOWN = 3
"""Infinite values in a row that are a spike where no turn waits for a divergence: one or two may be gaps."""

_MAD = 1.4826


class Spikes:
    """Follows one series as it comes, without cleaning."""

    def __init__(self) -> None:
        self._values = Ring(BEHIND)
        self._away = Ring(BEHIND)
        self._steps: deque[int] = deque(maxlen=BEHIND)
        self._next: tuple[float, float] | None = (
            None  # what the next value would be, and the spread, since the last was learnt
        )
        self._above: list[tuple[int, float]] = []
        """The last probes in a row that lay above."""
        self._calm = 0
        self._lost: list[int] = []
        """The steps of the last values in a row that were not finite."""
        self._infinite = 0
        """How many values in a row were above all others."""

    def take(self, step: int, value: float, spreads: float, least: float) -> None:
        """Take in a value: it lies above where it is ``spreads`` spreads and ``least`` of the level beyond the median."""
        self._infinite = self._infinite + 1 if value == math.inf else 0
        if not math.isfinite(value):
            self._lost = [*self._lost, step][-OVERFLOWN:]
            self._calm = 0
            return
        self._lost = []
        if len(self._values) >= LEAST and self._is_above(value, spreads, least):
            self._above.append((step, value))
            self._calm = 0
            if len(self._above) < BEHIND:
                return
            usual, self._above = self._above, []  # it has stayed there: that is the level now
            for at, level in usual:
                self._learn(at, level)
            return
        self._above = []
        self._calm += 1
        self._learn(step, value)

    def verdicts(self, turns: tuple[Turn, ...]) -> list[Verdict]:
        """The case for each turn that has one at present."""
        if not self._steps:
            return []
        cases = []
        overflown = self._infinite >= OVERFLOWN and not any(turn.when == "diverge" for turn in turns)
        for turn in turns:
            found: list[tuple[int, float]] = []
            if turn.when == "spike" and overflown:
                found = [(step, math.inf) for step in self._lost]
            elif turn.when == "spike" and len(self._above) >= 2:
                found = self._above[-2:]
            elif turn.when == "calm" and self._calm >= CALM:
                found = list(zip(self._steps, self._values.numbers, strict=True))[-CALM:]
            elif turn.when == "diverge" and len(self._lost) >= 2:
                found = [(step, math.nan) for step in self._lost[-2:]]
            elif turn.when == "diverge" and len(self._above) >= CLIMBING and self._climbs():
                found = self._above[-CLIMBING:]
            if found:
                cases.append(self._verdict(turn, found))
        return cases

    def _climbs(self) -> bool:
        middle, _ = self._reference()
        last = [value - middle for _, value in self._above[-CLIMBING:]]
        return sum(last[CLIMBING // 2 :]) > CLIMB * sum(last[: CLIMBING // 2])

    def _is_above(self, value: float, spreads: float, least: float) -> bool:
        usual, spread = self._reference()
        beyond = value - usual
        return spread > 0.0 and beyond > spreads * spread and beyond > least * abs(usual)

    def _reference(self) -> tuple[float, float]:
        """What the next value would be without a spike, and the robust standard deviation of one probe."""
        if self._next is None:
            spread = self._spread()
            self._next = self._usual(spread), spread
        return self._next

    def _usual(self, spread: float) -> float:
        middle = self._values.quantile(0.5)
        if len(self._values) < 2 * LEAST:
            return middle
        half = len(self._values) // 2
        values = list(self._values.numbers)
        older, newer = (sorted(part)[half // 2] for part in (values[:half], values[-half:]))
        decline = older - newer - DECLINES * spread
        if not decline > 0.0:
            return middle
        return min(
            middle, max(newer - AHEAD * decline, min(values[-CALM:]))
        )  # it may have levelled off: no lower than seen

    def _spread(self) -> float:
        away = self._away
        if len(away) < LEAST:
            middle = self._values.quantile(0.5)
            away = Ring(BEHIND, [abs(value - middle) for value in self._values.numbers])
        return _MAD * away.quantile(0.5)

    def _learn(self, step: int, value: float) -> None:
        if len(self._values) >= LEAST:
            self._away.append(abs(value - self._reference()[0]))
        self._next = None
        self._values.append(value)
        self._steps.append(step)

    def _verdict(self, turn: Turn, found: list[tuple[int, float]]) -> Verdict:
        middle, spread = self._reference()
        values = [value for _, value in found]
        mean = sum(values) / len(values)
        usual = Window(self._steps[0], self._steps[-1], len(self._steps), middle, spread / math.sqrt(len(self._steps)))
        now = Window(found[0][0], found[-1][0], len(found), finite(mean), spread / math.sqrt(len(found)))
        chances = [4.0 / 9.0 * min(spread / (value - middle), 1.5) ** 2 for value in values if value > middle]
        log_e = -sum(math.log(max(chance, 1e-6)) for chance in chances) if turn.when != "calm" else 0.0
        first = self._above[0][0] if turn.when == "spike" and self._above else found[0][0]
        return Verdict(
            turn,
            f"median_mad_{turn.when}",
            log_e,
            1.0,
            usual,
            now,
            (mean - middle) / (abs(middle) or 1.0),
            spread / (abs(middle) or 1.0),
            (first, first, found[-1][0]),
        )

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        return {
            "values": packed(self._values.numbers),
            "away": packed(self._away.numbers),
            "steps": list(self._steps),
            "above": list(self._above),
            "calm": self._calm,
            "lost": list(self._lost),
            "infinite": self._infinite,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when the state was given."""
        self._values = Ring(BEHIND, unpacked(state["values"]))
        self._away = Ring(BEHIND, unpacked(state["away"]))
        self._steps.extend(state["steps"])
        self._next = None
        self._above = [(int(step), float(value)) for step, value in state["above"]]
        self._calm, self._lost, self._infinite = state["calm"], list(state["lost"]), state["infinite"]
