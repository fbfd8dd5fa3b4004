"""PhaseEngine: the measurements of one run in, its transitions out."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from collector.phases.machine import Machine, MachineError
from collector.phases.machines import MACHINES
from collector.phases.track import Span, Track
from collector.phases.transition import Transition
from probe_wire import Column, Estimate, Outcome

MAX_TRACKS = 512
"""Subjects followed in one run, over all machines: labels come from outside and each holds a series."""


class Unused(msgspec.Struct, frozen=True):
    """Measurements of a judged quantity that no verdict saw, counted by reason.

    ``not_ok``: the outcome was not OK. A value that has not converged is a bound or a rough guess,
    and from a bound to a value looks like a change. ``skipped``: not finite, or not positive on a
    logarithmic axis. ``behind``: at a step not beyond the last. ``thinned``: given up to a series'
    cap after it was judged. ``refused``: of a subject beyond ``MAX_TRACKS``.
    """

    not_ok: int = 0
    skipped: int = 0
    behind: int = 0
    thinned: int = 0
    refused: int = 0


class PhaseEngine:
    """Follows every machine on every subject of one run.

    A pure fold: it reads no clock and draws no random number, so feeding a stored run again finds
    the same. A restart is cheaper: `recall` what was reported, then `enter` what was found.

    A step at or before a subject's last is ignored and counted as ``behind``: after a resume from
    a checkpoint the run lives through its past again, and a report may be delivered twice. What was
    told of that stretch stands, and the series goes on where the run goes beyond it. A run begun anew
    needs an engine of its own.

    Of several ranks that measure one quantity the lowest is believed: usually rank 0, under pipeline
    parallelism the only one that sees the loss. The others' measurements are kept and shown, not judged.
    """

    def __init__(self, machines: Iterable[Machine] = MACHINES) -> None:
        self._machines: dict[str, list[Machine]] = {}
        names = set[str]()
        for machine in machines:
            if machine.name in names:
                raise MachineError(f"Got two machines named {machine.name!r}; a transition could not say whose it is.")
            names.add(machine.name)
            self._machines.setdefault(machine.quantity, []).append(machine)
        self._tracks: dict[tuple[str, tuple[tuple[str, str], ...]], Track] = {}
        self._believed: dict[str, int] = {}
        self._not_ok = 0
        self._refused = 0

    def update(self, step: int, measurements: Sequence[tuple[Column, Estimate]], rank: int = 0) -> list[Transition]:
        """The transitions that these measurements of one step and rank made known, in the measurements' order."""
        known = []
        for track, estimate in self._tracked(measurements, rank):
            if transition := track.update(step, estimate.value, estimate.paired):
                known.append(transition)
        return known

    def recall(self, step: int, measurements: Sequence[tuple[Column, Estimate]], rank: int = 0) -> None:
        """Take in measurements of one step that were judged before: `update` without its verdicts and their cost.

        To restore a run: recall its stored reports in their order, then `enter` its stored transitions.
        """
        for track, estimate in self._tracked(measurements, rank):
            track.recall(step, estimate.value, estimate.paired)

    def enter(self, transition: Transition) -> None:
        """Be in the phase a stored transition leads to; one of a machine this engine lacks is passed over."""
        track = self._tracks.get((transition.machine, tuple(sorted(transition.subject.items()))))
        if track is not None:
            track.enter(transition)

    def _tracked(self, measurements: Sequence[tuple[Column, Estimate]], rank: int) -> Iterator[tuple[Track, Estimate]]:
        """Each measurement that some machine judges, with the track it belongs to."""
        for column, estimate in measurements:
            for machine in self._machines.get(column.quantity, ()):
                if not machine.judges(column.labels) or self._believed.get(column.quantity, rank) < rank:
                    continue
                if estimate.outcome is not Outcome.OK:
                    self._not_ok += 1
                    continue
                self._believed[column.quantity] = rank
                track = self._track(machine, column.labels)
                if track:
                    yield track, estimate

    @property
    def phases(self) -> list[Span]:
        """Every phase the run has been in, subject by subject in the order they were first seen."""
        return [span for track in self._tracks.values() for span in track.spans]

    @property
    def unused(self) -> Unused:
        """What was measured and not judged, so far."""
        series = [track.series for track in self._tracks.values()]
        return Unused(
            not_ok=self._not_ok,
            skipped=sum(s.skipped for s in series),
            behind=sum(s.behind for s in series),
            thinned=sum(s.thinned for s in series),
            refused=self._refused,
        )

    def _track(self, machine: Machine, labels: dict[str, str]) -> Track | None:
        key = (machine.name, tuple(sorted(labels.items())))
        if key not in self._tracks:
            if len(self._tracks) >= MAX_TRACKS:
                self._refused += 1
                return None
            self._tracks[key] = Track(machine, dict(labels))
        return self._tracks[key]
