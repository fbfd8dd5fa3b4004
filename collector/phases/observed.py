"""Observed: one series as the statistics of a machine see it."""

import math
from collections.abc import Callable
from typing import Any

from collector.phases import episode as life
from collector.phases.axis import placed, step_placed, testable
from collector.phases.machine import EQUIVALENCE, RAW, TESTED, Given, Machine, Turn
from collector.phases.noise_card import noise_card
from collector.phases.pace import Pace
from collector.phases.signs import LONGEST
from collector.phases.spikes import Spikes
from collector.phases.stillness import Stillness
from collector.phases.transition import NoiseCard
from collector.phases.trends import Trends
from collector.phases.verdict import Verdict
from collector.phases.wandering import FAR, STEP

_APART = (*RAW, "still", "given")
GIVEN_FOR = 2
"""Probes in a row at which other quantities must be where a turn is given them."""
STEADY_FOR = 8
"""Probes in a row at which a random walk must be ruled out before a trend is told: a claim must stand for as many."""


class Observed:
    """See the module. ``holds`` tells whether another quantity of the run is as given.

    A value without a place on the axis is counted in ``skipped``, one at a step not beyond the last in ``behind``, one
    from before the series was last measured otherwise in ``outdated``; ``restarts`` is how often that was.
    """

    def __init__(self, machine: Machine) -> None:
        self.holds: Callable[[Given], bool] = lambda _: False
        self.skipped = 0
        self.behind = 0
        self.outdated = 0
        self.restarts = 0
        self._machine = machine
        self._last_step = -1
        self._any_given = any(turn.given for turn in machine.turns)
        self._raw = next((turn for turn in machine.turns if turn.when in RAW), None)  # they all compare alike
        self._begin()

    def _begin(self) -> None:
        machine = self._machine
        self.trends = Trends(machine.value_scale, machine.step_scale, machine.target)
        self.pace = Pace()
        self._spikes = Spikes() if self._raw else None
        self._stillness = Stillness() if any(turn.when == "still" for turn in machine.turns) else None
        self._given = 0  # probes in a row at which what a turn is given held
        self._steady = 0  # probes in a row at which a random walk was ruled out
        self._taken = 0

    def restart(self, step: int) -> None:
        """From a step on it is measured otherwise: nothing before it is evidence any more."""
        self.outdated += self._taken
        self.restarts += 1
        from_level = self.trends.from_level
        self._begin()
        self.trends.begin(step, as_level=from_level)

    def enter(self, step: int, *, as_level: bool) -> None:
        """A phase began at a step."""
        self._given = 0
        self.trends.begin(step, as_level=as_level)

    def admits(self, step: int, value: float) -> bool:
        """Whether a measurement belongs to the series; otherwise one of the counters says why not."""
        if step <= self._last_step:
            self.behind += 1
            return False
        if not testable(value, self._machine.value_scale) and (self._spikes is None or math.isfinite(value)):
            self.skipped += 1
            return False
        self._last_step = step
        return True

    def take(self, step: int, value: float, paired: float, *, dense: bool) -> bool:
        """Take in a measurement; False while others are waited for to make one probe of them, where they are ``dense``."""
        self._taken += 1
        if self._spikes is not None and self._raw is not None:
            self._spikes.take(step, value, self._raw.spreads, self._raw.min_effect)
            if not testable(value, self._machine.value_scale):
                return True
        if self._stillness is not None:
            self._stillness.take(step, value)
        x = step_placed(step, self._machine.step_scale)
        probe = self.pace.take(step, x, *placed(value, paired, self._machine.value_scale), dense=dense)
        if probe is None:
            return False
        self.trends.take(step, *probe)
        self._steady = 0 if self.trends.cleaner.meter.walks() else min(self._steady + 1, STEADY_FOR)
        return True

    def at_once(self, turns: tuple[Turn, ...]) -> list[Verdict]:
        """The cases for turns on single values, which no other measurement is waited for to tell."""
        return [] if self._spikes is None else self._spikes.verdicts(self._open(turns))

    def cases(self, step: int, turns: tuple[Turn, ...], alpha: Callable[[Turn], float], least: float) -> list[Verdict]:
        """The strongest case there is at present for each turn on whole probes; evidence below ``least`` need not be told."""
        turns = self._open(turns)
        self._given = self._given + 1 if self._any_given and any(turn.when == "given" for turn in turns) else 0
        tracked = tuple([turn for turn in turns if turn.when not in _APART])
        cases: list[Verdict] = []
        if tracked:
            cases += self.trends.verdicts(tracked, alpha, least)
        if self._stillness is not None:
            cases += [case for turn in turns if turn.when == "still" and (case := self._stillness.verdict(turn))]
        if self._given >= GIVEN_FOR:
            cases += [self.trends.given(turn, step) for turn in turns if turn.when == "given"]
        return cases

    def _open(self, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        if not self._any_given:
            return turns
        return tuple(turn for turn in turns if not turn.given or all(self.holds(each) for each in turn.given))

    def lasts(self, case: Verdict) -> bool:
        """Whether a change has lasted for longer than correlated noise does, by the signs of pairs, once there are enough.

        They are not asked of noise that is independent and as large as reported, nor of a change too large for any noise.
        """
        if case.turn.when not in TESTED:
            return True
        if self.outgrown:
            return False
        if case.after.n > LONGEST:  # more probes than the signs see
            return True
        meter = self.trends.cleaner.meter
        if case.apart >= life.SHARP * meter.single() or meter.as_reported(1, 2, 4):
            return True
        newest, before = self.trends.newest()
        return before + newest.size < life.SIGNS_FROM or life.agrees(case.turn.when, newest, before, 0.0)

    @property
    def outgrown(self) -> bool:
        """Whether the noise has outgrown what is believed of it: what exceeds that is evidence of nothing else."""
        return self.trends.cleaner.outgrown

    def agrees(self, turn: Turn, log_e: float) -> bool:
        """Whether the sign test on the newest probes gives a rise or a fall that log e-value."""
        newest, before = self.trends.newest()
        return life.agrees(turn.when, newest, before, log_e)

    def beyond_noise(self, before: float, after: float) -> bool:
        """Whether two means, in the units of the quantity, are too far apart for noise however long it lasts."""
        if not (testable(before, self._machine.value_scale) and testable(after, self._machine.value_scale)):
            return False
        earlier, later = (placed(mean, 0.0, self._machine.value_scale)[0] for mean in (before, after))
        return abs(later - earlier) >= life.SHARP * self.trends.cleaner.meter.single()

    def card(self) -> NoiseCard:
        """What is known of the noise of the series."""
        meter, wandered = self.trends.cleaner.meter, not self.assessable()
        return noise_card(meter, self.trends.level(), self.restarts, wandered=wandered)

    def assessable(self) -> bool:
        """Whether a trend can be told from what is seen: a random walk is ruled out, and has been for some probes."""
        return self._steady >= STEADY_FOR

    def walks(self, case: Verdict) -> bool:
        """Whether a random walk may have made a case: none is ruled out, and one of such steps would go as far.

        Few probes cannot rule one out, which would be to call nothing early: of a trend they are believed, of a level, which
        has wandered for as long as it lasted, they are not.
        """
        if case.turn.when == "given" or self.assessable() or self.far(case):
            return False
        return not self.few or case.turn.flat or case.turn.when in EQUIVALENCE

    @property
    def few(self) -> bool:
        """Whether there are too few probes to rule a random walk out."""
        return self.trends.cleaner.meter.few

    def far(self, case: Verdict) -> bool:
        """Whether the means of a case are further apart than a random walk of such steps goes."""
        return case.apart > FAR * STEP * self.trends.cleaner.meter.seen() * math.sqrt(case.probes)

    def state(self) -> dict[str, Any]:
        """All there is, as JSON has it."""
        return {
            "skipped": self.skipped,
            "behind": self.behind,
            "outdated": self.outdated,
            "restarts": self.restarts,
            "taken": self._taken,
            "last_step": self._last_step,
            "given": self._given,
            "steady": self._steady,
            "pace": self.pace.state(),
            "trends": self.trends.state(),
            "spikes": self._spikes and self._spikes.state(),
            "stillness": self._stillness and self._stillness.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when the state was given."""
        self.skipped, self.behind = state["skipped"], state["behind"]
        self.outdated, self.restarts, self._taken = state["outdated"], state["restarts"], state["taken"]
        self._last_step, self._given, self._steady = state["last_step"], state["given"], state["steady"]
        self.pace.restore(state["pace"])
        self.trends.restore(state["trends"])
        if self._spikes is not None:
            self._spikes.restore(state["spikes"])
        if self._stillness is not None:
            self._stillness.restore(state["stillness"])
