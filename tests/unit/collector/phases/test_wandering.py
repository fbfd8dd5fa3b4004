"""What a random walk would do is not claimed, and what is none is soon known for it."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from collector.phases import detector
from collector.phases.meter import NoiseMeter
from collector.phases.residual import residual
from collector.phases.track import Track
from collector.phases.wandering import WALK, Wandering

IDEAS = ("peak_passed", "valley_passed", "onset_down", "onset_up", "stabilised")
RUNS = 12


def white(seed: int, n: int = 250) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def walk(seed: int) -> np.ndarray:
    return 10.0 + 0.1 * white(seed).cumsum()


def logarithm_of_a_walk(seed: int) -> np.ndarray:
    return np.exp(0.05 * white(seed).cumsum())


def metered(values: np.ndarray, error: float = math.nan) -> NoiseMeter:
    meter = NoiseMeter(relative=False)
    for i, value in enumerate(values.tolist()):
        meter.take(float(i), value, error, replaced=False)
    return meter


def told(kind: str, values: np.ndarray, error: float | None = None) -> set[str]:
    judge = detector(kind)
    found = [one for step, value in enumerate(values.tolist()) for one in judge(10 * step, value, error)]
    return {one.state for one in found if one.kind == kind}


def effect(m: int) -> np.ndarray:
    """What each of twelve values adds to the residual of the newest four means of ``m``."""
    at = [float(i) for i in range(12)]
    rows = []
    for unit in np.eye(12).tolist():
        means = [(sum(at[i : i + m]) / m, sum(unit[i : i + m]) / m) for i in range(12 - 4 * m, 12, m)]
        rows.append(residual(m, means))
    return np.array(rows) * np.repeat([0.0, -1.0, 1.0, -1.0, 1.0], [12 - 4 * m, m, m, m, m])


def test_the_growth_of_a_random_walk_is_that_of_its_covariance() -> None:
    covariance = np.minimum.outer(np.arange(12), np.arange(12))
    single, mean = (effect(m) @ covariance @ effect(m) for m in (1, 3))
    assert math.sqrt(mean / single) == pytest.approx(WALK, abs=5e-4)
    assert effect(1) @ effect(1) == pytest.approx(1.0)
    assert effect(3) @ effect(3) == pytest.approx(1.0)


def test_the_growth_comes_out_as_expected_and_is_one_for_independent_noise() -> None:
    assert np.median([metered(walk(seed)).wandering.growth() for seed in range(60)]) == pytest.approx(WALK, rel=0.06)
    assert np.median([metered(white(seed)).wandering.growth() for seed in range(60)]) == pytest.approx(1.0, rel=0.06)


def test_a_random_walk_is_rarely_ruled_out_and_independent_noise_nearly_always() -> None:
    assert sum(metered(walk(seed)[:80]).wandering.ruled_out() for seed in range(100)) <= 7
    assert sum(metered(white(seed, 80)).wandering.ruled_out() for seed in range(100)) >= 93


@pytest.mark.parametrize("idea", IDEAS)
def test_little_is_claimed_of_random_walks_and_hardly_anything_confirmed(idea: str) -> None:
    claimed = [told(idea, walk(seed)) for seed in range(2 * RUNS)]
    assert sum("detected" in states for states in claimed) <= 5
    assert sum("confirmed" in states for states in claimed) <= 2


@pytest.mark.parametrize("idea", ["onset_down", "stabilised"])
def test_a_walk_whose_steps_are_below_the_least_noise_believed_is_one_all_the_same(idea: str) -> None:
    claimed = [told(idea, 10.0 + 0.04 * white(seed).cumsum(), 0.004) for seed in range(RUNS)]
    assert sum("detected" in states for states in claimed) <= 2


def test_what_few_probes_claim_of_a_walk_is_confirmed_only_where_more_rule_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def confirmed() -> int:
        return sum("confirmed" in told("peak_passed", logarithm_of_a_walk(seed)) for seed in range(4 * RUNS))

    asked = confirmed()
    monkeypatch.setattr(Track, "_is_no_walk", lambda *_: True)
    assert asked <= 0.7 * confirmed()


PEAK = np.exp(-0.5 * ((np.arange(200.0) - 60.0) / 15.0) ** 2)


@pytest.mark.parametrize("snr", [20.0, 100.0, 1e4, 1e8])
def test_a_peak_is_no_random_walk_however_little_noise_there_is(snr: float) -> None:
    for seed in range(RUNS):
        assert "detected" in told("peak_passed", 1.0 + 5.0 * PEAK + 5.0 / snr * white(seed, 200)), seed


def test_noise_that_wanders_hides_no_peak_that_goes_further() -> None:
    for seed in range(RUNS):
        shocks = white(seed, 200)
        for i in range(1, shocks.size):
            shocks[i] = 0.8 * shocks[i - 1] + 0.6 * shocks[i]
        assert "detected" in told("peak_passed", 1.0 + 5.0 * PEAK + 0.1 * shocks), seed


def test_independent_noise_that_jumps_from_level_to_level_is_no_walk() -> None:
    for seed in range(RUNS):
        meter = metered(white(seed, 300) + np.repeat([0.0, 7.0, 0.0, 7.0, 0.0, 7.0], 50))
        assert not meter.walks(), seed


@pytest.mark.parametrize(
    ("error", "walks"), [(0.1, False), (0.01, True)], ids=["as large as its steps", "far below its steps"]
)
def test_noise_as_large_as_reported_is_no_walk(error: float, walks: bool) -> None:  # noqa: FBT001
    found = [metered(walk(seed)[:60], error).walks() for seed in range(RUNS)]
    assert sum(found) >= RUNS - 1 if walks else not any(found)


@pytest.mark.parametrize("values", [np.full(60, 3.0), np.repeat([3.0, 4.0], 30)], ids=["constant", "one step"])
def test_of_values_without_noise_nothing_is_seen(values: np.ndarray) -> None:
    assert not metered(values).wandering.ruled_out()


@pytest.mark.parametrize("make", [walk, white], ids=["walk", "white"])
def test_what_was_seen_goes_on_after_a_restart(make: Callable[[int], np.ndarray]) -> None:
    before, after = metered(make(1)).wandering, Wandering()
    after.restore(before.state())
    assert after.state() == before.state()
    assert after.growth() == before.growth()
    assert after.ruled_out() == before.ruled_out()
