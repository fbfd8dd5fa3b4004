"""Still: one run as it stood when its turn on the page came. Copied under Live's lock, formatted outside it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import msgspec

from collector.live import Latest, Live, LiveRun, ProbeState, RankState, SeriesKey, State
from collector.phases import Judged
from collector.phases.transition import State as ClaimState
from collector.phases.transition import Transition
from probe_wire import Quantity, Run

Subject = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Still:
    """What a page needs of a LiveRun, shared with nobody who writes."""

    run: Run
    label: str
    state: State
    step: int
    first_heard: float
    last_heard: float
    ranks: dict[int, tuple[float, ...]]
    """What each rank said about itself, in the order of `catalogue.OF_RANK`."""
    unjudged: dict[str, int]
    quantities: dict[str, Quantity]
    latest: dict[SeriesKey, Latest]
    """The newest point of each series."""
    unseen: int
    """Series that were not looked at, because earlier runs take all the room."""
    probes: dict[str, ProbeState]
    current: dict[tuple[str, Subject], str]
    """The phase each machine says each subject is in; the newest where spans overlap."""
    newest: dict[tuple[str, Subject], Transition]
    """The newest claim of each machine and subject that was detected, as it stands now."""
    judged: list[Judged]
    claims: dict[tuple[str, ClaimState], int]
    transition_counts: dict[tuple[str, str], int]
    last_transition_time: dict[str, float]

    @classmethod
    def of(cls, run: LiveRun, now: float, *, looks: bool = True) -> Self:
        """The run at this moment, its estimates if one ``looks`` at them; the caller holds Live's lock."""
        latest = run.settle().copy() if looks else {}
        return cls(
            run=run.run,
            label=run.label,
            state=run.state(now),
            step=run.step,
            first_heard=run.first_heard,
            last_heard=run.last_heard,
            ranks={rank: _figures(said) for rank, said in run.ranks.items()},
            unjudged=msgspec.structs.asdict(run.unjudged),
            quantities=dict(run.quantities),
            latest=latest,
            unseen=0 if looks else len(run.series),
            probes={name: replace(probe, outcomes=probe.outcomes.copy()) for name, probe in run.probes.items()},
            current={(s.machine, _subject(s.subject)): s.phase for s in run.spans if s.until_step is None},
            newest=_newest(run.transitions),
            judged=list(run.judged),
            claims=dict(run.claims),
            transition_counts=dict(run.transition_counts),
            last_transition_time=dict(run.last_transition_time),
        )


def _figures(said: RankState) -> tuple[float, ...]:
    losses = said.losses
    figures = (
        said.overhead_ratio,
        said.lost,
        losses.reports_dropped,
        losses.snapshots_skipped,
        losses.scalars_dropped,
        said.waiting,
        said.lag,
        said.clock_ahead,
    )
    return tuple(map(float, figures))


def _newest(told: Iterable[Transition]) -> dict[tuple[str, Subject], Transition]:
    """A suspicion enters no phase, and one that lapsed withdraws none."""
    newest: dict[tuple[str, Subject], Transition] = {}
    for made in told:
        key = (made.machine, _subject(made.subject))
        entered = newest.get(key)
        if made.state == "detected":
            newest[key] = made
        elif entered is not None and entered.ordinal == made.ordinal:
            newest[key] = _became(entered, made)
    return newest


def _became(entered: Transition, made: Transition) -> Transition:
    """The claim as it was detected, in its new state: where a withdrawal takes place is not where the phase began."""
    return msgspec.structs.replace(entered, state=made.state)


def _subject(labels: Mapping[str, str]) -> Subject:
    return tuple(sorted(labels.items()))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run stays on the page after it was last heard."""

    finished_seconds: float
    silent_seconds: float

    def keeps(self, run: LiveRun, now: float) -> bool:
        """Whether the run is still on the page; a running one always is."""
        limit = {"running": float("inf"), "silent": self.silent_seconds, "finished": self.finished_seconds}
        return now - run.last_heard <= limit[run.state(now)]


class Album:
    """The runs of one page, in the order in which they get their share of it.

    The oldest run comes first, so that what is shown stays shown when a new run fills the page; a finished one comes after all that
    still measure. When ``most`` series are taken, ``most_of_one`` at the most by each run, no more are looked at.

    Attributes:
        ids: of the runs.
        states: how many runs in memory are in each.
        evicted: how many are not in memory any more.
    """

    def __init__(self, live: Live, patience: Patience, now: float, most: int, most_of_one: int) -> None:
        self._lock, self._now = live.lock, now
        with live.lock:
            runs = [run for run in live.runs.values() if patience.keeps(run, now)]
            runs.sort(key=lambda run: (run.state(now) == "finished", run.first_heard))
            before = accumulate((min(len(run.series), most_of_one) for run in runs), initial=0)
            self._runs = [(run, taken < most) for run, taken in zip(runs, before, strict=False)]
            self.ids = {run.run.id for run in runs}
            self.states = Counter(run.state(now) for run in live.runs.values())
            self.evicted = live.evicted

    def __iter__(self) -> Iterator[Still]:
        """Each as it stands when its turn comes: reports wait while one run is copied, not all of them."""
        for run, looks in self._runs:
            with self._lock:
                still = Still.of(run, self._now, looks=looks)
            yield still
