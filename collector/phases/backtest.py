"""Back-test of one series: what hindsight says of each turn of a machine, beside what was told while it was running."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from collector.phases.hindsight import pelt
from collector.phases.hindsight.label import PENALTY, Label, Shape, label
from collector.phases.hindsight.past import GAIN, LEAST, Past, past
from collector.phases.hindsight.pieces import Way
from collector.phases.machine import TESTED, Machine, Turn
from collector.phases.score import Scored, scored
from collector.phases.transition import Transition
from collector.phases.turning_point import COVER

_REVERSE = {"rise": "fall", "fall": "rise"}
_PATTERN: dict[Shape, tuple[Way, Way]] = {"peak": ("rise", "fall"), "valley": ("fall", "rise")}


class Judgement(msgspec.Struct, frozen=True):
    """One turn in one series: the label of hindsight, the step at which it was first detected, and how the two compare."""

    machine: str
    subject: dict[str, str]
    from_phase: str
    to_phase: str
    label: Label
    known_step: int | None
    scored: Scored


class Series(msgspec.Struct, frozen=True):
    """A stored series, columns of one length; ``paired`` are standard errors or NaN."""

    steps: Sequence[int]
    values: Sequence[float]
    paired: Sequence[float]

    def only(self, kept: Sequence[int]) -> "Series":
        """The points at these places."""
        columns = (self.values, self.paired)
        return Series([self.steps[i] for i in kept], *([column[i] for i in kept] for column in columns))


def judgements(
    machine: Machine, subject: dict[str, str], series: Series, told: Sequence[Transition]
) -> Iterator[Judgement]:
    """Every turn that was tested in the series of a subject, in the phases it has been in; ``told`` are its transitions in order.

    A turn is judged the first time the phase before it was entered, on all that came until the phase after it was
    left again for another. Only what a machine tests has a label: of the other rules hindsight knows no more than they do.
    """
    visits = _visits(machine, told)
    for i, (phase, entered_by, since) in enumerate(visits):
        if phase in {earlier for earlier, _, _ in visits[:i]}:
            continue
        for turn in (one for one in machine.turns_from(phase) if one.when in TESTED):
            taken = i + 1 < len(visits) and visits[i + 1][0] == turn.to_phase
            after = visits[i + 1 + taken :]
            known = [one for one in told if _is(one, turn) and one.state == "detected"]
            claim = known[0] if known else None
            gone = claim is not None and any(one.state == "retracted" and one.ordinal == claim.ordinal for one in told)
            until = after[0][2] if after and not gone else None
            found = truth(machine, turn, entered_by, _part(series, since, until))
            if turn.given and found.happened and claim is None:
                found = Label(found.kind, None, reason="other quantities have a say in it")
            yield Judgement(
                machine.name,
                subject,
                turn.from_phase,
                turn.to_phase,
                found,
                None if claim is None else claim.known_step,
                scored(found, [one.known_step for one in known]),
            )


def truth(machine: Machine, turn: Turn, entered_by: str | None, series: Series) -> Label:
    """Whether a rise or fall truly took place in a stretch that begins with the phase it would leave.

    Out of a phase that began with the opposite it is a peak or a valley, as `hindsight` labels it; out of another it need
    not have anything before it. What is less than the turn asks for is not labelled.
    """
    columns = (series.steps, series.values, series.paired)
    shape: Shape = "peak" if turn.when == "fall" else "valley"
    seen = past(*columns, machine.value_scale, machine.step_scale)
    if seen is None:
        return Label(shape, None, reason=f"fewer than {LEAST} values that can be judged, or all the same")
    if entered_by == _REVERSE[turn.when]:
        found = label(*columns, shape, value_scale=machine.value_scale, step_scale=machine.step_scale)
    else:
        found = _dated(
            _moved(seen, shape),
            label(*columns, "onset", value_scale=machine.value_scale, step_scale=machine.step_scale),
        )
    if found.step is not None and not _matters(series, turn, found.step):
        return Label(shape, None, reason="it is less than the turn asks for")
    return found


def _moved(seen: Past, shape: Shape) -> Label:
    """Whether a curve that rises at last (falls, for a peak) fits better than one that never does, and the levels agree."""
    pattern = _PATTERN[shape]
    saved = seen.pieces.fit(pattern[:1]).error - seen.pieces.fit(pattern).error
    by_levels = _levels_moved(seen, 1.0 if shape == "valley" else -1.0)
    if saved < seen.gain:
        if saved > GAIN / 2 or by_levels:
            return Label(shape, None, reason=seen.refusal or "it is neither shown nor ruled out")
        return Label(shape, happened=False, reason="a curve without it fits as well")
    if seen.refusal or not by_levels:
        return Label(shape, None, reason=seen.refusal or "the fitted curve moves and the levels do not")
    error = seen.pieces.joins(pattern)
    mass = np.cumsum(np.exp(-0.5 * (error - error.min()) / seen.inflation))
    ends = np.searchsorted(mass / mass[-1], ((1.0 - COVER) / 2, 0.5, (1.0 + COVER) / 2))
    first, at, last = (int(seen.steps[min(max(int(i) - 1, 0), seen.y.size - 1)]) for i in ends)
    return Label(shape, happened=True, step=at, between=(first, last))


def _dated(found: Label, onset: Label) -> Label:
    """The label at the onset, where a level came before it: in a level the lowest point is anywhere."""
    if found.between is None or onset.between is None or onset.step is None or onset.step < found.between[0]:
        return found
    between = (min(found.between[0], onset.between[0]), max(onset.between[1], onset.step))
    return Label(found.kind, happened=True, step=onset.step, between=between)


def _levels_moved(seen: Past, sign: float) -> bool:
    """Whether the last level lies beyond an earlier one without doubt."""
    penalty = PENALTY * seen.inflation
    ends = [0, *pelt.changes(seen.y, seen.sigma, penalty), seen.y.size]
    level = sign * pelt.levels(seen.y, seen.sigma, penalty)[ends[:-1]]
    variance = 1.0 / np.add.reduceat(1.0 / seen.sigma**2, ends[:-1])
    move = level[-1] - level[:-1]
    return bool(np.any((move > 0.0) & (move**2 > penalty * (variance[:-1] + variance[-1]))))


def _matters(series: Series, turn: Turn, step: int) -> bool:
    """Whether what follows a step differs by the least effect, and comes to lie where the turn asks; by medians, for wild probes."""
    steps, values = np.asarray(series.steps), np.asarray(series.values)
    finite = np.isfinite(values)
    at, values = int(np.searchsorted(steps[finite], step)), values[finite]
    after = values[at + 1 :]
    if not after.size:
        return False
    before, later, end = (float(np.median(part)) for part in (values[max(at - 2, 0) : at + 3], after, after[-LEAST:]))
    return abs(later - before) >= turn.min_effect * abs(before) and bool(turn.admits(np.array([later, end])).any())


class _Visit(NamedTuple):
    phase: str
    entered_by: str | None
    since: int


def _visits(machine: Machine, told: Sequence[Transition]) -> list[_Visit]:
    """The phases a series has been in, by which turn, and since which step; not those that were taken back."""
    visits = [_Visit(machine.phases[0].name, None, 0)]
    entered = set[int]()
    for one in told:
        if one.state == "detected":
            entered.add(one.ordinal)
            when = next((turn.when for turn in machine.turns if _is(one, turn)), None)
            visits.append(_Visit(one.to_phase, when, one.happened_step))
        elif one.state == "retracted" and one.ordinal in entered:
            visits.pop()
    return visits


def _is(one: Transition, turn: Turn) -> bool:
    return (one.from_phase, one.to_phase) == (turn.from_phase, turn.to_phase)


def _part(series: Series, since: int, until: int | None) -> Series:
    """The points from a step to another; what is before it may be the past of another life of the run, and is left out."""
    kept = [i for i, step in enumerate(series.steps) if step >= since and (until is None or step <= until)]
    return series.only(kept)
