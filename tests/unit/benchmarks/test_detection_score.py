"""The score: what counts as early, missed, late and taken back; and no rule beside ours may look ahead."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from against.change_points import CHANGE_POINTS
from against.detectors import by_rule
from against.phase_rules import RULES, Rule, consecutive, liu_gurevych, patience
from curves.bars import BARS
from curves.curve import Curve
from curves.families import FAMILIES
from curves.noise import thinned
from curves.score import LEVELS, Call, Outcome, Rate, Score, outcomes
from curves.tables import bar_rows

CURVE = Curve(
    steps=np.arange(0, 1000, 10),
    mean=np.zeros(100),
    sd=np.ones(100),
    values=np.zeros(100),
    stderr=None,
    truth=300,
    rise=100.0,
    turns=(300,),
)
NULL = replace(CURVE, truth=None, turns=())
ALL_RULES = [(asked, name, rule) for asked, rules in RULES.items() for name, rule in rules.items()]
ALL_RULES += [("peak_passed", name, rule) for name, (_, rule) in CHANGE_POINTS.items() if name != "ruptures PELT"]


def test_a_call_is_judged_by_the_step_at_which_it_came_in_rise_times() -> None:
    assert outcomes(CURVE, [Call(450, "detected")], "peak_passed", "detected") == [Outcome(early=False, delay=1.5)]


def test_the_first_call_decides_and_an_early_one_is_not_made_good_by_a_later() -> None:
    (found,) = outcomes(CURVE, [Call(290, "detected"), Call(450, "detected")], "peak_passed", "detected")
    assert found.early
    assert math.isnan(found.delay)


def test_a_suspicion_is_no_call_and_a_confirmation_is_a_detection_too() -> None:
    calls = [Call(100, "suspected"), Call(500, "confirmed")]
    for level in LEVELS:
        assert outcomes(CURVE, calls, "peak_passed", level)[0].delay == 2.0
    assert math.isinf(outcomes(CURVE, [Call(500, "detected")], "peak_passed", "confirmed")[0].delay)


def test_any_call_on_a_null_is_false_also_one_that_was_taken_back() -> None:
    (found,) = outcomes(NULL, [Call(10, "detected"), Call(90, "retracted")], "peak_passed", "detected")
    assert (found.early, found.retracted, found.false_calls) == (True, True, 1)
    assert outcomes(NULL, [], "peak_passed", "detected") == [Outcome(early=False, delay=math.inf)]


def test_each_spike_is_judged_and_calls_about_none_are_counted() -> None:
    curve = replace(CURVE, turns=(100, 500))
    found = outcomes(curve, [Call(50, "detected"), Call(101, "detected"), Call(105, "detected")], "spike", "detected")
    assert [one.delay for one in found] == [1.0, math.inf]
    assert sum(one.false_calls for one in found) == 1


def test_no_false_alarm_in_two_hundred_runs_leaves_two_percent_open() -> None:
    low, high = Rate(0, 200).interval
    assert low == 0.0
    assert high == pytest.approx(0.0188, abs=2e-4)
    assert Rate(1, 10) + Rate(2, 10) == Rate(3, 20)


def test_a_miss_counts_as_an_infinite_delay_and_an_early_call_is_left_out_of_the_median() -> None:
    late = [Outcome(early=False, delay=delay) for delay in (1.0, 2.0, 3.0, math.inf, math.inf)]
    score = Score((*late, Outcome(early=True, delay=math.nan)), null=False)
    assert score.delay[0] == 3.0
    assert math.isinf(score.delay[2])
    assert (score.missed, score.early) == (Rate(2, 6), Rate(1, 6))


def test_a_bar_whose_families_were_not_run_is_left_out_and_the_others_are_told() -> None:
    good = Score((Outcome(early=False, delay=1.0, bound=1.0),) * 20, null=False)
    rows = list(bar_rows({("peak SNR 10", level): good for level in LEVELS}))
    assert {row["number"] for row in rows} == {2, 4}
    assert all(row["met"] for row in rows)
    assert not list(bar_rows({}))


def test_every_bar_names_families_that_exist() -> None:
    every = {
        (name, level): Score((Outcome(early=False, delay=1.0, bound=1.0),), null=family.null)
        for name, family in FAMILIES.items()
        for level in LEVELS
    }
    assert len(list(bar_rows(every))) == len(BARS)


@pytest.mark.parametrize(("asked", "name", "rule"), ALL_RULES, ids=[name for _, name, _ in ALL_RULES])
def test_a_rule_decides_by_what_it_has_seen(asked: str, name: str, rule: Rule) -> None:
    pytest.importorskip("river" if name.startswith("river") else "numpy")
    family = next(family for family in FAMILIES.values() if family.asked == asked and not family.null)
    curve = family(1)
    whole = rule(curve)
    assert whole.shape == curve.steps.shape
    for seen in (60, 61, 97, 130):
        assert np.array_equal(rule(thinned(curve, np.arange(seen))), whole[:seen])


def test_patience_runs_out_ten_probes_after_the_last_maximum() -> None:
    values = np.concatenate([np.arange(20.0), np.full(30, 5.0)])
    curve = replace(
        CURVE, **{f.name: getattr(CURVE, f.name)[:50] for f in fields(CURVE) if f.name in {"steps", "mean", "sd"}}
    )
    calls = by_rule(patience)(replace(curve, values=values))
    assert [call.step for call in calls] == [(19 + 10) * 10]


def test_liu_and_gurevych_wait_for_the_rapid_change_before_they_see_stability() -> None:
    flat_rise_flat = np.concatenate([np.ones(20), np.linspace(1.0, 2.0, 10), np.full(30, 2.0)])
    curve = thinned(CURVE, np.arange(60))
    flags = liu_gurevych(3)(replace(curve, values=flat_rise_flat))
    assert not flags[:30].any()
    assert flags[33:].all()


def test_consecutive_flags_count_from_the_last_gap() -> None:
    assert consecutive(np.array([1, 1, 0, 1, 1, 1], dtype=bool), 3).tolist() == [False] * 5 + [True]
