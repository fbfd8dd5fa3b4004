"""The meter knows the noise of a series without its trend, and says no less than there is."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.phases.meter import (
    DOUBT,
    FLOOR,
    GROWS,
    GUESSED,
    KEPT,
    LASTING_MOST,
    LOCAL,
    UNSEEN,
    UNTRIED,
    NoiseMeter,
    Ring,
    _together,
)


def measured(
    y: np.ndarray, paired: float = math.nan, x: np.ndarray | None = None, *, relative: bool = True
) -> NoiseMeter:
    meter = NoiseMeter(relative=relative)
    for at, value in zip((np.arange(y.size) if x is None else x).tolist(), y.tolist(), strict=True):
        meter.take(at, value, paired, replaced=False)
    return meter


def ar1(seed: int, n: int, coefficient: float) -> np.ndarray:
    """An AR(1) process of variance 1."""
    shocks = np.random.default_rng(seed).standard_normal(n)
    for i in range(1, n):
        shocks[i] = coefficient * shocks[i - 1] + math.sqrt(1 - coefficient**2) * shocks[i]
    return shocks


@pytest.mark.parametrize(("n", "spread"), [(12, 0.45), (40, 0.2), (150, 0.12)])
def test_white_noise_is_measured_right_in_the_mean_and_rarely_much_too_small(n: int, spread: float) -> None:
    found = np.array([measured(np.random.default_rng(seed).standard_normal(n)).sigma() for seed in range(200)])
    guessed = 1.0 + GUESSED / min(n - 2, KEPT)
    assert np.median(found) == pytest.approx((1.0 + 3.0 / n) * guessed, rel=0.15)
    assert (found / guessed).std() < 1.5 * spread
    assert np.mean(found < 0.8) < 0.06


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.integers(0, 100))
def test_noise_has_the_unit_of_the_values_and_no_level(scale: float, level: float, seed: int) -> None:
    y = np.random.default_rng(seed).standard_normal(40)
    assert measured(scale * y + level).seen() == pytest.approx(scale * measured(y).seen(), rel=1e-3)


@pytest.mark.parametrize("m", [1, 2, 4, 8])
def test_a_straight_line_leaves_no_trace_at_any_spacing(m: int) -> None:
    x = np.cumsum(np.random.default_rng(0).exponential(5.0, 80))
    assert measured(3.0 - 0.2 * x, x=x).seen(m) < 1e-9


@pytest.mark.parametrize("m", [4, 8])
def test_a_parabola_leaves_no_trace_in_means_of_four_and_of_eight(m: int) -> None:
    x = np.arange(80.0)
    y = 1.0 - (x - 30.0) ** 2 / 500.0
    assert measured(y).seen(m) < 1e-9
    assert measured(y).seen(1) > 1e-4  # it does in single probes


@pytest.mark.parametrize("m", [1, 2, 4, 8])
def test_means_of_any_size_tell_the_noise_of_one_probe_at_uneven_steps(m: int) -> None:
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = np.cumsum(rng.uniform(1.0, 3.0, 100))
        found.append(measured(0.7 * rng.standard_normal(x.size) + 0.01 * x, x=x).seen(m))
    assert np.median(found) == pytest.approx(0.7, rel=0.2)


def test_the_noise_of_two_probes_is_unknown() -> None:
    assert math.isnan(measured(np.array([1.0, 2.0])).sigma())
    assert measured(np.array([1.0, 2.0, 1.0])).sigma() > 0.0


def test_a_few_residuals_are_widened_for_how_little_they_know() -> None:
    meter = measured(np.array([0.0, 1.0, 0.0]))
    assert meter.seen() == pytest.approx((1.4826 + 1.1391 + 0.8878) / 3 * math.sqrt(1 / 1.5) * (1 + 3 / 1), rel=1e-6)


def test_correlated_noise_shows_in_means_of_several() -> None:
    more = [(meter := measured(ar1(seed, 150, 0.8))).seen(4) / meter.seen() for seed in range(60)]
    white = [(meter := measured(ar1(seed, 150, 0.0))).seen(4) / meter.seen() for seed in range(60)]
    assert np.median(white) == pytest.approx(1.0, abs=0.15)
    assert np.median(more) > 1.7
    believed = [(meter := measured(ar1(seed, 150, 0.8))).sigma() / meter.seen() for seed in range(60)]
    assert np.median(believed) > 1.3  # than its single probes show


def test_noise_that_lasts_is_taken_larger_for_what_has_been_flat() -> None:
    assert measured(ar1(0, 20, 0.0)).lasting() == UNSEEN
    assert measured(np.zeros(100)).lasting() == 1.0
    white = [measured(ar1(seed, 150, 0.0)).lasting() for seed in range(40)]
    lasts = [measured(ar1(seed, 150, 0.8)).lasting() for seed in range(40)]
    assert min(white) == DOUBT
    assert np.median(white) <= DOUBT
    known = [measured(ar1(seed, 150, 0.0), 1.1).lasting() for seed in range(40)]
    assert min(known) == np.median(known) == 1.0
    assert np.median(lasts) == max(lasts) == LASTING_MOST


def test_reported_errors_are_believed_until_the_series_shows_more() -> None:
    y = 0.1 * np.random.default_rng(4).standard_normal(100)
    untried = 1.0 + UNTRIED / KEPT
    assert measured(y, paired=0.1).sigma() == pytest.approx(math.hypot(0.1, FLOOR) * untried, rel=1e-6)
    assert measured(y, paired=0.5).sigma() == pytest.approx(math.hypot(0.5, FLOOR) * untried, rel=1e-6)
    assert measured(y, paired=0.01).sigma() == pytest.approx(measured(y).sigma(), rel=0.25)
    assert measured(y[:8], paired=0.1).sigma() >= 1.5 * math.hypot(0.1, FLOOR)  # few probes could not show more
    assert measured(y).sigma() == pytest.approx(0.1 * (1.0 + GUESSED / KEPT), rel=0.25)


def test_what_a_series_shows_beyond_its_reported_errors_goes_on_in_proportion_to_them() -> None:
    """A peak's noise is larger than that of the level after it, and both twice what was reported."""
    sd = np.where(np.arange(200) < 160, 1.0, 0.2)
    y, meter = sd * np.random.default_rng(3).standard_normal(200), NoiseMeter(relative=True)
    for i in range(200):
        meter.take(i, float(y[i]), float(0.5 * sd[i]), replaced=False)
    assert 0.2 < meter.sigma() < 0.7  # a third of the residuals are of the peak yet


@pytest.mark.parametrize("ratio", [3.0, 10.0])
def test_errors_that_fall_while_the_noise_stays_are_not_believed(ratio: float) -> None:
    stays, falls = [], []
    for seed in range(20):
        y, meters = np.random.default_rng(seed).standard_normal(180), [NoiseMeter(relative=True) for _ in "ab"]
        found: tuple[list[float], list[float]] = ([], [])
        for i, value in enumerate(y.tolist()):
            error = 1.0 if i < 100 else 1.0 / ratio
            for meter, sd, seen in zip(meters, (1.0, error), found, strict=True):
                meter.take(i, sd * value, error, replaced=False)
                seen.append(meter.sigma())
        stays.append(min(found[0][100:]))
        falls.append(found[1][-1])
    assert np.median(stays) > 0.8
    assert min(stays) > 0.5
    assert np.median(falls) < 1.3 / ratio  # where the noise falls with them they are


def test_noise_is_as_reported_where_no_block_size_shows_more() -> None:
    white = [measured(ar1(seed, 150, 0.0), 1.1).as_reported(1, 2, 4) for seed in range(40)]
    lasts = [measured(ar1(seed, 150, 0.8), 0.45).as_reported(1, 2, 4) for seed in range(40)]
    assert sum(white) >= 25
    assert sum(lasts) <= 1
    assert measured(ar1(0, 20, 0.0), 9.0).as_reported(1) is False  # too few to tell
    assert measured(ar1(0, 150, 0.0)).as_reported(1) is False  # nothing was reported


def test_means_of_four_count_neither_for_less_than_noise_nor_for_a_bend() -> None:
    assert _together({1: 1.0, 2: 1.0, 4: 9.0}) == pytest.approx(GROWS[1] ** 0.5)
    assert _together({1: 1.0, 2: 1.0, 4: 0.1}) == pytest.approx(GROWS[0] ** 0.5)
    assert _together({1: 0.0, 2: 0.0, 4: 0.0}) == 0.0


def test_a_curve_without_noise_is_not_believed_to_the_last_digit() -> None:
    assert measured(np.linspace(3.0, 4.0, 50)).sigma() == FLOOR
    assert measured(np.full(50, -300.0), relative=False).sigma() == pytest.approx(300.0 * FLOOR)


def test_quantised_values_have_noise() -> None:
    y = np.where(np.arange(40) % 10 == 9, 2.0, 1.0)
    assert measured(y).seen() > 0.01
    assert measured(np.zeros(10)).seen() == 0.0


def test_what_has_only_been_zero_has_no_noise_at_all() -> None:
    assert measured(np.zeros(40), relative=False).sigma() == 0.0
    assert measured(np.append(np.zeros(40), [0.0, 0.1, 0.1]), relative=False).sigma() > 0.0


def test_probes_too_close_to_tell_apart_still_tell_their_noise() -> None:
    x = np.full(60, 34.0)
    meter = measured(0.3 * np.random.default_rng(5).standard_normal(60), x=x)
    assert meter.seen() == pytest.approx(0.3, rel=0.4)
    assert math.isfinite(meter.seen(4))


def test_noise_that_grows_is_seen_where_it_grew() -> None:
    rng = np.random.default_rng(6)
    y = rng.standard_normal(300) * np.where(np.arange(300) < 200, 0.1, 1.0)
    meter = NoiseMeter(relative=True)
    sigma = np.sqrt([meter.take(i, value, math.nan, replaced=False) for i, value in enumerate(y.tolist())])
    assert np.median(sigma[LOCAL:150]) < 0.15
    assert np.median(sigma[240:]) > 0.5
    assert meter.sigma() > 0.6


def test_a_meter_comes_back_from_json_and_goes_on_as_it_would_have() -> None:
    rng = np.random.default_rng(7)
    x, y = np.cumsum(rng.uniform(1, 3, 200)).tolist(), rng.standard_normal(200).tolist()
    for cut in (0, 2, 11, 40, 130):
        kept, back = NoiseMeter(relative=False), NoiseMeter(relative=False)
        for i in range(cut):
            kept.take(x[i], y[i], 0.5 if i % 3 else math.nan, replaced=i % 7 == 0)
        back.restore(json.loads(json.dumps(kept.state())))
        for i in range(cut, 200):
            assert kept.take(x[i], y[i], 0.9, replaced=False) == back.take(x[i], y[i], 0.9, replaced=False)
        assert kept.sigma() == back.sigma()
        assert json.dumps(kept.state()) == json.dumps(back.state())


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(1, 10), st.floats(0, 1))
def test_a_ring_has_the_quantiles_of_its_newest_numbers(numbers: list[float], size: int, share: float) -> None:
    ring = Ring(size)
    for number in numbers:
        ring.append(number)
    assert list(ring.numbers) == numbers[-size:]
    assert ring.quantile(share) == pytest.approx(np.quantile(numbers[-size:], share), rel=1e-9, abs=1e-9)


def test_three_quantiles_know_the_spread_of_a_gaussian_from_two_thirds_of_the_numbers_that_the_median_needs() -> None:
    sizes = np.abs(np.random.default_rng(5).standard_normal((3000, 40)))
    by_three, by_median = (
        np.array([of(Ring(40, row)) for row in sizes.tolist()]) for of in (Ring.sigma, lambda ring: ring.quantile(0.5))
    )
    assert by_three.mean() == pytest.approx(1.0, rel=0.02)
    assert (np.std(by_median) / np.mean(by_median)) ** 2 > 1.35 * (np.std(by_three) / np.mean(by_three)) ** 2
