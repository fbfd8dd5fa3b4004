"""PhaseEngine: the measurements of one run in, its transitions out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from collector.phases.conditions import conditions
from collector.phases.machine import Given, Machine, MachineError, shared
from collector.phases.machines import MACHINES
from collector.phases.spans import Span
from collector.phases.track import Track
from collector.phases.transition import NoiseCard, Transition
from probe_wire import Column, Estimate, Outcome

ALPHA = 0.01
"""Probability that a run makes any false claim, over all its machines, subjects and turns."""
MAX_TRACKS = 512
"""Subjects followed in one run, over all machines: labels come from outside and each holds a series."""

Labels = tuple[tuple[str, str], ...]


class Unused(msgspec.Struct, frozen=True):
    """Measurements of a judged quantity that no verdict saw, counted by reason.

    ``not_ok``: the outcome was not OK. A value that has not converged is a bound or a rough guess,
    and from a bound to a value looks like a change. ``skipped``: not finite, or not positive on a
    logarithmic axis. ``behind``: at a step not beyond the last. ``refused``: of a subject beyond ``MAX_TRACKS``.
    ``outdated``: verdicts saw it, and do not any more, because the series was measured otherwise afterwards (`conditions`).
    """

    not_ok: int = 0
    skipped: int = 0
    behind: int = 0
    refused: int = 0
    outdated: int = 0


class Judged(msgspec.Struct, frozen=True):
    """What is known of one series that a machine judges: its noise, and the phase that is suspected."""

    machine: str
    subject: dict[str, str]
    quantity: str
    card: NoiseCard
    suspected: str | None = None


class PhaseEngine:
    """Follows every machine on every subject of one run.

    A pure fold: it reads no clock and draws no random number, so feeding a stored run again finds
    the same. A restart is cheaper: `restore` the `state` of an earlier life.

    ``alpha`` is the run's. Machines that test anything share it by weight; of one that judges layers, the i-th to appear
    gets 1/(i(i+1)) of its part. A step at or before a subject's last is ignored and counted as ``behind``: after
    a resume from a checkpoint the run lives through its past again, and a report may be delivered twice. What was
    told of that stretch stands, and the series goes on where the run goes beyond it. A run begun anew
    needs an engine of its own. Where a series is measured otherwise from one step on (another probe set, other draws:
    see `conditions`), its evidence begins anew there, in the phase it was in.

    Of several ranks that measure one quantity the lowest is believed: usually rank 0, under pipeline
    parallelism the only one that sees the loss. The others' measurements are kept and shown, not judged.
    """

    def __init__(self, machines: Iterable[Machine] = MACHINES, alpha: float = ALPHA) -> None:
        self._machines: dict[str, list[Machine]] = {}
        self._versions: dict[str, str] = {}
        machines = tuple(machines)
        for machine in machines:
            if machine.name in self._versions:
                raise MachineError(f"Got two machines named {machine.name!r}; a transition could not say whose it is.")
            self._versions[machine.name] = machine.version
            self._machines.setdefault(machine.quantity, []).append(machine)
        self._parts = shared(machines, alpha)
        self._told = {name for group in self._machines.values() for machine in group for name in machine.overhears()}
        self._latest: dict[tuple[str, Labels], float] = {}
        self._tracks: dict[tuple[str, Labels], Track] = {}
        self._believed: dict[str, int] = {}
        self._not_ok = 0
        self._refused = 0

    def minds(self, column: Column) -> bool:
        """Whether a measurement of a column can make a difference to any machine."""
        return column.quantity in self._machines or column.quantity in self._told

    def update(self, step: int, measurements: Sequence[tuple[Column, Estimate]], rank: int = 0) -> list[Transition]:
        """What these measurements of one step and rank made known, in the measurements' order."""
        self._overhear(measurements, rank)
        return [
            self._with_asides(track.machine, transition)
            for track, column, estimate in self._tracked(measurements, rank)
            for transition in track.update(step, estimate.value, estimate.paired, conditions(column.settings))
        ]

    @property
    def phases(self) -> list[Span]:
        """Every phase the run has been in, subject by subject in the order they were first seen."""
        return [span for track in self._tracks.values() for span in track.spans]

    def usual_gap(self, transition: Transition) -> int | None:
        """The usual distance in steps between probes of what a transition is about."""
        track = self._tracks.get((transition.machine, _sorted(transition.subject)))
        return track.observed.pace.usual() if track else None

    def remember(self, spans: Iterable[Span]) -> None:
        """Take the phases that were passed from what was told of them; the present ones are known better here."""
        told: dict[tuple[str, Labels], list[Span]] = {}
        for span in spans:
            told.setdefault((span.machine, _sorted(span.subject)), []).append(span)
        for key, known in told.items():
            if key in self._tracks:
                self._tracks[key].remember(known)

    @property
    def judged(self) -> list[Judged]:
        """Every series that is judged, with the noise it is judged by."""
        return [
            Judged(track.machine.name, track.subject, track.machine.quantity, track.observed.card(), track.suspected)
            for track in self._tracks.values()
        ]

    @property
    def unused(self) -> Unused:
        """What was measured and not judged, so far."""
        tracks = self._tracks.values()
        return Unused(
            not_ok=self._not_ok,
            skipped=sum(track.observed.skipped for track in tracks),
            behind=sum(track.observed.behind for track in tracks),
            refused=self._refused,
            outdated=sum(track.observed.outdated for track in tracks),
        )

    # -- to and from JSON -------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a later life needs to go on as this one would, as JSON has it."""
        return {
            "versions": dict(self._versions),
            "not_ok": self._not_ok,
            "refused": self._refused,
            "believed": dict(self._believed),
            "latest": [[quantity, dict(labels), value] for (quantity, labels), value in self._latest.items()],
            "tracks": [
                {"machine": name, "subject": dict(labels), "alpha": track.alpha, **track.state()}
                for (name, labels), track in self._tracks.items()
            ],
        }

    def restore(self, state: dict[str, Any]) -> bool:
        """Be as when the state was given; False, and unchanged, where it is of other versions of the machines."""
        if state["versions"] != self._versions:
            return False
        machines = {machine.name: machine for group in self._machines.values() for machine in group}
        tracks = {}
        for kept in state["tracks"]:
            track = self._made(machines[kept["machine"]], kept["subject"], kept["alpha"])
            track.restore(kept)
            tracks[kept["machine"], _sorted(kept["subject"])] = track
        latest = {(quantity, _sorted(labels)): value for quantity, labels, value in state["latest"]}
        self._not_ok, self._refused, self._believed = state["not_ok"], state["refused"], dict(state["believed"])
        self._latest, self._tracks = latest, tracks
        return True

    # -- which measurements are judged ------------------------------------------------------------

    def _tracked(
        self, measurements: Sequence[tuple[Column, Estimate]], rank: int
    ) -> Iterator[tuple[Track, Column, Estimate]]:
        """Each measurement that some machine judges, with the track it belongs to."""
        for column, estimate in measurements:
            for machine in self._machines.get(column.quantity, ()):
                if not machine.judges(column.labels) or self._believed.get(column.quantity, rank) < rank:
                    continue
                # A loss that is not finite is what a machine for divergence waits for.
                if estimate.outcome is not Outcome.OK and not (
                    machine.minds_infinity and estimate.outcome is Outcome.NON_FINITE
                ):
                    self._not_ok += 1
                    continue
                self._believed[column.quantity] = rank
                track = self._track(machine, column.labels)
                if track:
                    yield track, column, estimate

    def _track(self, machine: Machine, labels: dict[str, str]) -> Track | None:
        key = (machine.name, _sorted(labels))
        if key not in self._tracks:
            if len(self._tracks) >= MAX_TRACKS:
                self._refused += 1
                return None
            part = self._parts[machine.name]
            if machine.subject == "layer":
                i = 1 + sum(name == machine.name for name, _ in self._tracks)
                part /= i * (i + 1)
            self._tracks[key] = self._made(machine, dict(labels), part)
        return self._tracks[key]

    def _made(self, machine: Machine, labels: dict[str, str], alpha: float) -> Track:
        track = Track(machine, labels, alpha)
        track.observed.holds = self._holds
        return track

    # -- what other quantities say ----------------------------------------------------------------

    def _overhear(self, measurements: Sequence[tuple[Column, Estimate]], rank: int) -> None:
        for column, estimate in measurements:
            if self._believed.get(column.quantity, rank) < rank:
                continue
            if column.quantity in self._told and estimate.outcome is Outcome.OK:
                self._believed[column.quantity] = rank
                key = (column.quantity, _sorted(column.labels))
                if key in self._latest or len(self._latest) < MAX_TRACKS:
                    self._latest[key] = estimate.value

    def _holds(self, given: Given) -> bool:
        value = self._latest.get((given.quantity, _sorted(given.labels)))
        return value is not None and given.holds(value)

    def _with_asides(self, machine: Machine, transition: Transition) -> Transition:
        if transition.state == "retracted":
            return transition
        says = tuple(
            aside.says for aside in machine.asides if aside.to_phase == transition.to_phase and self._holds(aside)
        )
        if not says:
            return transition
        return msgspec.structs.replace(transition, evidence=msgspec.structs.replace(transition.evidence, asides=says))


def _sorted(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))
