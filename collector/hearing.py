"""Hearing: one run before its judge: the phase engine on its way through the reports, and how its claims are numbered."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import msgspec

from collector.log import event, logger
from collector.phases import PhaseEngine, Transition
from probe_wire import Column, Report, Schema, unpack_one

Subject = tuple[str, str]
"""A machine, and the labels of what it judges as JSON with sorted keys."""
Claim = tuple[int, str, str, int]
"""Ordinal, state, the phase that was claimed, and the step from which on."""
Claims = Mapping[Subject, set[Claim]]


@final
class Hearing:
    """Judges reports in their order. What earlier judges told of them is not told again.

    An engine of another version may find more or fewer claims in the past than were told. Where it does, the next it makes are
    numbered from the last that was told, so that no number stands for two claims; and what was told and is not found again is
    known as superseded.

    Args:
        run_id: whose.
        engine: as it was after a frame.
        at: that frame.
        told_until: up to this frame everything was judged before.
        told: what was told of the reports beyond ``at``.
        numbered: by how much the engine's own ordinals are short of those that are told, from an earlier life.
        superseded: what was told by other rules and not found again by these, from an earlier life: machine, subject, ordinal, state.
        before: the versions of the machines that judged the run before these did, by name.
        failed: told when the engine fails.
    """

    def __init__(
        self,
        run_id: str,
        engine: PhaseEngine,
        at: int,
        told_until: int,
        told: Claims,
        numbered: Iterable[tuple[str, str, int]] = (),
        superseded: Iterable[tuple[str, str, int, str]] = (),
        *,
        before: Mapping[str, str] | None = None,
        failed: Callable[[], None],
    ) -> None:
        self.run_id = run_id
        self.engine = engine
        self.at = at
        self.told_until = told_until
        self.stopped = False
        """The engine has failed; reports pass unjudged."""
        self._told = told
        self._found: dict[Subject, set[Claim]] = {}
        self._compared = False
        self._numbered = {(machine, subject): number for machine, subject, number in numbered}
        self.superseded = {(*each,) for each in superseded}
        """What was told and is not found by these rules: machine, subject as JSON, ordinal and state of each."""
        self._before = before
        self._failed = failed
        self._minded: dict[tuple[int, int], tuple[Schema, list[tuple[int, Column]]]] = {}

    def judge(self, frame_id: int, rank: int, schema: Schema, report: Report) -> list[Transition]:
        """What a report makes known that was not told before. An engine that fails judges no more; it says so and is counted."""
        self.at = frame_id
        if not (minded := self._minded_of(rank, schema)):
            return []
        try:
            measured = [(column, unpack_one(report, position)) for position, column in minded]
            found = self.engine.update(report.step, measured, rank)
        except Exception:  # noqa: BLE001 - whatever a machine stumbles over, reports go on being kept
            logger.exception("phases.failed")
            self.stop(report.step)
            return []
        if not found:
            return found
        if frame_id > self.told_until:
            self._compare()
            return [self._renumbered(each) for each in found]
        for each in map(self._renumbered, found):
            claim = each.ordinal, each.state, each.to_phase, each.happened_step
            self._found.setdefault(_subject(each), set()).add(claim)
        return []

    def stop(self, step: int) -> None:
        """Judge this run no more."""
        event("phases.stopped", logging.ERROR, run=self.run_id, step=step)
        self.engine, self.stopped = PhaseEngine(()), True
        self._failed()

    def stands(self, told: Transition) -> bool:
        """Whether what was told is found by these rules as well."""
        return (*_subject(told), told.ordinal, told.state) not in self.superseded

    def state(self) -> dict[str, Any]:
        """All that a later life needs to go on as this one would, as JSON has it."""
        self._compare()
        numbered = [[*subject, number] for subject, number in self._numbered.items()]
        return self.engine.state() | {
            "numbered": numbered,
            "superseded": sorted(self.superseded),
            "before": self._before,
        }

    def unfinished(self) -> dict[str, Any]:
        """The same where the reports that came last are not judged yet: a later life begins anew, and knows what was told."""
        return PhaseEngine(()).state() | {"told_until": self.told_until, "before": self._before}

    def _minded_of(self, rank: int, schema: Schema) -> list[tuple[int, Column]]:
        """The columns of a schema that make a difference to the engine, each with its position."""
        of, minded = self._minded.get((rank, schema.id), (None, []))
        if of is not schema:
            minded = [(i, column) for i, column in enumerate(schema.columns) if self.engine.minds(column)]
            self._minded[rank, schema.id] = (schema, minded)
        return minded

    def _compare(self) -> None:
        """See, once all that was judged before is judged again, where the numbers have to go on from what was told."""
        if self._compared:
            return
        self._compared = True
        for subject, told in self._told.items():
            found = self._found.get(subject, set())
            if {claim[:3] for claim in told} != {claim[:3] for claim in found}:
                self._numbered[subject] = max(ordinal for ordinal, *_ in told)
            self.superseded |= {(*subject, ordinal, state) for ordinal, state, *_ in told - found}
        self._told, self._found = {}, {}

    def _renumbered(self, transition: Transition) -> Transition:
        number = self._numbered.get(_subject(transition)) if self._numbered else None
        if not number:
            return transition
        return msgspec.structs.replace(transition, ordinal=transition.ordinal + number)


def _subject(transition: Transition) -> Subject:
    return transition.machine, json.dumps(transition.subject, sort_keys=True)
