"""Real networks that memorise modular addition: one comes to understand it, one never does."""

import sys
from pathlib import Path

from collector.phases import MACHINES, PhaseEngine
from probe_agent import ListOutbox
from probe_wire import Outcome

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from modular_addition import train

STEPS = 1000
GROKKING = tuple(machine for machine in MACHINES if machine.name == "grokking")


def told(outbox: ListOutbox) -> dict[tuple[str, str], int]:
    """The step at which each state of each claim was told, as the reports came."""
    engine, found = PhaseEngine(GROKKING), {}
    for draft in outbox.drafts:
        measured = [(column, estimate) for _, column, estimate in draft.columns]
        for transition in engine.update(draft.step, measured, 0):
            found.setdefault((transition.to_phase, transition.state), draft.step)
    return found


def accuracies(outbox: ListOutbox) -> dict[int, float]:
    return {
        draft.step: estimate.value
        for draft in outbox.drafts
        for _, column, estimate in draft.columns
        if column.quantity == "probe_accuracy"
        and column.labels.get("split") == "test"
        and estimate.outcome == Outcome.OK
    }


def test_delayed_generalisation_is_told_as_it_begins() -> None:
    outbox = ListOutbox()
    accuracy = train(STEPS, outbox=outbox)
    found, curve = told(outbox), accuracies(outbox)
    memorised, generalising = found["memorised", "detected"], found["generalising", "detected"]
    assert memorised < 200
    assert curve[generalising] < accuracy / 2, "while most of it is still to come"
    assert generalising > 2 * memorised
    assert ("generalising", "confirmed") in found
    assert not {("generalising", "retracted"), ("forgetting", "detected")} & found.keys()


def test_a_network_that_only_memorises_is_not_said_to_generalise() -> None:
    outbox = ListOutbox()
    accuracy = train(STEPS, rate=0.001, weight_decay=0.0, outbox=outbox)
    found = told(outbox)
    assert accuracy < 0.05
    assert ("memorised", "confirmed") in found
    assert not [phase for phase, _ in found if phase == "generalising"]
