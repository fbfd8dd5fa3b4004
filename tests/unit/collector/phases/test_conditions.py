"""No evidence is taken across a change of what a series is measured with: probe set, random stream, the probe's settings."""

import json

import msgspec
import numpy as np
import pytest

from collector.phases import Machine, PhaseEngine, Transition
from collector.phases.conditions import conditions
from collector.phases.track import FIRST
from probe_wire import Column, Estimate
from tests.phase_runs import entered, machine, states, turn

PEAK = machine(
    "before rising passed",
    turn("before", "rising", "rise", min_effect=0.1),
    turn("rising", "passed", "fall", act="confirmed", advice="take it off", undo="put it back"),
)
DROP = machine("flat dropped", turn("flat", "dropped", "fall", advice="take it off"))
LATE = machine("flat dropped", turn("flat", "dropped", "fall", act="confirmed", advice="take it off"))
ONE = {"probe": "fisher_trace", "probe_set": "a1b2c3d4", "seed": "0", "n": "256", "labels": "exact"}
OTHER = ONE | {"probe_set": "e5f6a7b8"}
CHANGED = 1000
"""The step from which on it is measured otherwise."""


def ramps(*pieces: tuple[float, float, int], seed: int = 0, sd: float = 0.15) -> list[float]:
    mean = 10.0 + np.concatenate([np.linspace(a, b, n) for a, b, n in pieces])
    return [float(value) for value in mean + sd * np.random.default_rng(seed).standard_normal(mean.size)]


RISE_AND_STEP = ramps((0, 10, 60), (10, 10, 40), (6, 6, 80))  # at the change it is lower, and goes on as it was
RISE_AND_FALL = ramps((0, 10, 60), (10, 10, 40), (10, 4, 80))
FALL = ramps((0, 0, 60), (0, -3, 100), sd=0.5)


def judged(
    phases: PhaseEngine, values: list[float], after: dict[str, str] = ONE, at: int = CHANGED
) -> list[Transition]:
    return [
        told
        for step, value in zip(range(0, 10 * len(values), 10), values, strict=True)
        for told in phases.update(step, [(Column("q", {}, after if step >= at else ONE), Estimate(value))])
    ]


@pytest.mark.parametrize("name", ["probe", "probe_set", "seed", "n", "labels", "configuration", "radius", "precision"])
def test_a_drop_where_what_it_is_measured_with_changes_is_no_fall(name: str) -> None:
    alike, changed = PhaseEngine([PEAK]), PhaseEngine([PEAK])
    assert entered(judged(alike, RISE_AND_STEP)) == ["rising", "passed"]
    assert entered(judged(changed, RISE_AND_STEP, ONE | {name: "another"})) == ["rising"]
    assert (alike.unused.outdated, changed.unused.outdated) == (0, 100)
    assert [one.card.restarts for one in (*alike.judged, *changed.judged)] == [0, 1]
    assert changed.judged[0].card.probes < 80


def test_a_setting_that_goes_away_is_a_change() -> None:
    phases = PhaseEngine([PEAK])
    assert entered(judged(phases, RISE_AND_STEP, {k: v for k, v in ONE.items() if k != "seed"})) == ["rising"]


def test_a_remark_that_differs_from_probe_to_probe_is_no_change() -> None:
    assert conditions(
        ONE | {"unfilled": "0.1", "products": "31", "certificate": "agrees", "route": "loop"}
    ) == conditions(ONE)
    phases = PhaseEngine([PEAK])
    assert entered(judged(phases, RISE_AND_STEP, ONE | {"reason": "too small"})) == ["rising", "passed"]
    assert phases.unused.outdated == 0


def test_a_fall_after_the_change_is_claimed_on_what_came_after_it() -> None:
    phases = PhaseEngine([PEAK])
    told = judged(phases, RISE_AND_FALL, OTHER)
    assert entered(told) == ["rising", "passed"]
    passed = told[-1]
    assert passed.state == "confirmed"
    assert passed.evidence.before.first_step >= CHANGED
    assert passed.happened_step >= CHANGED
    assert passed.evidence.card is not None
    assert passed.evidence.card.restarts == 1
    assert passed.evidence.alpha == pytest.approx(0.01 / 2 * FIRST * (1 - FIRST))  # a second chance to be wrong


def test_a_new_life_of_the_run_with_the_same_settings_goes_on() -> None:
    straight, resumed = PhaseEngine([PEAK]), PhaseEngine([PEAK])
    whole = judged(straight, RISE_AND_FALL)
    told = judged(resumed, RISE_AND_FALL[:80])
    for step in range(500, 800, 10):
        told += resumed.update(step, [(Column("q", {}, dict(ONE)), Estimate(RISE_AND_FALL[step // 10]))])
    told += [
        found
        for step in range(800, 1800, 10)
        for found in resumed.update(step, [(Column("q", {}, dict(ONE)), Estimate(RISE_AND_FALL[step // 10]))])
    ]
    assert [msgspec.json.encode(one) for one in told] == [msgspec.json.encode(one) for one in whole]
    assert (resumed.unused.behind, resumed.unused.outdated) == (30, 0)


def test_a_new_life_that_measures_otherwise_begins_anew_only_where_it_passes_the_past() -> None:
    phases = PhaseEngine([PEAK])
    judged(phases, RISE_AND_STEP[:100])
    phases.update(500, [(Column("q", {}, OTHER), Estimate(1.0))])
    assert (phases.unused.behind, phases.unused.outdated) == (1, 0)
    phases.update(1000, [(Column("q", {}, OTHER), Estimate(1.0))])
    assert phases.unused.outdated == 100


def _until(state: str, model: Machine) -> int:
    """The step at which a fall reaches a state."""
    return next(one.known_step for one in judged(PhaseEngine([model]), FALL) if one.state == state)


def test_a_claim_nobody_acted_on_yet_is_taken_back_and_can_be_shown_anew() -> None:
    at = _until("detected", LATE) + 10
    values = [*FALL[: at // 10], *ramps((-3, -3, 40), (-6, -6, 80), seed=1)]
    phases = PhaseEngine([LATE])
    told = judged(phases, values, OTHER, at)
    assert states(told) == ["suspected", "detected", "retracted", "detected", "confirmed"]
    back = told[2]
    assert (back.known_step, back.happened_step, back.ordinal) == (at, at, 1)
    assert (back.act, back.advice, back.undo) == (False, "", "")
    assert back.evidence.sentence.endswith(
        f"; from step {at} on it is measured otherwise, so this has to be shown anew"
    )
    assert [span.phase for span in phases.phases] == ["flat", "dropped", "flat", "dropped"]


def test_a_claim_that_was_acted_on_stands() -> None:
    at = _until("detected", DROP) + 10
    phases = PhaseEngine([DROP])
    told = judged(phases, [*FALL[: at // 10], *ramps((0, 0, 60))], OTHER, at)
    assert states(told) == ["suspected", "detected"]
    assert phases.phases[-1].phase == "dropped"


def test_what_was_suspected_is_taken_back() -> None:
    at = _until("suspected", DROP) + 10
    phases = PhaseEngine([DROP])
    told = judged(phases, [*FALL[: at // 10], *ramps((0, 0, 60))], OTHER, at)
    assert states(told) == ["suspected", "retracted"]
    assert told[1].known_step == at
    assert phases.judged[0].suspected is None


def test_however_often_it_is_measured_otherwise_alpha_is_spent_once() -> None:
    phases, spent = PhaseEngine([PEAK], alpha=0.01), 0.0
    for i in range(12):
        phases.update(10 * i, [(Column("q", {}, ONE | {"seed": str(i)}), Estimate(1.0))])
        spent += phases._tracks["m", ()]._alpha(PEAK.turns[0])
    assert spent <= 0.01 / 2
    assert phases.unused.outdated == 11


def test_a_restart_around_the_change_tells_the_same_to_the_byte() -> None:
    for values, model, at in ((RISE_AND_STEP, PEAK, CHANGED), (FALL, LATE, _until("detected", LATE) + 10)):
        straight, again, other = PhaseEngine([model]), PhaseEngine([model]), OTHER
        for i, value in enumerate(values):
            column = Column("q", {}, other if 10 * i >= at else ONE)
            if abs(10 * i - at) <= 100 or i % 20 == 0:
                text, again = json.dumps(again.state()), PhaseEngine([model])
                assert again.restore(json.loads(text))
            assert msgspec.json.encode(again.update(10 * i, [(column, Estimate(value))])) == msgspec.json.encode(
                straight.update(10 * i, [(column, Estimate(value))])
            )
        assert json.dumps(again.state()) == json.dumps(straight.state())
        assert again.unused == straight.unused
        assert again.unused.outdated > 0
