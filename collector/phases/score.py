"""Score: what was told live against what hindsight labels, run by run and over all runs.

The rate of false alarms that a machine promises is kept or not kept here: on real runs, counted.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal, Self

import msgspec

from collector.phases.hindsight.label import Label

Finding = Literal["hit", "false alarm", "miss", "quiet", "not labelled"]

Z95 = 1.96
"""Standard deviations of a 95 % interval."""


class Scored(msgspec.Struct, frozen=True):
    """One turn of one run: how what was told compares with the label.

    ``hit``: told after it happened, ``delay`` steps after. ``false alarm``: told although it did not
    happen, or before it could have. ``miss``: it happened and was not told. ``quiet``: it did not
    happen, and nothing was told. ``not labelled``: hindsight does not know either.
    """

    finding: Finding
    delay: int | None = None


def scored(label: Label, known_steps: Sequence[int]) -> Scored:
    """The finding for the steps at which the turn was told; the first decides, whatever followed."""
    told = min(known_steps, default=None)
    if label.happened is None:
        return Scored("not labelled")
    if not label.happened or label.step is None or label.between is None:
        return Scored("quiet" if told is None else "false alarm")
    if told is None:
        return Scored("miss")
    if told < label.between[0]:
        return Scored("false alarm")
    return Scored("hit", max(told - label.step, 0))


class Score(msgspec.Struct, frozen=True):
    """A turn of a machine over all runs: how many findings of each kind, and the median delay in steps."""

    hits: int = 0
    false_alarms: int = 0
    misses: int = 0
    quiet: int = 0
    not_labelled: int = 0
    median_delay: float | None = None

    @classmethod
    def of(cls, findings: Iterable[Scored]) -> Self:
        """The score of one finding for each run."""
        all_of_them = list(findings)
        kinds = [one.finding for one in all_of_them]
        delays = [one.delay for one in all_of_them if one.delay is not None]
        return cls(
            kinds.count("hit"),
            kinds.count("false alarm"),
            kinds.count("miss"),
            kinds.count("quiet"),
            kinds.count("not labelled"),
            statistics.median(delays) if delays else None,
        )

    @property
    def labelled(self) -> int:
        """Runs in which hindsight knows: what the rates are out of."""
        return self.hits + self.false_alarms + self.misses + self.quiet

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of the labelled runs with a false alarm; None before there is one."""
        return self.false_alarms / self.labelled if self.labelled else None

    @property
    def false_alarm_interval(self) -> tuple[float, float]:
        """Between which rates the true one lies, 95 %."""
        return wilson(self.false_alarms, self.labelled)


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a probability of which ``count`` of ``n`` came true, after Wilson (1927).

    It stays within 0 and 1 and says something of 0 in n; with nothing seen it is all of (0, 1).
    """
    if not 0 <= count <= n:
        raise ValueError(f"Got {count} of {n}; a count lies between 0 and what it is out of.")
    if n == 0:
        return 0.0, 1.0
    share, spread = count / n, Z95**2 / n
    middle = share + spread / 2.0
    half = Z95 * math.sqrt(share * (1.0 - share) / n + spread / (4.0 * n))
    low, high = (middle - half) / (1.0 + spread), (middle + half) / (1.0 + spread)
    return (0.0 if count == 0 else low), (1.0 if count == n else high)
