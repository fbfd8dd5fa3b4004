"""Accord: the ranks of a gang stop at the same step for the same probes, those that rank 0 chooses."""

import json
from collections.abc import Callable, Sequence
from typing import Any, final

from probe_agent.agenda import Tight
from probe_agent.findings import Finding
from probe_agent.gang import Dissolved, Gang, named
from probe_agent.place import NOTHING, Choice
from probe_agent.probe import Probe
from probe_wire import Outcome, ProbeCost

RANKS = "ranks"
"""The name under which it is reported how the ranks fare together, among the probes."""


@final
class Accord:
    """Holds while the gang does. After that rank 0 goes its own way, and the others measure no more.

    Args:
        gang: the ranks.
        probes: every probe of the monitor, in the same order on every rank.
        replica: tells the model of one rank from another's; ranks that differ do not measure one model.
        alone: whether rank 0 can measure without the others.
        patience: seconds that a rank is waited for at a step that is due; that of the gang if nothing is said.
    """

    def __init__(
        self,
        gang: Gang,
        probes: Sequence[Probe],
        replica: Callable[[], str],
        *,
        alone: bool = True,
        patience: float | None = None,
    ) -> None:
        self.gang: Gang | None = gang
        self.leads = gang.rank == 0
        self._rank = gang.rank
        self._probes = tuple(probes)
        self._replica = replica
        self._alone = alone
        self._patience = patience
        self._untold: list[Finding] = []
        self._told: set[str] = set()

    def on(self, step: int, choice: Choice) -> Choice:
        """The choice of rank 0 at this step; what it skipped is told there."""
        if self.gang is None:
            return choice if self.leads else NOTHING
        try:
            word = json.dumps([step, self._replica()]).encode()
            agreed = self.gang.agree(word, lambda words: self._decided(words, choice), self._patience)
        except Dissolved as error:
            self.end(error)
            return choice if self.leads else NOTHING
        chosen, wait, tightened, halved = json.loads(agreed)
        tight = [Tight(self._probes[i], times, until) for i, times, until in tightened]
        return Choice([self._probes[i] for i in chosen], choice.skipped if self.leads else [], wait, tight, halved)

    def _decided(self, words: Sequence[bytes], choice: Choice) -> bytes:
        """What rank 0 chose, for all ranks.

        Raises:
            Dissolved: they are not at one step, or not at one model.
        """
        if why := differing(["step", "weights"], [json.loads(word) for word in words]):
            raise Dissolved(why)
        chosen = [self._probes.index(probe) for probe in choice.probes]
        tightened = [(self._probes.index(probe), times, until) for probe, times, until in choice.tight]
        return json.dumps([chosen, choice.wait, tightened, dict(choice.halved)]).encode()

    def end(self, error: Dissolved) -> None:
        """There is no gang any more."""
        self.gang = None
        self.leads = self.leads and self._alone
        alone = "goes on alone, with all probes" if self.leads else "measures no more"
        self.tell(f"the ranks do not watch together ({error}); rank {self._rank} {alone}")

    def tell(self, what: str, outcome: Outcome = Outcome.FAILED) -> None:
        """Have it in the next report, among what the probes came to, and in the log: once."""
        if what not in self._told:
            self._told.add(what)
            self._untold.append(Finding([], ProbeCost(RANKS, 0.0, outcome, what[:2000]), blame=RANKS))

    def untold(self) -> list[Finding]:
        """What is to be told at this step."""
        untold, self._untold = self._untold, []
        return untold

    def leave(self, reason: str) -> None:
        """The others need not wait for this rank."""
        if self.gang is not None:
            self.gang.leave(reason)


def differing(kinds: Sequence[str], of_ranks: Sequence[Sequence[Any]]) -> str:
    """In which of these kinds the ranks differ, and which has what; nothing where they are alike.

    Args:
        kinds: in words.
        of_ranks: what each rank has of each kind. A text is a digest: of those is only told who has another than rank 0.
    """
    for kind, values in zip(kinds, zip(*of_ranks, strict=True), strict=True):
        by_value: dict[Any, list[int]] = {}
        for rank, value in enumerate(values):
            by_value.setdefault(value, []).append(rank)
        if len(by_value) > 1:
            (first, _), *others = by_value.items()
            if isinstance(first, str):
                who = f"{named([rank for _, ranks in others for rank in ranks])} from rank 0"
            else:
                who = ", ".join(f"{named(ranks)}: {value}" for value, ranks in list(by_value.items())[:3])
            return f"they differ in {kind} ({who})"
    return ""
