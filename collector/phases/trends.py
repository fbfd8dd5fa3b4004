"""Trends: one cleaned series since its phase began, and what it shows of rises, falls and levels."""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collector.phases import reflection, turning_point
from collector.phases.axis import Floats, Scale, placed, step_placed, value_of
from collector.phases.cleaner import Cleaner
from collector.phases.figures import finite
from collector.phases.history import Buckets, History, Probe
from collector.phases.machine import TESTED, Turn
from collector.phases.packing import packed, unpacked
from collector.phases.signs import LONGEST
from collector.phases.slopes import CERTAIN, MARGIN, Lines, Steepest
from collector.phases.transition import Window
from collector.phases.verdict import Verdict

LEAST_WINDOW = 4
"""Probes in a window of evidence, at least: three wild ones in a row could have slipped past the Hampel filter's edge."""


class Trends:
    """See the module. ``target`` is the level that "hover" compares with."""

    def __init__(self, value_scale: Scale, step_scale: Scale, target: float) -> None:
        self._value_scale: Scale = value_scale
        self._step_scale: Scale = step_scale
        self._target = target
        self.cleaner = Cleaner(value_scale, step_scale)
        self._history = History()
        self._steepest = Steepest()
        self.from_level = False
        """Whether the phase began as a level."""
        self._first: int | None = None  # the first step there was
        self._since = -1.0  # no probe up to this step belongs to the phase
        self._recent: deque[float] = deque(maxlen=2 * LONGEST)  # cleaned, since the phase began
        self._count = 0
        self._buckets: Buckets | None = None

    # -- what came --------------------------------------------------------------------------------

    def take(self, step: int, y: float, paired: float) -> None:
        """Take in the next probe, on its axis."""
        self._buckets = None
        self._first = step if self._first is None else self._first
        for probe in self.cleaner.take(step, y, paired):
            if probe.step > self._since:
                self._recent.append(self._history.append(probe))
                self._count += 1

    def begin(self, step: int, *, as_level: bool) -> None:
        """A phase began at a step: what lies before it is no evidence any more."""
        self.from_level = as_level
        self._buckets = None
        self._since = step - 1.0
        self._history.drop(int(np.sum(self._history.buckets().last < step)))
        self._count = int(self._history.buckets().n.sum())
        self._recent = deque(list(self._recent)[max(len(self._recent) - self._count, 0) :], maxlen=2 * LONGEST)
        self._steepest = Steepest()

    # -- what it shows ----------------------------------------------------------------------------

    def verdicts(self, turns: tuple[Turn, ...], alpha: Callable[[Turn], float], least: float) -> list[Verdict]:
        """The strongest case for each turn that has one at present; ``alpha`` tells what a tested one may be wrong in.

        Of a tested one, evidence below ``least``, a log e-value, need not be told.
        """
        buckets = self.buckets()
        probes = float(np.add.reduce(buckets.n))
        turns = tuple([turn for turn in turns if turn.min_points <= probes])
        if not turns:
            return []
        sigma = self.sigma()
        flat = [turn for turn in turns if turn.when not in TESTED]
        found = None
        if flat:
            found = self._lines(buckets, sigma)
            self._steepest.see(found, self.cleaner.meter.probes + self.cleaner.waiting)
        cases = (
            self._tested(turn, buckets, sigma, alpha, least)
            if turn.when in TESTED
            else self._flat(turn, buckets, found, sigma)
            for turn in turns
        )
        return [case for case in cases if case is not None]

    def still(self, turn: Turn, before: Steepest, claimed: float) -> Verdict | bool:
        """Whether a level that was claimed still is one at this probe; the verdict against it where it certainly is none."""
        buckets, sigma = self.buckets(), self.sigma()
        found = self._lines(buckets, sigma)
        level = placed(claimed, 0.0, self._value_scale)[0]
        left = before.left(turn, found, self._value_scale, self._target, level)
        if left is None:
            return before.lasts(turn, buckets, found, self._value_scale, self._target)
        j, chance = left
        return self._verdict(
            turn,
            "level_left",
            -math.log(chance),
            0.5 * math.erfc(CERTAIN / math.sqrt(2.0)),
            buckets,
            slice(0, max(int(found.first[j]), 1)),
            slice(int(found.first[j]), len(buckets)),
            sigma,
            (int(found.first[j]),) * 3,
            against=True,
        )

    def steepest(self) -> Steepest:
        """The steepest slope of the phase so far, and how far the values went."""
        return Steepest(self._steepest.slope, whole=self._steepest.reach(self.buckets()))

    def resume(self, before: Steepest) -> None:
        """The phase goes on that had this slope."""
        self._steepest = before

    def given(self, turn: Turn, step: int) -> Verdict:
        """A turn taken on other quantities, beside where this one is."""
        buckets = self.buckets()
        newest = self.window(buckets, slice(max(0, len(buckets) - LEAST_WINDOW), len(buckets)), self.sigma())
        return Verdict(turn, "given", 0.0, 1.0, newest, newest, 0.0, math.nan, (step, step, step))

    def buckets(self) -> Buckets:
        """All probes of the phase."""
        if self._buckets is None:
            self._buckets = self._history.buckets(self._not_final())
        return self._buckets

    def sigma(self) -> float:
        """The standard deviation of one probe at present; NaN while unknown."""
        return self.cleaner.meter.sigma()

    def level(self) -> float:
        """The mean of the newest probes on the axis of the test."""
        return self._mean(LEAST_WINDOW)

    def mean(self, k: int) -> float:
        """The mean of the newest ``k`` probes of the phase in the units of the quantity; the geometric one on a log axis."""
        return float(value_of(np.array(self._mean(k)), self._value_scale))

    def newest(self) -> tuple[Floats, int]:
        """Up to ``2 * LONGEST`` newest cleaned values on the axis of the test, and how many of the phase came before them."""
        last = [*self._recent, *(probe.y for probe in self._not_final())]
        kept = last[-2 * LONGEST :]
        return np.array(kept), self._count + len(last) - len(self._recent) - len(kept)

    def _not_final(self) -> list[Probe]:
        return [probe for probe in self.cleaner.newest() if probe.step > self._since]

    def _mean(self, k: int) -> float:
        last = self.newest()[0][-k:].tolist()
        return sum(last) / len(last) if last else math.nan

    def window(self, buckets: Buckets, part: slice, sigma: float) -> Window:
        """A range of buckets as a window; on a logarithmic axis its mean is the geometric one."""
        n, y = buckets.n[part], buckets.y[part]
        total = float(n.sum())
        mean = float(y.sum()) / total
        stderr = math.sqrt(float(np.maximum(buckets.variance[part], n * sigma**2).sum())) / total
        if self._value_scale == "log":
            mean = math.exp(min(mean, 700.0))
            stderr *= mean
        return Window(
            int(buckets.first[part][0]), int(buckets.last[part][-1]), int(total), finite(mean), finite(stderr)
        )

    def _tested(
        self, turn: Turn, buckets: Buckets, sigma: float, alpha: Callable[[Turn], float], least: float
    ) -> Verdict | None:
        """The folds whose change reaches the least effect, together; the one with most evidence is shown."""
        if not sigma > 0.0:  # all values equal, or the noise unknown
            return None
        if turn.flat:
            sigma *= self.cleaner.meter.lasting()
        if reflection.none(buckets, sigma, turn.when):
            return None

        def counts(before: Floats, after: Floats, k: Floats) -> NDArray[np.bool_]:
            change = self._relative(before, after)
            enough = (change >= turn.min_effect) if turn.when == "rise" else (change <= -turn.min_effect)
            return np.asarray(enough & (k >= LEAST_WINDOW) & turn.admits(value_of(after, self._value_scale)))

        folds = (reflection.rise if turn.when == "rise" else reflection.fall)(buckets, sigma, counts, least)
        log_e = folds.together()
        if not log_e > 0.0:
            return None
        before, after = folds.windows(int(folds.log_e.argmax()))
        allowed = alpha(turn)
        shown = log_e >= math.log(1.0 / allowed)
        return self._verdict(
            turn,
            "reflected_gauss_e_process",
            log_e,
            allowed,
            buckets,
            before,
            after,
            sigma,
            self._turned(turn, buckets, sigma) if shown else (after.start,) * 3,
        )

    def _flat(self, turn: Turn, buckets: Buckets, found: Lines | None, sigma: float) -> Verdict | None:
        shown = None
        if found is not None:
            shown = self._steepest.flat(turn, buckets, found, self._value_scale, self._target)
        if found is None or shown is None:
            return None
        j, chance = shown
        first = int(found.first[j])
        return self._verdict(
            turn,
            "level_and_slope_equivalence" if turn.when == "hover" else "slope_equivalence",
            -math.log(chance),
            0.5 * math.erfc(MARGIN / math.sqrt(2.0)),
            buckets,
            slice(0, max(first, 1)),
            slice(first, len(buckets)),
            sigma,
            (first, first, len(buckets) - 1),
            goes_on=float(found.goes_on(self._value_scale)[j]),
        )

    def _verdict(
        self,
        turn: Turn,
        statistic: str,
        log_e: float,
        alpha: float,
        buckets: Buckets,
        before: slice,
        after: slice,
        sigma: float,
        happened: tuple[int, int, int],
        *,
        against: bool = False,
        goes_on: float = math.nan,
    ) -> Verdict:
        windows = self.window(buckets, before, sigma), self.window(buckets, after, sigma)
        earlier, later = (float(buckets.y[part].sum() / buckets.n[part].sum()) for part in (before, after))
        change = float(self._relative(np.array(earlier), np.array(later)))
        at, first, last = happened
        noise = sigma if self._value_scale == "log" else sigma / (abs(earlier) or 1.0)
        return Verdict(
            turn,
            statistic,
            log_e,
            alpha,
            *windows,
            change,
            noise,
            (int(buckets.last[at]), *buckets.around(first, last)),
            against,
            abs(later - earlier),
            buckets.before(after) - buckets.before(before),
            goes_on,
        )

    def _turned(self, turn: Turn, buckets: Buckets, sigma: float) -> tuple[int, int, int]:
        """Where a rise became a fall or a fall a rise, as buckets."""
        mean = buckets.y / buckets.n
        error = np.sqrt(np.maximum(buckets.variance, buckets.n * sigma**2)) / buckets.n
        turned = turning_point.onset if turn.flat or self.from_level else turning_point.peak
        at = turned(mean if turn.when == "fall" else -mean, error)
        return at.at, at.first, at.last

    def _relative(self, before: Floats, after: Floats) -> Floats:
        """The change from one mean to another, relative to the first; +-1 from exactly zero, where any is the whole."""
        if self._value_scale == "log":
            return np.asarray(np.expm1(np.minimum(after - before, 700.0)))  # beyond lies infinity
        level = np.abs(before)
        if level.all():
            return np.asarray((after - before) / level)
        return np.where(level > 0.0, (after - before) / np.where(level > 0.0, level, 1.0), np.sign(after - before))

    def _lines(self, buckets: Buckets, sigma: float) -> Lines:
        placed, last = buckets.middle(), float(buckets.last[-1])
        if self._step_scale == "log":
            placed = np.log1p(placed)
        ahead = step_placed(2.0 * last - (self._first or 0), self._step_scale) - step_placed(last, self._step_scale)
        return Lines(buckets, placed, sigma, ahead)

    # -- to and from JSON -------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        return {
            "cleaner": self.cleaner.state(),
            "history": self._history.state(),
            "steepest": [self._steepest.slope, dict(self._steepest.rows), self._steepest.whole],
            "first": self._first,
            "since": self._since,
            "from_level": self.from_level,
            "recent": packed(self._recent, are_short=True),
            "count": self._count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when the state was given."""
        self._buckets = None
        self.cleaner.restore(state["cleaner"])
        self._history = History.restored(state["history"])
        self._steepest = Steepest(*state["steepest"])
        self._first, self._since, self._count = state["first"], state["since"], state["count"]
        self.from_level = state["from_level"]
        self._recent.extend(unpacked(state["recent"], are_short=True))
