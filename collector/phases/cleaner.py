"""Cleaner: probes as they come in, probes with outliers replaced and their noise out.

Hampel (1974): an outlier lies more than ``CUT`` standard deviations from the median of the seven probes
around it. It is replaced by that median: one giant probe would otherwise decide every window it falls
into. A probe is final when three more have come. The newest three are judged meanwhile by the last
seven, whose own spread counts too, because a trend does not pass through the median at an end; so are the
first three, by the probes that lie around them, so that a rise within a few probes survives. Outliers are rare: where
many lie out, the noise has outgrown what is believed of it, and replacing them would keep it from being seen; then
they are judged by the spread of the seven alone.
"""

import math
from collections import deque
from typing import Any

from collector.phases.axis import Scale, step_placed
from collector.phases.history import Probe
from collector.phases.meter import NoiseMeter
from collector.phases.packing import packed, unpacked

WINDOW = 7
"""Probes of the Hampel filter; up to three wild ones in a row are replaced."""
CUT = 4.0
"""Standard deviations from the median beyond which a value is an outlier."""
LATELY = 16
"""Newest probes among which outliers are counted."""
MANY = 4
"""Of them, so many that lie out are noise: of outliers that are one probe in thirty, a 0.2 % chance."""

_HALF = WINDOW // 2
_MAD = 1.4826


class Cleaner:
    """See the module. ``final`` is told each probe in order, once it will not change any more."""

    def __init__(self, value_scale: Scale, step_scale: Scale) -> None:
        self.meter = NoiseMeter(relative=value_scale == "log")
        self._step_scale: Scale = step_scale
        self._last: deque[tuple[int, float, float]] = deque(maxlen=WINDOW)  # step, y, paired as they came
        self._final = 0  # how many of the last are final
        self._around: tuple[float, float] | None = None  # the median of the last seven and their spread
        self._out = 0  # a bit for each of the newest final probes, set where it lay out

    def take(self, step: int, y: float, paired: float) -> list[Probe]:
        """The probes that this one made final."""
        if len(self._last) == WINDOW:
            self._final -= 1
        self._last.append((step, y, paired))
        self._around = None
        if len(self._last) < WINDOW:
            return []
        final = [self._finished(i) for i in range(self._final, _HALF + 1)]
        self._final = _HALF + 1
        return final

    def newest(self) -> list[Probe]:
        """The probes that are not final yet, as they look now; raw while fewer than seven have come."""
        last = list(self._last)
        if len(last) < WINDOW:
            return [Probe(step, y, _square(paired)) for step, y, paired in last]
        middle, spread = self._middle_and_spread()
        cut = CUT * _most(self.meter.sigma(), spread)
        return [
            Probe(step, middle, _square(paired), replaced=True)
            if abs(y - middle) > cut
            else Probe(step, y, _square(paired))
            for step, y, paired in last[self._final :]
        ]

    @property
    def waiting(self) -> int:
        """How many probes are not final yet."""
        return len(self._last) - self._final

    def _finished(self, i: int) -> Probe:
        """Probe ``i`` of the last seven, which is their middle one unless it is among the series' first three."""
        step, y, paired = self._last[i]
        if i < _HALF:
            middle, spread = _middle_and_spread([value for _, value, _ in list(self._last)[: i + _HALF + 1]])
        else:
            middle, spread = self._middle_and_spread()
        sigma = self.meter.sigma()
        if math.isnan(sigma):
            sigma = spread
        out = abs(y - middle) > CUT * sigma
        self._out = (self._out << 1 | out) & ((1 << LATELY) - 1)
        replaced = out and not (self.outgrown and (abs(y - middle) <= CUT * spread or spread == 0.0))
        y = middle if replaced else y
        variance = self.meter.take(step_placed(step, self._step_scale), y, paired, replaced=replaced)
        return Probe(step, y, variance, replaced)

    @property
    def outgrown(self) -> bool:
        """Whether so many probes lay out of late that the noise is not what is believed of it."""
        return self._out.bit_count() >= MANY

    def _middle_and_spread(self) -> tuple[float, float]:
        if self._around is None:
            self._around = _middle_and_spread([y for _, y, _ in self._last])
        return self._around

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        return {
            "last": packed(number for row in self._last for number in row),
            "final": self._final,
            "out": self._out,
            "meter": self.meter.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when the state was given."""
        self._around = None
        last = unpacked(state["last"])
        self._last.extend((int(last[i]), last[i + 1], last[i + 2]) for i in range(0, len(last), 3))
        self._final, self._out = state["final"], state["out"]
        self.meter.restore(state["meter"])


def _middle_and_spread(values: list[float]) -> tuple[float, float]:
    middle = _median(values)
    return middle, _MAD * _median([abs(value - middle) for value in values])


def _median(values: list[float]) -> float:
    """As `statistics.median`, which takes most of its time to see what it was given."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _most(sigma: float, spread: float) -> float:
    return spread if math.isnan(sigma) else max(sigma, spread)


def _square(paired: float) -> float:
    return paired * paired if paired > 0.0 else 0.0
