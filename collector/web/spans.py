"""The phases of a run as stretches of steps, drawn from its transitions where no live run holds them."""

from collections.abc import Iterable

from collector.live import PhaseSpan
from collector.phases.transition import Transition

Subject = tuple[tuple[str, str], ...]


def spans_of(transitions: Iterable[Transition]) -> list[PhaseSpan]:
    """Each machine's phases in order: the first from step 0, the last without an end.

    A machine that never changed phase left no transition and is not among them.
    """
    tracks: dict[tuple[str, Subject], list[Transition]] = {}
    for transition in transitions:
        subject = tuple(sorted(transition.subject.items()))
        tracks.setdefault((transition.machine, subject), []).append(transition)
    spans = []
    for (machine, subject), track in tracks.items():
        track.sort(key=lambda transition: transition.ordinal)
        since, phase = 0, track[0].from_phase
        for transition in track:
            until = max(since, transition.happened_step)  # hindsight may place two changes out of order
            spans.append(PhaseSpan(machine, subject, phase, since, until))
            since, phase = until, transition.to_phase
        spans.append(PhaseSpan(machine, subject, phase, since, None))
    return spans
