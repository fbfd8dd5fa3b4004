"""Purse: what the budget has for each probe, and what that buys at a step that is due."""

from collections.abc import Iterable, Sequence
from typing import final

from probe_agent.agenda import Tight
from probe_agent.budget import Budget, Claim, affordable
from probe_agent.place import BESIDE, Choice, Place
from probe_agent.portions import Portions
from probe_agent.probe import Probe
from probe_wire import Outcome, ProbeCost


@final
class Purse:
    """Pays for probes in the order of what they had so far.

    Args:
        budget: how much of training's time there is.
        probes: that it is for.
        n: how many samples there are.

    Attributes:
        charged: seconds for what a worker held training up beside it; the foreman's thread counts them.
    """

    def __init__(self, budget: Budget, probes: Sequence[Probe], n: int) -> None:
        self.budget = budget
        self.portions = Portions({probe.name: probe.averages(n) for probe in probes})
        self.charged = 0.0
        self._probes = tuple(probes)
        self._had = {probe.name: 0.0 for probe in probes}
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
        allowed = self.budget.allowed(training)
        urgent = {probe for probe, _, _ in tight}
        claims = [
            Claim(
                portions.seconds(p.name, place.expected(p), self._halved.get(p.name, 0)),
                self._had[p.name],
                p in wanted,
                p in urgent,
                0 if p in urgent else portions.halvings(p.name),
            )
            for p in self._probes
        ]
        bought = affordable(claims, allowed - spent - place.once(), allowed / max(1, len(claims)))
        taken = [self._probes[i] for i in bought.chosen]
        skipped = [probe for probe in self._probes if probe in wanted and probe not in taken]
        portions.left_out(probe.name for probe in skipped if probe not in urgent)
        halved = dict(portions.halved)
        for i in bought.chosen:
            name = self._probes[i].name
            if self._probes[i] not in urgent:
                halved[name] = portions.wished(name, claims[i].seconds, bought.halved[i], bought.left)
        wait = 0
        if wanted and not taken:
            wait = self.budget.steps_to_wait(bought.missing + beside, training=training, steps=steps)
        return Choice(taken, skipped, wait, tight, halved)

    def pay(self, costs: Iterable[ProbeCost]) -> None:
        """Remember what was measured; in another thread where the probes did not run in the training's."""
        for cost in costs:
            if cost.probe not in self._had:
                continue  # told beside the probes: how the ranks fare together
            taken = cost.seconds * (BESIDE if cost.apart else 1.0)
            self.charged += taken if cost.apart else 0.0
            self._had[cost.probe] += taken
            if cost.seconds:
                self._halved[cost.probe] = self.portions.halved.get(cost.probe, 0)
            well = cost.outcome in (Outcome.OK, Outcome.NOT_CONVERGED)
            self.portions.took(cost.probe, cost.seconds, well=well)
