"""Score: what became of a detector's calls on a family of curves, each rate and each delay with its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from .curve import Curve

Level = Literal["detected", "confirmed"]
LEVELS: tuple[Level, ...] = ("detected", "confirmed")
REACHED = {"detected": ("detected", "confirmed"), "confirmed": ("confirmed",)}
"""The states that count as a call, for each level of certainty one may act on."""
WITHIN = 30
"""Steps after the onset of a spike within which a call is about it."""
Z = 1.96


@dataclass(frozen=True, slots=True)
class Call:
    """That a detector said so: at which step it said it, and how sure it was."""

    step: int
    state: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one transition, or of one run without any.

    ``delay`` in rise times is infinite where nothing was called and NaN where there was nothing to be late for: a call
    was ``early``, as any is on a null. ``retracted`` says that a call was taken back. ``false_calls`` counts those that no
    transition explains. ``bound`` is the oracle's delay on the same curve, NaN where it has none.
    """

    early: bool
    delay: float
    retracted: bool = False
    false_calls: int = 0
    bound: float = math.nan


def outcomes(curve: Curve, calls: Sequence[Call], asked: str, level: Level) -> list[Outcome]:
    """What became of a run at a level of certainty: one outcome, or one for each spike."""
    made = [call.step for call in calls if call.state in REACHED[level]]
    if asked == "spike" and curve.turns:
        return _of_spikes(curve, made)
    if not made:
        return [Outcome(early=False, delay=math.inf)]
    retracted = any(call.state == "retracted" and call.step >= made[0] for call in calls)
    if curve.truth is None:
        return [Outcome(early=True, delay=math.nan, retracted=retracted, false_calls=len(made))]
    if curve.is_early(made[0]):
        return [Outcome(early=True, delay=math.nan, retracted=retracted, false_calls=1)]
    return [Outcome(early=False, delay=curve.delay(made[0]), retracted=retracted)]


def _of_spikes(curve: Curve, made: list[int]) -> list[Outcome]:
    """The delay of a spike is in steps; calls that no spike explains are told with the first."""
    found = []
    for onset in curve.turns:
        about = [step for step in made if onset <= step <= onset + WITHIN]
        made = [step for step in made if step not in about]
        found.append(Outcome(early=False, delay=float(about[0] - onset) if about else math.inf))
    return [replace(found[0], false_calls=len(made)), *found[1:]]


@dataclass(frozen=True, slots=True)
class Rate:
    """``k`` of ``n`` with Wilson's interval (1927) at 95 %."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """The share."""
        return self.k / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        if not self.n:
            return 0.0, 1.0
        p, w = self.value, Z * Z / self.n
        half = Z * math.sqrt(p * (1 - p) / self.n + w / (4 * self.n))
        return max(0.0, (p + w / 2 - half) / (1 + w)), min(1.0, (p + w / 2 + half) / (1 + w))

    def __add__(self, other: "Rate") -> "Rate":
        """Both pooled."""
        return Rate(self.k + other.k, self.n + other.n)


@dataclass(frozen=True, slots=True)
class Score:
    """A detector on a family, at one level."""

    outcomes: tuple[Outcome, ...]
    null: bool

    @property
    def early(self) -> Rate:
        """Runs with a call before there was anything to call; on a null, with a false alarm."""
        return Rate(sum(o.early for o in self.outcomes), len(self.outcomes))

    @property
    def missed(self) -> Rate:
        """Runs without a call."""
        return Rate(sum(math.isinf(o.delay) for o in self.outcomes), len(self.outcomes))

    @property
    def retracted(self) -> Rate:
        """Of the runs with a call, those that took one back."""
        called = [o for o in self.outcomes if not math.isinf(o.delay)]
        return Rate(sum(o.retracted for o in called), len(called))

    @property
    def delay(self) -> tuple[float, float, float]:
        """The median delay of runs that were not early, a miss counting as infinite, and its 95 % interval."""
        late = np.sort([o.delay for o in self.outcomes if not math.isnan(o.delay)])
        if self.null or not late.size:
            return math.nan, math.nan, math.nan
        spread = Z / 2 * math.sqrt(late.size)
        ranks = (math.floor(late.size / 2 - spread), math.ceil(late.size / 2 + spread))
        low, high = (float(late[min(max(rank, 0), late.size - 1)]) for rank in ranks)
        return float(np.quantile(late, 0.5, method="lower")), low, high

    @property
    def bound(self) -> float:
        """The oracle's median delay, over all runs; NaN where it has none."""
        return float(np.quantile([o.bound for o in self.outcomes], 0.5, method="lower"))

    @property
    def run_by_run(self) -> float:
        """The median of delay over bound, run by run: less disturbed by which curves were drawn than a ratio of medians."""
        ratios = [o.delay / o.bound for o in self.outcomes if not math.isnan(o.delay) and 0.0 < o.bound < math.inf]
        return float(np.quantile(ratios, 0.5, method="lower")) if ratios else math.nan

    def as_json(self) -> dict[str, Any]:
        """Plain numbers; what does not apply is left out."""
        found: dict[str, Any] = {"runs": len(self.outcomes), "early": _rate(self.early)}
        if any(o.retracted for o in self.outcomes):
            found["retracted"] = _rate(self.retracted)
        if not self.null:
            found["missed"] = _rate(self.missed)
            found["delay"] = [plain(x) for x in self.delay]
            if not math.isnan(self.bound):
                found["bound"] = plain(self.bound)
                found["ratio"] = plain(self.delay[0] / self.bound)
                found["ratio_run_by_run"] = plain(self.run_by_run)
        return found


def poisson(count: int, exposure: float) -> tuple[float, float, float]:
    """Counts per unit of exposure, and about 95 %: sqrt(count) has the standard deviation 1/2, whatever the rate."""
    low = max(0.0, math.sqrt(count) - Z / 2) ** 2
    high = (math.sqrt(count + 1) + Z / 2) ** 2
    return count / exposure, low / exposure, high / exposure


def plain(x: float) -> float | None:
    """Three decimals; None where JSON has no number for it."""
    return round(x, 3) if math.isfinite(x) else None


def _rate(rate: Rate) -> dict[str, Any]:
    return {"share": plain(rate.value), "interval": [plain(end) for end in rate.interval], "n": rate.n}
