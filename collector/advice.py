"""Advice: what a transition says to the training loop."""

from collector.phases import Transition
from probe_wire import Advice


def advice_of(transition: Transition) -> Advice:
    """The message; a retraction leads back, as a loop that acts on phases must see that the run is where it came from."""
    way = (transition.from_phase, transition.to_phase)
    return Advice(
        transition.machine,
        *(way[::-1] if transition.state == "retracted" else way),
        transition.happened_step,
        transition.known_step,
        transition.confidence,
        transition.severity,
        transition.advice,
        transition.evidence.sentence[:2000],
        transition.undo,
    )
