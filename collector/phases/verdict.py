"""Verdict: how far the probes so far show that a turn is taken, and by which windows."""

import math
from dataclasses import dataclass

from collector.phases.machine import Turn
from collector.phases.transition import Window


@dataclass(frozen=True, slots=True)
class Verdict:
    """The strongest case there is at present for a turn; it is shown where ``log_e`` reaches log(1 / ``alpha``).

    The windows are in the units of the quantity, ``change`` is the relative change between them, and ``noise`` the
    relative standard deviation of one probe; ``apart`` is the distance of the means on the axis of the test, ``probes`` that of
    the windows' middles in probes. ``happened`` is the step where it took place and those between which it did. ``against``
    says that it speaks against a claim that was made. ``goes_on`` is the relative change of a level if the series
    lasted as long again and went on as it does.
    """

    turn: Turn
    statistic: str
    log_e: float
    alpha: float
    before: Window
    after: Window
    change: float
    noise: float
    happened: tuple[int, int, int]
    against: bool = False
    apart: float = 0.0
    probes: float = 0.0
    goes_on: float = math.nan

    @property
    def shown(self) -> bool:
        """Whether the evidence suffices."""
        return self.log_e >= math.log(1.0 / self.alpha)
