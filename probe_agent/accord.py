"""Accord: the ranks of a gang stop at the same step for the same probes, those that rank 0 chooses."""

import json
from collections.abc import Callable, Sequence
from typing import final

from probe_agent.agenda import Tight
from probe_agent.complaints import Complaints
from probe_agent.gang import Dissolved, Gang
from probe_agent.place import NOTHING, Choice
from probe_agent.probe import Probe


@final
class Accord:
    """Holds while the gang does. After that rank 0 goes its own way, and the others measure no more.

    Args:
        gang: the ranks.
        probes: every probe of the monitor, in the same order on every rank.
        replica: tells the model of one rank from another's; ranks that differ do not measure one model.
        alone: whether rank 0 can measure without the others.
    """

    def __init__(self, gang: Gang, probes: Sequence[Probe], replica: Callable[[], str], *, alone: bool = True) -> None:
        self.gang: Gang | None = gang
        self.leads = gang.rank == 0
        self._rank = gang.rank
        self._probes = tuple(probes)
        self._replica = replica
        self._alone = alone
        self._complain = Complaints()

    def on(self, step: int, choice: Choice) -> Choice:
        """The choice of rank 0 at this step; what it skipped is told there."""
        if self.gang is None:
            return choice if self.leads else NOTHING
        chosen = [self._probes.index(probe) for probe in choice.probes]
        tightened = [(self._probes.index(probe), times, until) for probe, times, until in choice.tight]
        word = json.dumps([step, self._replica(), chosen, choice.wait, tightened, dict(choice.halved)]).encode()
        try:
            words = [json.loads(word) for word in self.gang.exchange(word)]
            for i, what in enumerate(("steps", "weights")):
                if len({said[i] for said in words}) > 1:
                    self.gang.leave(f"the ranks are at different {what}")
                    return self.on(step, choice)
        except Dissolved as error:
            self.end(error)
            return choice if self.leads else NOTHING
        _, _, chosen, wait, tightened, halved = words[0]
        tight = [Tight(self._probes[i], times, until) for i, times, until in tightened]
        return Choice([self._probes[i] for i in chosen], choice.skipped if self.leads else [], wait, tight, halved)

    def end(self, error: Dissolved) -> None:
        """There is no gang any more."""
        self.gang = None
        self.leads = self.leads and self._alone
        alone = "goes on alone, with all probes" if self.leads else "measures no more"
        self._complain("gang", f"the ranks no longer watch together ({error}); rank {self._rank} {alone}")

    def leave(self, reason: str) -> None:
        """The others need not wait for this rank."""
        if self.gang is not None:
            self.gang.leave(reason)
