"""What a page says about one run itself: its state, ranks, probes, phases and transitions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import compress
from typing import get_args, get_type_hints

from collector.exporter import catalogue as c
from collector.exporter.names import Layers, label_pairs
from collector.exporter.room import Share
from collector.exporter.still import Still, Subject
from collector.exporter.text import Page, inside, line, number, numbers
from collector.live import State
from collector.phases.transition import NoiseCard
from collector.phases.transition import State as ClaimState
from probe_wire import Outcome

Machines = Mapping[str, Sequence[str]]
"""The phases of each machine, in their order."""

_TAKEN = frozenset({"run", "machine", "phase", "to_phase", "from_phase", "state", "quantity", "verdict"})
_VERDICTS: tuple[str, ...] = get_args(get_type_hints(NoiseCard)["verdict"])


def write_run(page: Page, still: Still, machines: Machines, share: Share) -> None:
    """The series without which a run could not be seen: always on the page, and charged to the run's share."""
    before, run = page.series, ("run", still.label)
    facts = [
        ("run_id", still.run.id),
        ("name", still.run.name),
        ("host", still.run.host),
        ("git_revision", still.run.git_revision),
        ("agent_version", still.run.agent_version),
        ("world_size", str(still.run.world_size)),
    ]
    own = label_pairs(((f"label_{name}", value) for name, value in sorted(still.run.labels.items())), taken=())
    page.add(c.RUN_INFO, [run, *facts, *own], 1)
    for state in get_args(State):
        page.add(c.RUN_STATE, [run, ("state", state)], state == still.state)
    page.add(c.RUN_STEP, [run], still.step)
    page.add(c.RUN_STARTED, [run], still.run.started_at)
    page.add(c.RUN_LAST_REPORT, [run], still.last_heard)
    for reason, count in still.unjudged.items():
        page.add(c.RUN_UNJUDGED, [run, ("reason", reason)], count)
    for machine, phases in machines.items():
        if (machine, ()) in still.current:  # what a run does not measure is not judged
            _write_phase(page, [run, ("machine", machine)], phases, still.current[machine, ()])
    for machine, seconds in still.last_transition_time.items():
        page.add(c.PHASE_LAST_TRANSITION, [run, ("machine", machine)], seconds)
    for (machine, to_phase), count in still.transition_counts.items():
        page.add(c.TRANSITIONS, [run, ("machine", machine), ("to_phase", to_phase)], count)
    for machine in dict.fromkeys(
        [*(machine for machine, _ in still.current), *(machine for machine, _ in still.claims)]
    ):
        for claimed in get_args(ClaimState):
            labels = [run, ("machine", machine), ("state", claimed)]
            page.add(c.PHASE_CLAIMS, labels, still.claims.get((machine, claimed), 0))
    share.charge(page.series - before)


def write_ranks(page: Page, still: Still, share: Share) -> None:
    """What each rank said about itself, as far as it is known."""
    shown = [rank for rank in still.ranks if share.take(len(c.OF_RANK), ("rank", rank))]
    lines = zip(*[_rank_lines(still.label, rank) for rank in shown], strict=True)
    figures = zip(*[still.ranks[rank] for rank in shown], strict=True)
    for family, of_family, values in zip(c.OF_RANK, lines, figures, strict=False):  # no lines where no rank is shown
        known = [*map(math.isfinite, values)]
        page.add_all(family, [*compress(of_family, known)], numbers([*compress(values, known)]))


@lru_cache(maxsize=20_000)
def _rank_lines(label: str, rank: int) -> list[bytes]:
    return [line(family.name, inside([("run", label), ("rank", str(rank))])) for family in c.OF_RANK]


@lru_cache(maxsize=20_000)
def _quantity_lines(label: str, quantity: str) -> list[bytes]:
    labels = [("run", label), ("quantity", quantity)]
    return [line(c.ESTIMATES.name, inside([*labels, ("outcome", outcome.label)])) for outcome in Outcome]


def write_probes(page: Page, still: Still, newest: Mapping[str, Sequence[int]], share: Share) -> None:
    """What each probe cost and how its measurements came out; how many ``newest`` estimates of each quantity did how."""
    run = ("run", still.label)
    for name, probe in still.probes.items():
        if share.take(2 + len(Outcome), ("probe", name)):
            page.add(c.PROBE_SECONDS, [run, ("probe", name)], probe.seconds)
            page.add(c.PROBE_MEMORY, [run, ("probe", name)], probe.memory_raised)
            for outcome in Outcome:
                page.add(c.PROBE_OUTCOMES, [run, ("probe", name), ("outcome", outcome.label)], probe.outcomes[outcome])
    for quantity, outcomes in newest.items():
        if share.take(len(Outcome), ("quantity", quantity)):
            page.add_all(c.ESTIMATES, _quantity_lines(still.label, quantity), [*map(number, outcomes)])


def write_transitions(page: Page, still: Still, machines: Machines, layers: Layers, share: Share) -> None:
    """The newest transition of each machine and subject, and the phases of subjects smaller than the network."""
    for (machine, subject), current in still.current.items():
        phases = machines.get(machine, ())
        if (subject or machine not in machines) and share.take(len(phases) + 2, ("phase", machine, subject)):
            _write_phase(page, _labels(still, machine, subject, layers), phases, current)
    for (machine, subject), made in still.newest.items():
        if share.take(3 + len(get_args(ClaimState)), ("transition", machine, subject)):
            labels = _labels(still, machine, subject, layers)
            for claimed in get_args(ClaimState):
                states = [*labels, ("to_phase", made.to_phase), ("state", claimed)]
                page.add(c.PHASE_CLAIM, states, claimed == made.state)
            page.add(c.TRANSITION_CONFIDENCE, labels, made.confidence)
            page.add(c.TRANSITION_HAPPENED, labels, made.happened_step)
            page.add(c.TRANSITION_KNOWN, labels, made.known_step)


def write_noise(page: Page, still: Still, layers: Layers, share: Share) -> None:
    """The noise that each judged series is judged by."""
    for judged in still.judged:
        subject, card = tuple(sorted(judged.subject.items())), judged.card
        if not share.take(4 + len(_VERDICTS), ("noise", judged.machine, subject)):
            continue
        labels = [*_labels(still, judged.machine, subject, layers), ("quantity", judged.quantity)]
        parts = (c.NOISE, card.believed), (c.NOISE_ESTIMATOR, card.estimator), (c.NOISE_PROCESS, card.process)
        for family, noise in parts:
            if noise is not None:
                page.add(family, labels, noise)
        page.add(c.NOISE_AUTOCORRELATION, labels, card.autocorrelation)
        for verdict in _VERDICTS:
            page.add(c.NOISE_VERDICT, [*labels, ("verdict", verdict)], verdict == card.verdict)


def _labels(still: Still, machine: str, subject: Subject, layers: Layers) -> list[tuple[str, str]]:
    return [("run", still.label), ("machine", machine), *label_pairs(layers.named(subject), _TAKEN)]


def _write_phase(page: Page, labels: Sequence[tuple[str, str]], phases: Iterable[str], current: str | None) -> None:
    """A StateSet, and its place in the list. A phase of another release is shown but has no place."""
    known = list(phases)
    shown = known if current is None or current in known else [*known, current]
    for phase in shown:
        page.add(c.PHASE, [*labels, ("phase", phase)], phase == current)
    if current in known:
        page.add(c.PHASE_CODE, labels, known.index(current))
