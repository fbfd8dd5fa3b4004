"""Spans: the phases of a run as stretches of steps, also drawn from its transitions where no live engine holds them."""

from collections.abc import Iterable

import msgspec

from collector.phases.transition import Transition


class Span(msgspec.Struct, frozen=True):
    """A stretch of steps in one phase; ``until_step`` is None while it lasts."""

    machine: str
    subject: dict[str, str]
    phase: str
    since_step: int
    until_step: int | None = None


def spans_of(transitions: Iterable[Transition]) -> list[Span]:
    """Each machine's phases in order: the first from step 0, the last without an end.

    A claim retracted leads back to where it came from. A machine that never changed phase left no transition
    and is not among them.
    """
    tracks: dict[tuple[str, tuple[tuple[str, str], ...]], list[Span]] = {}
    entered = set[tuple[str, tuple[tuple[str, str], ...], int]]()
    for transition in transitions:
        key = (transition.machine, tuple(sorted(transition.subject.items())))
        claim = (*key, transition.ordinal)
        if transition.state == "detected":
            entered.add(claim)
            phase = transition.to_phase
        elif transition.state == "retracted" and claim in entered:
            phase = transition.from_phase
        else:
            continue
        spans = tracks.setdefault(key, [])
        if not spans:
            spans.append(Span(transition.machine, transition.subject, transition.from_phase, 0))
        last = spans.pop()
        until = max(last.since_step, transition.happened_step)  # hindsight may place two changes out of order
        spans.append(Span(last.machine, last.subject, last.phase, last.since_step, until))
        spans.append(Span(transition.machine, transition.subject, phase, until))
    return [span for spans in tracks.values() for span in spans]
