"""Track: one machine following one subject of one run."""

import math
from typing import Any

import msgspec
import numpy as np

from collector.phases import episode as life
from collector.phases.episode import Episode, Suspicion
from collector.phases.evidence import evidence
from collector.phases.figures import rounded
from collector.phases.machine import EQUIVALENCE, LEVEL, RAW, TESTED, Machine, Turn, When
from collector.phases.observed import Observed
from collector.phases.slopes import Steepest
from collector.phases.spans import Span
from collector.phases.transition import State, Transition
from collector.phases.verdict import Verdict

MAX_SPANS = 256
"""Phases remembered of one subject; a machine with a cycle could go round for as long as a run lasts."""
KEPT_SPANS = 8
"""Of which so many are in the state: what was told may be of other rules than these."""
FIRST = 0.8
"""Part of what is left of alpha that a phase gets each time it is entered."""
_REVERSE: dict[When, When] = {"rise": "fall", "fall": "rise"}


class Track:
    """The series a machine judges, and the phases it has found in it.

    Evidence for the next turn is taken from the step where the last one *happened*, not from where
    it was known, so the probes in between count for both. Everything follows from the measurements
    in their order: the same measurements give the same transitions, to the byte, and `state` is all that
    a later life needs to go on. ``alpha`` is the probability of a false claim allowed in the whole run:
    the first time a phase is entered its turns get ``FIRST`` of their shares of it, the next time that part of what is left.
    """

    def __init__(self, machine: Machine, subject: dict[str, str], alpha: float) -> None:
        self.machine = machine
        self.subject = subject
        self.alpha = alpha
        self.observed = Observed(machine)
        self.spans: list[Span] = []
        self._version = machine.version
        self._turns = {phase.name: machine.turns_from(phase.name) for phase in machine.phases}
        self._backs: dict[int, Turn | None] = {}
        self._ordinal = 0
        self._entered: dict[str, int] = {}
        self._suspicion: Suspicion | None = None
        self._episode: Episode | None = None
        self._conditions = ""

    @property
    def phase(self) -> str:
        """The phase at present."""
        return self.spans[-1].phase if self.spans else self.machine.phases[0].name

    @property
    def suspected(self) -> str | None:
        """The phase that is suspected and not yet detected."""
        return self._suspicion.told.to_phase if self._suspicion else None

    @property
    def _watched_closely(self) -> bool:
        """Whether its probe may be measured more often than usual, because a claim is not certain yet."""
        return self._suspicion is not None or (self._episode is not None and not self._episode.confirmed)

    # -- a measurement ----------------------------------------------------------------------------

    def update(self, step: int, value: float, paired: float = math.nan, conditions: str = "") -> list[Transition]:
        """What this measurement made known; usually nothing. Under other ``conditions`` than the last, evidence begins anew."""
        if not self.observed.admits(step, value):
            return []
        if not self.spans:
            self._enter(self.machine.phases[0].name, step)
            self._conditions = conditions
        known = self._begun_anew(step) if conditions != self._conditions else []
        self._conditions = conditions
        whole = self.observed.take(step, value, paired, dense=self._watched_closely)
        if whole:
            known += self._followed(step)
        turns = self._turns[self.phase]
        least = 0.0 if self._suspicion else life.SUSPECTED
        cases = self.observed.cases(step, turns, self._alpha, least) if whole else []
        shown = [case for case in cases if case.shown and self.observed.lasts(case) and not self.observed.walks(case)]
        shown += self.observed.at_once(turns)
        if shown:
            known += self._detected(max(shown, key=lambda case: case.log_e), step)
        elif whole:
            known += self._suspected(cases, step)
        return known

    def _begun_anew(self, step: int) -> list[Transition]:
        """What is taken back where the series is measured otherwise from a step on.

        A phase was entered by evidence of its own and lasts. What is suspected, or waits for its confirmation before anybody
        acts on it, cannot be followed any more and has to be shown anew. It is a further chance to be wrong, so it
        has its part of what is left of alpha, as if the phase were entered again.
        """
        suspicion, open_ = self._suspicion, self._episode
        self._suspicion = self._episode = None
        self.observed.restart(step)
        told = [suspicion.told] if suspicion else []
        if open_ is not None and not open_.confirmed and self.machine.turns[open_.turn].act == "confirmed":
            told.append(open_.detected)
            self._enter(open_.detected.from_phase, step)
        else:
            self._entered[self.phase] += 1
        return [life.outdated(claim, step) for claim in told]

    def _alpha(self, turn: Turn) -> float:
        return (
            self.alpha * self.machine.alpha(turn) * FIRST * (1.0 - FIRST) ** (self._entered.get(turn.from_phase, 1) - 1)
        )

    # -- the life of a claim ----------------------------------------------------------------------

    def _detected(self, case: Verdict, step: int) -> list[Transition]:
        """The claim; a suspicion of another way out of the phase is withdrawn before it."""
        suspicion, self._suspicion = self._suspicion, None
        turn = self.machine.turns.index(case.turn)
        withdrawn = []
        if suspicion is not None and suspicion.turn != turn:
            withdrawn, suspicion = [suspicion.withdrawn(step)], None
        if suspicion is None:
            self._ordinal += 1
        transition = self._transition(case, step, "detected", suspicion.told.known_step if suspicion else None)
        hold, few, before = life.HOLD, False, Steepest()
        if case.turn.when in TESTED:
            buckets = self.observed.trends.buckets()
            few = float(buckets.n.sum()) < life.SIGNS_FROM
            hold = life.hold_after(buckets, int(np.searchsorted(buckets.last, transition.happened_step)))
        elif case.turn.when in EQUIVALENCE:
            before = self.observed.trends.steepest()
        far = self.observed.far(case)
        self._episode = Episode(turn, transition, hold, few=few, far=far, slope=before.slope, whole=before.whole)
        self._enter(case.turn.to_phase, transition.happened_step, as_level=case.turn.when in LEVEL)
        return [*withdrawn, transition]

    def _suspected(self, cases: list[Verdict], step: int) -> list[Transition]:
        """A claim newly suspected, or a suspicion that lapsed."""
        best = max((case for case in cases if case.turn.when in TESTED), key=lambda case: case.log_e, default=None)
        if self._suspicion is None:
            if best is None or best.log_e < life.SUSPECTED:
                return []
            self._ordinal += 1
            told = self._transition(best, step, "suspected", step, but=self._held_back(best))
            self._suspicion = Suspicion(self.machine.turns.index(best.turn), told)
            return [told]
        suspicion = self._suspicion
        held = any(case.log_e > 0.0 for case in cases if self.machine.turns.index(case.turn) == suspicion.turn)
        suspicion.without = 0 if held else suspicion.without + 1
        if suspicion.without < life.LAPSED_AFTER:
            return []
        self._suspicion = None
        return [suspicion.withdrawn(step)]

    def _held_back(self, case: Verdict) -> str:
        """Why evidence that would suffice is not claimed."""
        if not case.shown:
            return ""
        if self.observed.walks(case):
            return "a random walk of such steps would go as far, and is not ruled out"
        if self.observed.outgrown:
            return "of the newest probes too many lie far out for the noise that was seen before"
        return "the signs of single pairs of probes do not agree yet"

    def _followed(self, step: int) -> list[Transition]:
        """What became of the claim detected last."""
        open_ = self._episode
        if open_ is None:
            return []
        turn = self.machine.turns[open_.turn]
        open_.stood += 1
        if turn.when in EQUIVALENCE:
            return self._level_followed(open_, turn, step)
        if turn.when not in TESTED:
            return self._confirmed(open_, step) if not open_.confirmed and open_.stood >= open_.hold else []
        if back := self._reversed(open_, turn, step):
            return [back]
        if open_.confirmed or open_.stood < open_.hold:
            return []
        mean = self.observed.trends.mean(open_.hold)
        if not open_.agreed:
            was = open_.detected.evidence.before.mean or 0.0
            open_.agreed = self.observed.agrees(turn, life.SECOND_KEY) or (
                open_.few and self.observed.beyond_noise(was, mean)
            )
        if open_.ripe() and open_.stands(turn, mean) and self._is_no_walk(open_):
            return self._confirmed(open_, step)
        return []

    def _level_followed(self, open_: Episode, turn: Turn, step: int) -> list[Transition]:
        """A level is confirmed where it still is one after its hold, and taken back where the curve has moved on before."""
        if open_.confirmed:
            return []
        before = Steepest(open_.slope, whole=open_.whole)
        still = self.observed.trends.still(turn, before, open_.detected.evidence.after.mean or 0.0)
        if isinstance(still, bool):
            lasts = still and open_.stood >= open_.hold and self._is_no_walk(open_)
            return self._confirmed(open_, step) if lasts else []
        withdrawn = self._withdrawn(open_, turn, still, step)
        self.observed.trends.resume(before)
        return [withdrawn]

    def _is_no_walk(self, open_: Episode) -> bool:
        return open_.far or self.observed.assessable() or self.observed.few

    def _confirmed(self, open_: Episode, step: int) -> list[Transition]:
        open_.confirmed = True
        turn = self.machine.turns[open_.turn]
        changes = {"state": "confirmed", "known_step": step, "act": turn.act == "confirmed"}
        return [msgspec.structs.replace(open_.detected, **changes)]

    def _reversed(self, open_: Episode, turn: Turn, step: int) -> Transition | None:
        """The claim withdrawn, where the curve has certainly come back and no turn of the machine is for that."""
        if open_.turn not in self._backs:
            self._backs[open_.turn] = self._back(turn)
        back = self._backs[open_.turn]
        if back is None:
            return None
        alpha = open_.detected.evidence.alpha
        cases = self.observed.trends.verdicts((back,), lambda _: alpha, math.log(1.0 / alpha))
        if not cases or not cases[0].shown or not open_.gone(turn, cases[0].after.mean or 0.0):
            return None
        return self._withdrawn(open_, turn, cases[0], step)

    def _back(self, turn: Turn) -> Turn | None:
        """The way back of a turn, where no turn of the machine is for that."""
        when = _REVERSE[turn.when]
        if any(other.when == when for other in self._turns[turn.to_phase]):
            return None
        return Turn(
            from_phase=turn.to_phase,
            to_phase=turn.from_phase,
            when=when,
            min_effect=turn.min_effect,
            severity=turn.severity,
        )

    def _withdrawn(self, open_: Episode, turn: Turn, case: Verdict, step: int) -> Transition:
        """The claim taken back on the evidence of a case, and the phase before it entered again."""
        withdrawn = msgspec.structs.replace(
            open_.detected,
            state="retracted",
            known_step=step,
            confidence=rounded(-math.expm1(-case.log_e)),
            happened_step=case.happened[0],
            happened_between=case.happened[1:],
            evidence=evidence(case, self.machine, self.subject, self.observed.card()),
            advice=turn.undo,
            undo="",
            act=open_.confirmed or turn.act == "detected",  # only who was told has something to undo
        )
        self._episode = None
        self._enter(turn.from_phase, withdrawn.happened_step)
        return withdrawn

    def _transition(self, case: Verdict, step: int, state: State, suspected: int | None, but: str = "") -> Transition:
        at, first, last = case.happened
        if case.turn.when not in RAW and first <= self.observed.trends.buckets().first[0]:
            first = self.spans[-1].since_step  # it was measured otherwise before, or not yet
        return Transition(
            machine=self.machine.name,
            machine_version=self._version,
            subject=self.subject,
            ordinal=self._ordinal,
            from_phase=case.turn.from_phase,
            to_phase=case.turn.to_phase,
            happened_step=at,
            happened_between=(first, last),
            known_step=step,
            confidence=rounded(-math.expm1(-max(case.log_e, 0.0))),
            severity=case.turn.severity,
            advice=case.turn.advice,
            undo=case.turn.undo,
            evidence=evidence(case, self.machine, self.subject, self.observed.card(), but),
            state=state,
            suspected_step=suspected,
            act=state == case.turn.act,
        )

    def _enter(self, phase: str, at: int, *, as_level: bool = False) -> None:
        """Be in a phase since a step."""
        self._entered[phase] = self._entered.get(phase, 0) + 1
        if self.spans:
            self.spans[-1] = msgspec.structs.replace(self.spans[-1], until_step=at)
            self.observed.enter(at, as_level=as_level)
        self.spans.append(Span(self.machine.name, self.subject, phase, at))
        del self.spans[:-MAX_SPANS]

    def remember(self, spans: list[Span]) -> None:
        """Take the phases that were passed from what was told of them, unless more is known here."""
        if len(spans) > len(self.spans) and self.spans and spans[-1].phase == self.phase:
            self.spans = spans[-MAX_SPANS:]

    # -- to and from JSON -------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a later life needs to go on as this one would, as JSON has it."""
        return {
            "ordinal": self._ordinal,
            "conditions": self._conditions,
            "entered": dict(self._entered),
            "observed": self.observed.state(),
            "span": msgspec.to_builtins(self.spans[-KEPT_SPANS:]),
            "suspicion": msgspec.to_builtins(self._suspicion),
            "episode": msgspec.to_builtins(self._episode),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when the state was given; of the phases passed only the latest are in it."""
        self._ordinal, self._entered = state["ordinal"], dict(state["entered"])
        self._conditions = state["conditions"]
        self.observed.restore(state["observed"])
        self.spans = msgspec.convert(state["span"], list[Span])
        self._suspicion = msgspec.convert(state["suspicion"], Suspicion | None)
        self._episode = msgspec.convert(state["episode"], Episode | None)
