"""Purse: what the budget has for each probe, and what that buys at a step that is due."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import final

from probe_agent.agenda import Tight
from probe_agent.budget import Budget, Claim, affordable
from probe_agent.place import BESIDE, Choice, Place
from probe_agent.portions import Portions
from probe_agent.probe import Probe
from probe_agent.schedule import Watch, frequency, probes_of
from probe_wire import Outcome, ProbeCost

PASSES = 64
"""Forward passes of the probe batch that take about as long as a probe which averages over its samples; measured: 30 to 100."""

UNNOTICED = 0.25
"""Seconds that a probe may take the first time, however little may be spent at once."""


@final
class Purse:
    """Pays for probes in the order of what they had so far, in proportion to how often they are asked for.

    What a probe had is reckoned at what a measurement takes now, if that is less: a cold start, or what it took on more samples, is
    not held against it. Nor is what nobody else needed: accounts begin anew whenever there was enough for all that were due; who was not
    keeps what it has saved.

    Args:
        budget: how much of training's time there is.
        watches: what it is for.
        n: how many samples there are.
        seconds: that a forward pass of them takes, as far as known. Where a probe would take more than its part of what may be spent
            at once, it begins on fewer samples.

    Attributes:
        charged: seconds for what a worker held training up beside it; the foreman's thread counts them.
    """

    def __init__(self, budget: Budget, watches: Sequence[Watch], n: int, seconds: float = 0.0) -> None:
        self.budget = budget
        self.charged = 0.0
        self._probes = probes_of(watches)
        asked = {p.name: sum(frequency(w.schedule) for w in watches if p in w.probes) for p in self._probes}
        self._weights = {name: times / sum(asked.values()) for name, times in asked.items()}
        at_first = budget.allowed(0.0, 0)
        self.portions = Portions(
            {probe.name: probe.averages(n) for probe in self._probes},
            math.ceil(math.log2(max(1.0, PASSES * seconds / max(UNNOTICED, at_first / max(1, len(self._probes)))))),
        )
        self._begin_anew(0.0)
        self._waiting: set[Probe] = set()  # those that were left out when they were due last
        self._halved: dict[str, int] = {}  # how often the samples were, when a probe last ran

    def choice(
        self,
        place: Place,
        wanted: set[Probe],
        tight: Sequence[Tight],
        *,
        training: float,
        spent: float,
        steps: int,
        beside: float,
    ) -> Choice:
        """Which of the wanted probes can be measured now, and on how many samples; those that are ``tight`` come first.

        Args:
            place: where they are measured.
            wanted: that are due.
            tight: that are measured more often now, and therefore on as many samples as before.
            training: seconds of training so far, probes excluded.
            spent: seconds of probes so far.
            steps: training steps so far.
            beside: seconds that a measurement takes beside its probes.
        """
        portions = self.portions
        if busy := place.busy():
            wait = max(1, round(busy * steps / training)) if training > 0 else 1
            return Choice([], [], wait, tight, portions.halved)
        allowed = self.budget.allowed(training, steps)
        urgent = {probe for probe, _, _ in tight}
        claims = []
        for p in self._probes:
            seconds = portions.seconds(p.name, place.expected(p), self._halved.get(p.name, 0))
            had = min(self._had[p.name], self._in_vain[p.name] + self._times[p.name] * seconds)
            halvings = 0 if p in urgent else portions.halvings(p.name)
            claims.append(Claim(seconds, had, p in wanted, p in urgent, halvings, self._weights[p.name]))
        bought = affordable(claims, allowed - spent - place.once(), allowed - self._settled)
        taken = [self._probes[i] for i in bought.chosen]
        skipped = [probe for probe in self._probes if probe in wanted and probe not in taken]
        portions.left_out(probe.name for probe in skipped if probe not in urgent)
        self._waiting = (self._waiting - wanted).union(skipped)
        if not self._waiting:
            saved = {
                p.name: min(claim.seconds, (allowed - self._settled) * claim.weight - claim.had)
                for p, claim in zip(self._probes, claims, strict=True)
                if p not in wanted
            }
            self._begin_anew(spent)
            for name, seconds in saved.items():  # kept: its part of what there is now is short of it by so much
                self._had[name] = min(0.0, (allowed - spent) * self._weights[name] - seconds)
        halved = dict(portions.halved)
        for i in bought.chosen:
            name = self._probes[i].name
            if self._probes[i] not in urgent:
                halved[name] = portions.wished(name, claims[i].seconds, bought.halved[i], bought.left)
        wait = 0
        if wanted and not taken:
            wait = self.budget.steps_to_wait(bought.missing + beside, training=training, steps=steps)
        return Choice(taken, skipped, wait, tight, halved)

    def choice_of_none(self, wanted: set[Probe], tight: Sequence[Tight]) -> Choice:
        """None of the wanted probes, though the budget may have room."""
        return Choice([], [probe for probe in self._probes if probe in wanted], 0, tight, self.portions.halved)

    def _begin_anew(self, spent: float) -> None:
        """Nobody waits for what another had."""
        self._settled = spent
        self._had = dict.fromkeys(self._weights, 0.0)
        self._in_vain = dict(self._had)  # what of that bought nothing
        self._times = Counter[str]()

    def pay(self, costs: Iterable[ProbeCost]) -> None:
        """Remember what was measured; in another thread where the probes did not run in the training's."""
        for cost in costs:
            if cost.probe not in self._had:
                continue  # told beside the probes: how the ranks fare together
            taken = cost.seconds * (BESIDE if cost.apart else 1.0)
            self.charged += taken if cost.apart else 0.0
            self._had[cost.probe] += taken
            if cost.outcome == Outcome.OVER_BUDGET:
                self._in_vain[cost.probe] += taken
            else:
                self._times[cost.probe] += 1
            if cost.seconds:
                self._halved[cost.probe] = self.portions.halved.get(cost.probe, 0)
            well = cost.outcome in (Outcome.OK, Outcome.NOT_CONVERGED)
            self.portions.took(cost.probe, cost.seconds, well=well)
