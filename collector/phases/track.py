"""Track: one machine following one subject of one run."""

import math

import msgspec

from collector.phases.evidence import evidence, rounded
from collector.phases.machine import Machine
from collector.phases.noise import Cleaned, clean
from collector.phases.series import CAP, Series
from collector.phases.transition import Transition
from collector.phases.verdict import Verdict, verdict

MAX_SPANS = 256
"""Phases remembered of one subject; a machine with a cycle could go round for as long as a run lasts."""


class Span(msgspec.Struct, frozen=True):
    """A stretch of steps in one phase; ``until_step`` is None while it lasts."""

    machine: str
    subject: dict[str, str]
    phase: str
    since_step: int
    until_step: int | None = None


class Track:
    """The series a machine judges, and the phases it has found in it.

    Evidence for the next turn is taken from the step where the last one *happened*, not from where
    it was known, so the probes in between count for both. Everything follows from the measurements
    in their order: the same measurements give the same transitions, to the byte.
    """

    def __init__(self, machine: Machine, subject: dict[str, str], cap: int = CAP) -> None:
        self.machine = machine
        self.subject = subject
        self.series = Series(machine.value_scale, machine.step_scale, cap)
        self.spans: list[Span] = []
        self._version = machine.version
        self._ordinal = 0

    def update(self, step: int, value: float, paired: float = math.nan) -> Transition | None:
        """The transition this measurement made known, if any."""
        if not self.recall(step, value, paired):
            return None
        turns = self.machine.turns_from(self.spans[-1].phase)
        if not turns or len(self.series) < min(turn.min_points for turn in turns):
            return None
        cleaned = clean(self.series.points(), relative=self.machine.value_scale == "log")
        probes = cleaned.since(self.spans[-1].since_step)
        verdicts = [verdict(turn, probes, self.machine.value_scale) for turn in turns]
        shown = [v for v in verdicts if v is not None]
        return self._transition(max(shown, key=lambda v: v.log_e), probes) if shown else None

    def recall(self, step: int, value: float, paired: float = math.nan) -> bool:
        """Take in a measurement that was judged in an earlier life; whether it belongs to the series."""
        if not self.series.append(step, value, paired):
            return False
        if not self.spans:
            self.spans.append(Span(self.machine.name, self.subject, self.machine.phases[0].name, step))
        return True

    def enter(self, transition: Transition) -> None:
        """Be in the phase a transition leads to."""
        self._ordinal = transition.ordinal
        at = transition.happened_step
        self.spans[-1] = msgspec.structs.replace(self.spans[-1], until_step=at)
        self.spans.append(Span(self.machine.name, self.subject, transition.to_phase, at))
        del self.spans[:-MAX_SPANS]

    def _transition(self, shown: Verdict, probes: Cleaned) -> Transition:
        at, first, last = (int(probes.steps[i]) for i in (shown.at.at, shown.at.first, shown.at.last))
        transition = Transition(
            machine=self.machine.name,
            machine_version=self._version,
            subject=self.subject,
            ordinal=self._ordinal + 1,
            from_phase=shown.turn.from_phase,
            to_phase=shown.turn.to_phase,
            happened_step=at,
            happened_between=(first, last),
            known_step=int(probes.steps[-1]),
            confidence=rounded(-math.expm1(-shown.log_e)),
            severity=shown.turn.severity,
            advice=shown.turn.advice,
            undo=shown.turn.undo,
            evidence=evidence(shown, probes, self.machine, self.subject),
        )
        self.enter(transition)
        return transition
