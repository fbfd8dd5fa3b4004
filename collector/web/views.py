"""What the page is told of a run, as plain records: JSON's keys are these names.

A number that is not known is null; msgspec writes NaN and infinities so.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count

import msgspec

from collector.live import SILENT_AFTER_SECONDS, LiveRun, Progress, State
from collector.phases import Judged, Machine, Span
from collector.store.queries import RunRow, SeriesRow
from probe_wire import Losses, Outcome, Quantity


class PhaseView(msgspec.Struct, frozen=True):
    """A phase of one machine on one subject, from a step to another (null: it lasts).

    ``hue`` is 0 for the phase a run begins in, else a number by which the page colours it: no two
    phases of the collector's machines share one, so their rules can be told apart on one chart.
    """

    machine: str
    subject: dict[str, str]
    phase: str
    meaning: str
    hue: int
    since_step: int
    until_step: int | None


class RankView(msgspec.Struct, frozen=True):
    """What one rank last said about itself."""

    rank: int
    step: int
    last_heard: float
    finished: bool
    training_seconds: float
    probe_seconds: float
    overhead_ratio: float
    reports: int
    lost: int
    losses: dict[str, int]


class ProbeView(msgspec.Struct, frozen=True):
    """What one probe cost so far and how its measurements came out, by outcome.

    ``memory_raised`` is by how many bytes it raised its process's memory; ``apart``, that this is not the training process.
    """

    probe: str
    seconds: float
    memory_raised: int
    apart: bool
    outcomes: dict[str, int]
    last_problem: str


class RunView(msgspec.Struct, frozen=True):
    """A run in the list. ``overhead_ratio`` and ``losses`` are null where no live run tells them.

    ``judging_again`` is how many of its stored reports are judged again so far, as they are after an upgrade; its phases are
    until then what was told of them. Null where its reports are judged as they come.
    """

    id: str
    name: str
    host: str
    pid: int
    started_at: float
    labels: dict[str, str]
    git_revision: str
    agent_version: str
    world_size: int
    last_heard: float
    step: int
    reports: int
    lost: int
    state: State
    finished: str | None
    overhead_ratio: float | None
    losses: dict[str, int] | None
    phases: list[PhaseView]
    judging_again: Progress | None = None


class QuantityView(msgspec.Struct, frozen=True):
    """A quantity, the probe that measures it, and how many of its series speak of the whole network and of single layers."""

    name: str
    unit: str
    help: str
    title: str
    scale: str
    probe: str
    whole: int
    layers: int


class OutcomeView(msgspec.Struct, frozen=True):
    """A code of the points' ``outcome`` column in words."""

    code: int
    label: str
    sentence: str


class RunDetail(msgspec.Struct, frozen=True):
    """Everything of a run but its points and transitions.

    ``judged`` is the noise of each series that a machine judges, with the phase that is suspected; it and ``ranks``,
    ``probes`` and ``unjudged`` are empty where the run is not in memory.
    """

    now: float
    run: RunView
    quantities: list[QuantityView]
    spans: list[PhaseView]
    ranks: list[RankView]
    probes: list[ProbeView]
    unjudged: dict[str, int]
    judged: list[Judged]
    outcomes: list[OutcomeView]


Known = Mapping[tuple[str, str], tuple[str, int]]
"""Of each machine's phases what they mean and their hue."""
OUTCOMES = [OutcomeView(int(outcome), outcome.label, outcome.sentence) for outcome in Outcome]


def run_view(row: RunRow, live: LiveRun | None, spans: Sequence[Span], known: Known, now: float) -> RunView:
    """A run as stored, with what only memory knows where it is there."""
    ranks = list(live.ranks.values()) if live else []
    total = sum(rank.training_seconds + rank.probe_seconds for rank in ranks)
    return RunView(
        id=row.id,
        name=row.name,
        host=row.host,
        pid=row.pid,
        started_at=row.started_at,
        labels=row.labels,
        git_revision=row.git_revision,
        agent_version=row.agent_version,
        world_size=row.world_size,
        last_heard=row.last_heard,
        step=row.step,
        reports=row.reports,
        lost=row.lost,
        state=live.state(now) if live else _stored_state(row, now),
        finished=row.finished,
        overhead_ratio=sum(rank.probe_seconds for rank in ranks) / total if total > 0 else None,
        losses=_sum([rank.losses for rank in ranks]) if ranks else None,
        phases=[phase_view(span, known) for span in spans if span.until_step is None],
        judging_again=live.retrial if live else None,
    )


def rank_views(live: LiveRun | None) -> list[RankView]:
    """The ranks of a run in order; none where it is not in memory."""
    return [
        RankView(
            rank=number,
            step=rank.step,
            last_heard=rank.last_heard,
            finished=rank.finished,
            training_seconds=rank.training_seconds,
            probe_seconds=rank.probe_seconds,
            overhead_ratio=rank.overhead_ratio,
            reports=rank.reports,
            lost=rank.lost,
            losses=_sum([rank.losses]),
        )
        for number, rank in sorted(live.ranks.items() if live else ())
    ]


def probe_views(live: LiveRun | None) -> list[ProbeView]:
    """The probes of a run, the dearest first."""
    found = [
        ProbeView(
            name,
            probe.seconds,
            probe.memory_raised,
            probe.apart,
            {outcome.label: n for outcome, n in sorted(probe.outcomes.items())},
            probe.last_problem,
        )
        for name, probe in (live.probes.items() if live else ())
    ]
    return sorted(found, key=lambda probe: -probe.seconds)


def quantity_views(quantities: Sequence[Quantity], series: Sequence[SeriesRow]) -> list[QuantityView]:
    """The quantities of a run in the order they are reported."""
    counts = Counter((row.quantity, "layer" in row.labels) for row in series)
    probes = {row.quantity: row.settings.get("probe", "") for row in series}
    return [
        QuantityView(
            name=quantity.name,
            unit=quantity.unit,
            help=quantity.help,
            title=quantity.title,
            scale=quantity.scale,
            probe=probes.get(quantity.name, ""),
            whole=counts[quantity.name, False],
            layers=counts[quantity.name, True],
        )
        for quantity in quantities
    ]


def known_phases(machines: Iterable[Machine]) -> Known:
    """The phases of some machines, each but the first with a hue of its own."""
    hues = count(1)
    return {
        (machine.name, phase.name): (phase.meaning, 0 if phase is machine.phases[0] else next(hues))
        for machine in machines
        for phase in machine.phases
    }


def phase_view(span: Span, known: Known) -> PhaseView:
    """A span with what its phase means and is coloured by."""
    meaning, hue = known.get((span.machine, span.phase)) or ("", _other_hue(span))
    return PhaseView(span.machine, span.subject, span.phase, meaning, hue, span.since_step, span.until_step)


def _other_hue(span: Span) -> int:
    """Of a phase that no machine of this collector knows: the same on every page."""
    return 0 if span.since_step == 0 else 1 + zlib.crc32(f"{span.machine} {span.phase}".encode()) % 100


def _stored_state(row: RunRow, now: float) -> State:
    if row.finished is not None:
        return "finished"
    return "silent" if now - row.last_heard > SILENT_AFTER_SECONDS else "running"


def _sum(losses: Sequence[Losses]) -> dict[str, int]:
    return {
        "reports_dropped": sum(loss.reports_dropped for loss in losses),
        "snapshots_skipped": sum(loss.snapshots_skipped for loss in losses),
        "scalars_dropped": sum(loss.scalars_dropped for loss in losses),
    }
