"""Live: the recent past of every run, bounded, in memory. What the views are asked from."""

import math
import threading
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Literal, NamedTuple

import msgspec

from collector.phases import Judged, Span, Transition, Unused
from collector.phases.transition import State as TransitionState
from probe_wire import (
    Column,
    Estimate,
    Goodbye,
    Hello,
    Losses,
    Outcome,
    ProbeCost,
    Quantity,
    Report,
    Run,
    Schema,
    unpack,
)
from probe_wire.estimate import BY_CODE

State = Literal["running", "silent", "finished"]
SILENT_AFTER_SECONDS = 60.0
RECENT_TRANSITIONS = 100
MOST_BYTES = 2**62
"""What is written down ends at 2^63."""


class SeriesKey(NamedTuple):
    """One series of a run: the rank that measured it, the quantity and its labels in sorted order."""

    rank: int
    quantity: str
    labels: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, rank: int, column: Column) -> "SeriesKey":
        """The key of a column reported by a rank."""
        return cls(rank, column.quantity, tuple(sorted(column.labels.items())))


class Latest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest point of a series; ``position`` is its place among the run's series as reported."""

    step: int
    estimate: Estimate
    position: int


@dataclass(slots=True)
class RankState:
    """What one rank of a run last said about itself."""

    step: int = 0
    last_heard: float = 0.0
    finished: bool = False
    training_seconds: float = 0.0
    probe_seconds: float = 0.0
    reports: int = 0
    lost: int = 0
    losses: Losses = field(default_factory=Losses)
    clock_ahead: float = math.nan
    """Seconds by which the collector's clock is ahead of the job's, as of its last greeting."""
    lag: float = math.nan
    """Seconds the newest report was on its way, by the collector's clock."""
    waiting: int = 0
    """Reports the agent had still to deliver when it last greeted."""

    @property
    def overhead_ratio(self) -> float:
        """The agent's share of the run's time so far, 0 to 1."""
        total = self.training_seconds + self.probe_seconds
        return self.probe_seconds / total if total > 0 else 0.0


@dataclass(slots=True)
class ProbeState:
    """What one probe cost a run and how its measurements came out."""

    seconds: float = 0.0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    last_problem: str = ""
    memory_raised: int = 0
    apart: bool = False


@dataclass(slots=True)
class Progress:
    """Of so many stored reports so many are judged again."""

    judged: int = 0
    reports: int = 0


@dataclass(slots=True)
class LiveRun:
    """One run as it stands now. ``label`` is its name, made unique among the runs kept in memory."""

    run: Run
    label: str
    first_heard: float
    ranks: dict[int, RankState] = field(default_factory=dict)
    quantities: dict[str, Quantity] = field(default_factory=dict)
    latest: dict[SeriesKey, Latest] = field(default_factory=dict)
    probes: dict[str, ProbeState] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    unjudged: Unused = field(default_factory=Unused)
    """Measurements of judged quantities that no verdict saw."""
    retrial: Progress | None = None
    """How far the run is judged again; what comes meanwhile is judged in its turn. None where it is judged as it comes."""
    transitions: deque[Transition] = field(default_factory=lambda: deque(maxlen=RECENT_TRANSITIONS))
    judged: list[Judged] = field(default_factory=list)
    """Every series that is judged, with the noise it is judged by."""
    series: set[SeriesKey] = field(default_factory=set)
    """Every series that a schema named."""
    _unsettled: dict[tuple[int, int], tuple[tuple[SeriesKey, ...], Schema, Report]] = field(default_factory=dict)
    _keys: dict[tuple[int, int], tuple[Schema, tuple[SeriesKey, ...]]] = field(default_factory=dict)
    claims: Counter[tuple[str, TransitionState]] = field(default_factory=Counter)
    """How often a claim of each machine came to each state."""
    transition_counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each ``(machine, to_phase)`` was entered; every possible pair is present, at 0 to begin with."""
    last_transition_time: dict[str, float] = field(default_factory=dict)
    """Unix time of the newest transition of each machine."""

    @property
    def step(self) -> int:
        """The furthest step any rank reported."""
        return max((rank.step for rank in self.ranks.values()), default=0)

    @property
    def last_heard(self) -> float:
        """When any rank was last heard, Unix seconds by the collector's clock."""
        return max((rank.last_heard for rank in self.ranks.values()), default=self.first_heard)

    def state(self, now: float) -> State:
        """Finished when every rank said goodbye; silent when none was heard for a minute."""
        if self.ranks and all(rank.finished for rank in self.ranks.values()):
            return "finished"
        return "silent" if now - self.last_heard > SILENT_AFTER_SECONDS else "running"

    def greet(self, hello: Hello, now: float, *, finished: bool) -> None:
        """The newest life of a rank is heard, perhaps again after it said goodbye."""
        said = self.ranks.setdefault(hello.rank, RankState())
        said.last_heard = now
        said.finished = finished
        said.step = max(said.step, hello.step)
        said.waiting = hello.waiting
        said.clock_ahead = now - hello.time if hello.time else math.nan

    def show(self, rank: int, schema: Schema, report: Report, now: float) -> None:
        """Take in a report."""
        said = self.ranks.get(rank)
        if said is None:
            said = self.ranks[rank] = RankState()
        said.step = max(said.step, report.step)
        said.last_heard = max(said.last_heard, now)
        said.reports += 1
        said.training_seconds = report.training_seconds
        said.probe_seconds = report.probe_seconds
        said.losses = report.losses
        said.lag = now - report.time - said.clock_ahead
        keys = self._keys_of(rank, schema)
        self._unsettled.pop((rank, schema.id), None)  # the newest comes last
        self._unsettled[rank, schema.id] = (keys, schema, report)
        self.charge(report.costs)

    def show_late(self, rank: int, report: Report, now: float) -> None:
        """Take in a report of an earlier life of a rank, delivered after a later one began: it costs what it cost, and nothing it says is new."""
        said = self.ranks.setdefault(rank, RankState())
        said.last_heard = max(said.last_heard, now)
        said.reports += 1
        self.charge(report.costs)

    def settle(self) -> dict[SeriesKey, Latest]:
        """The newest point of every series: looked up when somebody asks, and not for every report."""
        for keys, schema, report in self._unsettled.values():
            points = map(Latest, repeat(report.step), unpack(report, schema), count())
            self.latest.update(zip(keys, points, strict=True))
        self._unsettled.clear()
        return self.latest

    def _keys_of(self, rank: int, schema: Schema) -> tuple[SeriesKey, ...]:
        """The series of a schema's columns: made once, and not for every report."""
        of, keys = self._keys.get((rank, schema.id), (None, ()))
        if of is not schema:
            self.settle()  # another life of the rank may have named other series
            keys = tuple(SeriesKey.of(rank, column) for column in schema.columns)
            self._keys[rank, schema.id] = (schema, keys)
        return keys

    def charge(self, costs: Iterable[ProbeCost]) -> None:
        """Add what the probes of one report cost."""
        for cost in costs:
            probe = self.probes.get(cost.probe)
            if probe is None:
                probe = self.probes[cost.probe] = ProbeState()
            probe.seconds += cost.seconds
            probe.memory_raised = min(probe.memory_raised + cost.memory_raised, MOST_BYTES)
            probe.apart |= cost.apart
            outcome = BY_CODE[cost.outcome]
            probe.outcomes[outcome] += 1
            if outcome is not Outcome.OK:
                probe.last_problem = cost.detail or outcome.sentence

    def part(self, rank: int, goodbye: Goodbye, now: float) -> None:
        """A rank has said goodbye."""
        said = self.ranks.setdefault(rank, RankState())
        said.finished, said.last_heard, said.losses = True, now, goodbye.losses
        said.step = max(said.step, goodbye.step)

    def enter(self, transition: Transition, now: float) -> None:
        """A claim of a machine has come to a state; where it was detected, a phase is entered."""
        self.transitions.append(transition)
        self.claims[transition.machine, transition.state] += 1
        if transition.state == "detected":
            self.transition_counts[transition.machine, transition.to_phase] += 1
            self.last_transition_time[transition.machine] = now


class Live:
    """The runs in memory, at most ``capacity`` with ``most_series`` together; the longest unheard finished run makes room for a new one.

    The pipeline writes under ``lock``; a view holds it while it reads.
    """

    def __init__(self, capacity: int = 2000, most_series: int = 1_000_000) -> None:
        self.lock = threading.RLock()
        self.runs: dict[str, LiveRun] = {}
        self.capacity = capacity
        self.most_series = most_series
        self.evicted = 0

    def open(self, run: Run, now: float) -> LiveRun:
        """The live run of this identity, made when it is new."""
        found = self.runs.get(run.id)
        if found is not None:
            return found
        if len(self.runs) >= self.capacity:
            self._evict(now)
        taken = {other.label for other in self.runs.values()}
        label = run.name
        for suffix in (run.id[:6], run.id):  # ids that a scheduler gives begin alike
            label = f"{run.name}-{suffix}" if label in taken else label
        while label in taken:  # somebody named a run like that
            label += "'"
        opened = self.runs[run.id] = LiveRun(run=run, label=label, first_heard=now)
        return opened

    def takes(self, run_id: str, now: float) -> bool:
        """Whether there is room for a run: it is here, or another that does not report now can go."""
        if run_id in self.runs or (len(self.runs) < self.capacity and self._series() < self.most_series):
            return True
        return any(run.state(now) != "running" for run in self.runs.values())

    def has_room(self, series: int, of: LiveRun, now: float) -> bool:
        """Whether a run may have so many more series, as it may without any; others that do not report now go where they have to."""
        if self._series() + series <= self.most_series:
            return True
        going = [run for run in self.runs.values() if run is not of and run.state(now) != "running"]
        if series and self._series() + series > self.most_series + sum(len(run.series) for run in going):
            return False  # nobody goes in vain
        while going and self._series() + series > self.most_series:
            self._evict(now, keep=of)
            going.pop()
        return True

    def _series(self) -> int:
        return sum(len(run.series) for run in self.runs.values())

    def _evict(self, now: float, keep: LiveRun | None = None) -> None:
        rank = {"finished": 0, "silent": 1, "running": 2}
        others = (run for run in self.runs.values() if run is not keep)
        oldest = min(others, key=lambda run: (rank[run.state(now)], run.last_heard))
        del self.runs[oldest.run.id]
        self.evicted += 1
