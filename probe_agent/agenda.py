"""Agenda: which probes are due at which step, by their watches and, for a while, more often than those say.

A collector that suspects a transition may wish for a quantity to be measured more often (`Tighten`). The probe is then
measured at steps *between* those of its schedule, equally far apart, and those of the schedule stay due as they were. More
points of the same estimator are all it gives: they tell sooner and more exactly when something happened, but neighbours
share much of the noise that training itself makes, so four of them are worth less than four. What a wish may not touch:

- The inputs, the draws and the number of both. A probe that draws labels goes on drawing them: the sum over all labels
  differs from the mean over fixed draws by those draws' own luck, which the paired standard error leaves out because
  the same draws are at every point. A series that went from one to the other would jump by that much, with nothing to
  tell it from learning. Another probe set would be another mean in the same way.
- Values that depend on when the probe last measured (`Probe.looks_back`): such a probe keeps to its schedule.
- The budget: what it cannot pay for is not measured. Within it, a tightened probe comes first.

A wish ends at its step or when its seconds have passed, whether or not the collector is still there; then its probe keeps to
its schedule for at least as many steps. So the other probes have theirs half of the time, whatever a collector wishes.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple, final

from probe_agent.probe import Probe
from probe_agent.schedule import Watch, probes_of
from probe_wire import Column, Estimate, Quantity, Tighten

TIGHTENED = Quantity(
    name="probe_tightened",
    unit="1",
    help="How many times as often as its schedule says a probe is measured now, because a transition is suspected; 1 when it keeps to "
    "its schedule.",
    title="Probes measured more often",
)
WISHES = Quantity(
    name="tighten_wishes",
    unit="1",
    help="Wishes of the collector to measure a probe more often since the agent was attached, by what came of them.",
    title="Wishes to measure more often",
)

NEVER = 2**62
"""The step at which nothing is due."""

MOST_WISHES = 64
"""So many wishes may wait for the next step that is due; of more, the latest."""


class Tight(NamedTuple):
    """A probe that is measured ``times`` as often as its schedule says, up to step ``until``."""

    probe: Probe
    times: int
    until: int


class Answer(StrEnum):
    """What came of a wish."""

    HONOURED = "honoured"
    EXPIRED = "expired"
    NO_PROBE = "no probe measures it"
    LOOKS_BACK = "its values depend on the schedule"
    NO_BUDGET = "the budget earns nothing"
    IN_FORCE = "in force already"
    RESTING = "too soon after the last"
    NOT_LEADING = "another rank chooses"


class Lease(NamedTuple):
    """From which step a wish holds, until when by the clock, and why."""

    since: int
    deadline: float
    reason: str


@final
class Agenda:
    """Everything that is due to be measured. Deterministic but for the clock that ends a wish.

    Args:
        watches: what is measured when.
        step: the state training starts from; it is the first to be measured.
        earns: whether the budget grows with training.
        clock: seconds.

    Attributes:
        wishes: what the collector wished for and nobody looked at yet.
        answers: how many wishes came out how.
    """

    def __init__(
        self,
        watches: Sequence[Watch],
        step: int,
        *,
        earns: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wishes: deque[Tighten] = deque(maxlen=MOST_WISHES)
        self.answers: Counter[Answer] = Counter()
        self._watches = tuple(watches)
        self._earns = earns
        self._clock = clock
        self._passed = [step for _ in self._watches]  # where each schedule was last followed
        self._due = [step for _ in self._watches]
        self._tight: dict[Probe, Tight] = {}
        self._between: dict[Probe, int] = {}  # the next step that only a wish makes due
        self._leases: dict[Probe, Lease] = {}
        self._offers: dict[Probe, Lease] = {}  # until all ranks have agreed
        self._rests: dict[Probe, int] = {}
        self._early = True

    @property
    def next(self) -> int:
        """The step at which something is due next."""
        return min((*self._due, *self._between.values()), default=NEVER)

    @property
    def tightened(self) -> dict[Probe, int]:
        """The probes that are measured more often now, and how many times as often."""
        return {tight.probe: tight.times for tight in self._tight.values()}

    def scheduled(self, step: int) -> bool:
        """Whether a schedule, not only a wish, makes something due."""
        return any(at <= step for at in self._due)

    def wanted(self, step: int) -> set[Probe]:
        """The probes that are due."""
        between = {probe for probe, at in self._between.items() if at <= step}
        return between.union(*(watch.probes for watch, at in zip(self._watches, self._due, strict=True) if at <= step))

    # -- wishes -----------------------------------------------------------------------------------

    def take(self, wish: Tighten) -> bool:
        """Keep a wish until it is looked at; any thread may bring it.

        Returns whether to look before something is due: once between two scheduled steps, so that a flood costs no more.
        """
        self.wishes.append(wish)
        early, self._early = self._early, False
        return early

    def offered(self, step: int) -> list[Tight]:
        """What this rank would tighten from here on: what it has in force, and what was wished for since and can be."""
        now = self._clock()
        for over, lease in list(self._leases.items()):
            if step >= self._tight[over].until or now >= lease.deadline:
                self._rests[over] = 2 * step - lease.since
                del self._leases[over]
        found = {probe: self._tight[probe] for probe in self._leases}
        self._offers = {}
        while self.wishes:
            wish = self.wishes.popleft()
            probe = self._probe_of(wish.quantity)
            if (answer := self._refusal(wish, probe, step, found)) or probe is None:
                self.answers[answer or Answer.NO_PROBE] += 1
                continue
            found[probe] = Tight(probe, wish.times, wish.until_step)
            self._offers[probe] = Lease(step, now + wish.seconds, wish.reason)
        return list(found.values())

    def _probe_of(self, quantity: str) -> Probe | None:
        measuring = (p for p in probes_of(self._watches) if any(q.name == quantity for q in p.quantities))
        return next(measuring, None)

    def _refusal(self, wish: Tighten, probe: Probe | None, step: int, found: Container[Probe]) -> Answer | None:
        if probe is None:
            return Answer.NO_PROBE
        if probe.looks_back:
            return Answer.LOOKS_BACK
        if not self._earns:
            return Answer.NO_BUDGET
        if wish.until_step <= step:
            return Answer.EXPIRED
        if probe in found:
            return Answer.IN_FORCE
        return Answer.RESTING if step < self._rests.get(probe, 0) else None

    def hold(self, agreed: Iterable[Tight]) -> list[str]:
        """Do as agreed, here and on every rank. Returns what is new, in words."""
        self._tight = {tight.probe: tight for tight in agreed}
        new = self._offers.keys() & self._tight.keys()
        self.answers += Counter({Answer.HONOURED: len(new), Answer.NOT_LEADING: len(self._offers) - len(new)})
        leases = self._leases | self._offers
        self._leases = {probe: lease for probe, lease in leases.items() if probe in self._tight}
        self._offers = {}
        return [
            f"{probe.name} is measured {times} times as often until step {until}: {self._leases[probe].reason}"
            for probe, times, until in self._tight.values()
            if probe in new
        ]

    def account(self) -> Iterator[tuple[Quantity, Column, Estimate]]:
        """What came of the wishes so far, as series of their own; nothing before there was one."""
        for probe in {**self._rests, **self._leases}:
            times = self._tight[probe].times if probe in self._leases else 1
            yield TIGHTENED, Column(TIGHTENED.name, {"probe": probe.name}), Estimate(times, 0.0, 0.0)
        for answer, count in sorted(self.answers.items()):
            yield WISHES, Column(WISHES.name, {"answer": answer.value}), Estimate(count, 0.0, 0.0)

    # -- going on ---------------------------------------------------------------------------------

    def go_on(self, step: int) -> None:
        """What was due at this step is done with."""
        for i, watch in enumerate(self._watches):
            if self._due[i] <= step:
                self._passed[i], self._due[i], self._early = step, watch.schedule.after(step), True
        self._look_between(step, step + 1)

    def put_off(self, step: int, steps: int) -> None:
        """What is due at this step is looked at again so many steps later, and nothing between the schedules before."""
        self._due = [step + steps if at <= step else at for at in self._due]
        self._look_between(step, step + steps)

    def _look_between(self, step: int, earliest: int) -> None:
        """Find the next step of each tightened probe that is not in its schedule."""
        self._between = {}
        for probe, times, until in self._tight.values():
            following = [i for i, watch in enumerate(self._watches) if probe in watch.probes]
            at = max(earliest, min(self._part(i, times, step) for i in following))
            if at <= until:
                self._between[probe] = at

    def _part(self, i: int, times: int, step: int) -> int:
        """The first step beyond ``step`` of those that divide the schedule's present interval into equal parts."""
        start = self._passed[i]
        interval = self._watches[i].schedule.after(start) - start
        parts = (step - start) * times // interval + 1
        return start - (-parts * interval // times)
