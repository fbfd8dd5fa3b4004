"""Two probes far above the median are a spike, one is not; what stays up is the new level."""

import itertools
import json
import math

import numpy as np
import pytest

from collector.phases import KINDS, MACHINES, Track
from collector.phases.machine import Turn
from collector.phases.spikes import BEHIND, CALM, CLIMBING, LEAST, Spikes
from tests.phase_runs import turn

UP, DOWN, LOST = (turn("a", "b", when, min_effect=0.05) for when in ("spike", "calm", "diverge"))


def quiet(n: int = 60, seed: int = 0) -> list[float]:
    return (2.0 + 0.02 * np.random.default_rng(seed).standard_normal(n)).tolist()


def shown(values: list[float], *turns: Turn, spikes: Spikes | None = None) -> list[int]:
    """The probes at which one of the turns had a case."""
    spikes = spikes or Spikes()
    found = []
    for i, value in enumerate(values):
        spikes.take(10 * i, value, 6.0, 0.05)
        if spikes.verdicts(turns):
            found.append(i)
    return found


def test_two_in_a_row_are_a_spike_and_one_is_not() -> None:
    assert shown([*quiet(), 3.0, *quiet()], UP) == []
    assert shown([*quiet(), 3.0, 3.0, *quiet()], UP) == [61]
    assert shown([*quiet(), 3.0, 2.0, 3.0, *quiet()], UP) == []


@pytest.mark.parametrize("seed", range(5))
def test_healthy_noise_is_no_spike(seed: int) -> None:
    assert shown(quiet(1000, seed), UP) == []


def test_what_is_far_in_spreads_but_small_beside_the_level_is_no_spike() -> None:
    assert shown([*quiet(), 2.09, 2.09, 2.09], UP) == []  # 4.5 spreads and 4.5 %
    steady = (2.0 + 0.002 * np.random.default_rng(0).standard_normal(60)).tolist()
    assert shown([*steady, 2.09, 2.09], UP) == []  # 45 spreads and 4.5 %
    assert shown([*steady, 2.11, 2.11], UP) == [61]


def test_values_that_can_hardly_be_told_apart_do_not_overflow() -> None:
    values = [0.0, 0.0, 0.0, *[1.0] * 6, 2.0, -1.0, -1.0, 6.0, 6.0, 0.0, 0.0, 0.0, 0.0, 1.3e-180]
    assert shown(values, UP, DOWN, LOST)[-1] == len(values) - 1


def test_a_loss_that_falls_fast_does_not_hide_its_spikes_behind_its_own_fall() -> None:
    fall = 2.0 * (1.0 + np.arange(120.0) / 5.0) ** -0.7
    for at, seed in itertools.product((100, 110), range(3)):
        values = fall * (1.0 + 0.01 * np.random.default_rng(seed).standard_normal(fall.size))
        assert shown(values.tolist(), UP) == []
        values[at : at + 4] *= 1.15
        assert shown(values.tolist(), UP)[0] == at + 1


@pytest.mark.parametrize(("drop", "noise"), [(0.3, 0.005), (0.8, 0.02)])
def test_a_step_decay_after_which_the_loss_levels_off_is_no_spike(drop: float, noise: float) -> None:
    level = 3.0 * np.where(np.arange(160) < 100, 1.0, 1.0 - drop)
    for seed in range(5):
        values = level * (1.0 + noise * np.random.default_rng(seed).standard_normal(level.size))
        assert shown(values.tolist(), UP) == []


def test_a_spike_is_called_and_ends_though_the_series_wanders_like_a_random_walk() -> None:
    walk = 5.0 + 0.02 * np.cumsum(np.random.default_rng(2).standard_normal(200))
    walk[150:156] *= 1.8
    judge = Track(KINDS["spike"], {}, 0.01)
    values = list(enumerate(walk.tolist()))
    told = [one for probe in values[:150] for one in judge.update(*probe)]
    assert not judge.observed.assessable()
    told += [one for probe in values[150:] for one in judge.update(*probe)]
    assert [(one.to_phase, one.known_step) for one in told if one.state == "detected"] == [
        ("spike", 151),
        ("calm", 160),
    ]


def test_a_loss_that_stays_infinite_is_a_spike_where_no_turn_waits_for_a_divergence() -> None:
    assert shown([*quiet(), *[math.inf] * 4, *quiet()], UP) == [62, 63]
    assert shown([*quiet(), math.inf, math.inf, *quiet()], UP) == []  # gaps
    assert shown([*quiet(), *[math.nan] * 4, *quiet()], UP) == []
    judge, told = Track(KINDS["spike"], {}, 0.01), []
    for i, value in enumerate([*quiet(), *[math.inf] * 4, *quiet()]):
        told += judge.update(i, value)
        kept, judge = judge.state(), Track(KINDS["spike"], {}, 0.01)
        judge.restore(json.loads(json.dumps(kept)))
    assert [(t.to_phase, t.known_step) for t in told if t.state == "detected"] == [("spike", 62), ("calm", 68)]


def test_a_drop_is_no_spike() -> None:
    assert shown([*quiet(), 0.5, 0.5, 0.5], UP) == []


def test_nothing_is_judged_by_fewer_than_a_dozen() -> None:
    assert shown([*quiet(LEAST - 1), 9.0, 9.0], UP) == []
    assert shown([*quiet(LEAST), 9.0, 9.0], UP) == [LEAST + 1]


def test_a_spike_does_not_raise_what_it_is_compared_with() -> None:
    long = [3.0] * (BEHIND - 2)
    assert shown([*quiet(), *long, *quiet(), 3.0, 3.0], UP)[-1] == 60 + len(long) + 60 + 1


def test_what_stays_up_for_long_is_the_new_level() -> None:
    stays = [x + 1.0 for x in quiet(100, 1)]
    found = shown([*quiet(), *stays, *[x + 2.0 for x in quiet(20, 2)]], UP)
    assert found[0] == 61
    assert [i for i in found if 60 + BEHIND <= i < 160] == []
    assert 161 in found


def test_five_in_a_row_are_calm_again() -> None:
    values = [*quiet(), 3.0, 3.0, 3.0, *quiet(20, 3)]
    first = next(i for i in shown(values, DOWN) if i > 62)
    assert first == 62 + CALM


def test_two_values_that_are_not_finite_have_diverged_and_one_has_not() -> None:
    for lost in (math.nan, math.inf):
        assert shown([*quiet(), lost, *quiet()], LOST) == []
        assert shown([*quiet(), lost, lost], LOST) == [61]
    spikes = Spikes()
    shown([*quiet(), math.nan, math.inf], LOST, spikes=spikes)
    (case,) = spikes.verdicts((LOST,))
    assert (case.after.first_step, case.after.last_step) == (600, 610)
    assert case.happened[0] == 600


def test_a_run_that_was_never_finite_shows_nothing() -> None:
    assert shown([math.nan] * 5, UP, DOWN, LOST) == []


def test_eight_in_a_row_that_climb_have_diverged_and_a_plateau_has_not() -> None:
    assert shown([*quiet(), *[3.0 * 1.2**i for i in range(8)]], LOST) == [59 + CLIMBING]
    assert shown([*quiet(), *[3.0] * 20], LOST) == []


def test_the_case_has_the_windows_it_is_made_of() -> None:
    spikes = Spikes()
    shown([*quiet(), 3.0, 3.2], UP, spikes=spikes)
    (case,) = spikes.verdicts((UP, DOWN, LOST))
    assert case.turn == UP
    assert case.statistic == "median_mad_spike"
    assert (case.before.n, case.before.first_step, case.before.last_step) == (BEHIND, 10 * (60 - BEHIND), 590)
    assert (case.after.n, case.after.mean) == (2, pytest.approx(3.1))
    assert case.before.mean == pytest.approx(2.0, abs=0.02)
    assert case.change == pytest.approx(0.55, abs=0.02)
    spread = case.noise * case.before.mean
    chances = [4 / 9 * (spread / (value - case.before.mean)) ** 2 for value in (3.0, 3.2)]
    assert case.log_e == pytest.approx(-sum(math.log(chance) for chance in chances))
    assert case.happened[0] == 600


def test_it_comes_back_from_json_and_goes_on_as_it_would_have() -> None:
    values = [*quiet(30), 3.0, 3.1, math.nan, math.nan, 3.0, *quiet(20, 4), *[3.0] * 40]
    for cut in range(0, len(values), 3):
        kept, back = Spikes(), Spikes()
        shown(values[:cut], spikes=kept)
        back.restore(json.loads(json.dumps(kept.state())))
        for i, value in enumerate(values[cut:], cut):
            for one in (kept, back):
                one.take(10 * i, value, 6.0, 0.05)
            assert repr(kept.verdicts((UP, DOWN, LOST))) == repr(back.verdicts((UP, DOWN, LOST)))


LOSS = next(m for m in MACHINES if m.name == "loss_spike")


def test_a_divergence_is_told_at_once_however_densely_it_is_measured() -> None:
    judge = Track(LOSS, {}, 0.01)
    for i, value in enumerate(quiet(40)):
        judge.update(100 * i, value)
    told = [t for step in (4000, 4100) for t in judge.update(step, 3.0)]
    assert [(t.state, t.to_phase) for t in told] == [("detected", "spike")]
    climb = [(4105 + 5 * i, 3.0 * 1.4**i) for i in range(12)]  # twenty times as often, while it is not confirmed
    told = [t for step, value in climb for t in judge.update(step, value)]
    assert [(t.state, t.to_phase) for t in told] == [("detected", "diverged")]
    assert told[0].known_step == climb[CLIMBING - 3][0]  # two of the eight were the spike


def test_what_wanders_like_a_random_walk_may_diverge_all_the_same() -> None:
    rng = np.random.default_rng(4)
    judge, wander = Track(LOSS, {}, 0.01), np.abs(20.0 + np.cumsum(0.05 * rng.standard_normal(300)))
    for i, value in enumerate(wander.tolist()):
        judge.update(i, value)
    assert judge.observed.card().verdict == "unassessable"
    told = [t for step in (300, 301) for t in judge.update(step, math.nan)]
    assert [(t.state, t.to_phase) for t in told] == [("detected", "diverged")]
