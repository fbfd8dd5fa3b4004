"""Wishes: what the collector asks an agent to measure more often, because a transition in it is suspected."""

from collector.phases import PhaseEngine, Transition
from probe_wire import Tighten

WISHED_FOR = 12
"""For how many of the usual distances between probes."""


def wish_for(suspected: Transition, engine: PhaseEngine) -> Tighten | None:
    """The wish that a suspicion gives rise to; None where the usual distance between its probes is not known yet."""
    gap = engine.usual_gap(suspected)
    if gap is None:
        return None
    reason = f"{suspected.to_phase} is suspected: {suspected.evidence.sentence}"
    return Tighten(suspected.evidence.quantity, suspected.known_step + WISHED_FOR * gap, reason=reason[:2000])
