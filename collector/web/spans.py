"""The phases of a run as stretches of steps, drawn from its transitions where no live run holds them."""

from collections.abc import Iterable

from collector.phases import Span, Transition


def spans_of(transitions: Iterable[Transition]) -> list[Span]:
    """Each machine's phases in order: the first from step 0, the last without an end.

    A machine that never changed phase left no transition and is not among them.
    """
    tracks: dict[tuple[str, tuple[tuple[str, str], ...]], list[Transition]] = {}
    for transition in transitions:
        tracks.setdefault((transition.machine, tuple(sorted(transition.subject.items()))), []).append(transition)
    spans = []
    for (machine, _), track in tracks.items():
        subject = track[0].subject
        track.sort(key=lambda transition: transition.ordinal)
        since, phase = 0, track[0].from_phase
        for transition in track:
            until = max(since, transition.happened_step)  # hindsight may place two changes out of order
            spans.append(Span(machine, subject, phase, since, until))
            since, phase = until, transition.to_phase
        spans.append(Span(machine, subject, phase, since, None))
    return spans
