"""Still: one run as it stood when Prometheus asked. Copied under Live's lock, formatted outside it."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import msgspec

from collector.live import Live, LiveRun, ProbeState, RankState, SeriesKey, State
from collector.phases import Judged
from collector.phases.transition import State as ClaimState
from collector.phases.transition import Transition
from probe_wire import Estimate, Outcome, Quantity, Run

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
    ranks: dict[int, RankState]
    unjudged: dict[str, int]
    quantities: dict[str, Quantity]
    estimates: list[tuple[SeriesKey, int, Estimate]]
    """Each series with its position and newest estimate."""
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
    def of(cls, run: LiveRun, now: float) -> Self:
        """The run at this moment; the caller holds Live's lock."""
        return cls(
            run=run.run,
            label=run.label,
            state=run.state(now),
            step=run.step,
            first_heard=run.first_heard,
            last_heard=run.last_heard,
            ranks={rank: copy.copy(said) for rank, said in run.ranks.items()},
            unjudged=msgspec.structs.asdict(run.unjudged),
            quantities=dict(run.quantities),
            estimates=[(key, latest.position, latest.estimate) for key, latest in run.settle().items()],
            probes={name: replace(probe, outcomes=probe.outcomes.copy()) for name, probe in run.probes.items()},
            current={(s.machine, _subject(s.subject)): s.phase for s in run.spans if s.until_step is None},
            newest=_newest(run.transitions),
            judged=list(run.judged),
            claims=dict(run.claims),
            transition_counts=dict(run.transition_counts),
            last_transition_time=dict(run.last_transition_time),
        )

    def outcomes(self) -> dict[str, Counter[Outcome]]:
        """How the newest estimates of each quantity came out."""
        found = Counter([(key.quantity, int(estimate.outcome)) for key, _, estimate in self.estimates])
        counts: dict[str, Counter[Outcome]] = {}
        for (quantity, outcome), count in found.items():
            counts.setdefault(quantity, Counter())[Outcome(outcome)] = count
        return counts


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


def develop(live: Live, patience: Patience, now: float) -> tuple[list[Still], Counter[State], int]:
    """``(stills, runs in memory by state, runs evicted)``, in the order in which runs get their share of the page.

    The oldest run comes first, so what is shown stays shown when a new run fills the page; a
    finished one comes after all that still measure.
    """
    with live.lock:
        states = Counter(run.state(now) for run in live.runs.values())
        stills = [Still.of(run, now) for run in live.runs.values() if patience.keeps(run, now)]
        evicted = live.evicted
    stills.sort(key=lambda still: (still.state == "finished", still.first_heard))
    return stills, states, evicted
