"""A curve has settled, or hovers, where that is shown; nothing is said where noise hides it."""

import math

import numpy as np
import pytest

from collector.phases import Track, Transition
from collector.phases.history import Buckets
from collector.phases.slopes import CERTAIN, LEAST, Lines, Steepest
from tests.phase_runs import machine, passed, plain, turn

SETTLING = machine("moving settled", turn("moving", "settled", "settle", min_effect=0.0))
HOVERING = machine("coming there", turn("coming", "there", "hover", min_effect=0.0, slope=0.5), target=10.0)


def told(values: np.ndarray, model=SETTLING) -> list[Transition]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    return [t for t in passed(Track(model, {}, 0.01), plain(values)) if t.state == "detected"]


def noise(seed: int, n: int, sd: float) -> np.ndarray:
    return np.asarray(sd * np.random.default_rng(seed).standard_normal(n))


def saturating(n: int = 200, scale: float = 20.0) -> np.ndarray:
    return np.asarray(10.0 * (1.0 - np.exp(-np.arange(n) / scale)))


def test_lines_are_weighted_least_squares_with_the_error_of_their_noise() -> None:
    rng = np.random.default_rng(0)
    n = np.array([8.0, 8.0, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    x = np.cumsum(rng.uniform(1.0, 5.0, n.size))
    mean, variance = 50.0 + rng.standard_normal(n.size), n * rng.uniform(0.5, 2.0, n.size)
    found = Lines(Buckets(n, n * mean, variance, x, x), x, 0.8)
    v = np.maximum(variance, n * 0.8**2)
    assert found.k.tolist() == [6.0, 8.0, 10.0, 14.0, 18.0, 26.0, 34.0]
    for j, first in enumerate(found.first):
        t, w = x[first:], n[first:]
        slope, _ = np.polyfit(t, mean[first:], 1, w=np.sqrt(w))
        design = np.stack([np.ones(t.size), t], axis=1)
        takes = np.linalg.solve(design.T @ (w[:, None] * design), design.T * w)
        covariance = takes @ np.diag(v[first:] / w**2) @ takes.T
        assert found.slope[j] == pytest.approx(slope, rel=1e-6, abs=1e-9)
        assert found.error[j] == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-6)
        assert found.mean[j] == pytest.approx(np.average(mean[first:], weights=w))
        assert found.error_of_mean[j] == pytest.approx(math.sqrt(v[first:].sum()) / w.sum())
        assert found.length[j] == pytest.approx(t[-1] - t[0])


def test_the_error_of_a_slope_is_how_far_slopes_scatter() -> None:
    x = np.arange(30.0)
    flat = np.ones(30)
    found = [Lines(Buckets(flat, noise(seed, 30, 1.0), flat, x, x), x, 1.0) for seed in range(300)]
    scatter = np.std([one.slope[-1] for one in found])
    assert scatter == pytest.approx(found[0].error[-1], rel=0.12)


def test_no_error_of_a_slope_is_less_than_its_bound() -> None:
    rng = np.random.default_rng(1)
    x, n = np.cumsum(rng.uniform(1.0, 5.0, 40)), np.ones(40)
    for sigma in (0.3, 1.0, 3.0):
        found = Lines(Buckets(n, n, rng.uniform(0.5, 2.0, 40), x, x), x, sigma)
        assert (found.least_error <= found.error).all()
    assert found.least_error == pytest.approx(found.error, rel=1e-5)  # where none strays by more than is believed


def test_no_line_is_shorter_than_what_tells_a_slope() -> None:
    x = np.arange(float(LEAST - 1))
    assert Lines(Buckets(np.ones(x.size), x, np.ones(x.size), x, x), x, 1.0).k.size == 0
    at_one = np.zeros(20)  # all at one place have no slope
    assert Lines(Buckets(np.ones(20), at_one, np.ones(20), at_one, at_one), at_one, 1.0).k.size == 0


def test_the_steepest_slope_is_taken_low_and_kept() -> None:
    def found(slope: float, error: float) -> Lines:
        x, one = np.arange(float(LEAST)), np.ones(LEAST)
        return Lines(Buckets(one, slope * x, 0.0 * one, x, x), x, error * math.sqrt(((x - x.mean()) ** 2).sum()))

    steepest = Steepest()
    for slope in (0.1, -3.0, 0.5):
        steepest.see(found(slope, 0.1), 1000)
    assert steepest.slope == pytest.approx(3.0 - CERTAIN * 0.1, rel=0.01)
    steepest.see(found(9.0, 9.0), 1000)  # steep by noise
    assert steepest.slope == pytest.approx(3.0 - CERTAIN * 0.1, rel=0.01)


def test_what_saturates_settles_once_it_has_and_not_before() -> None:
    found = [told(saturating() + noise(seed, 200, 0.1)) for seed in range(10)]
    assert all(len(transitions) == 1 for transitions in found)
    for (t,) in found:
        assert (
            10 * 20 * math.log(4) <= t.known_step <= 10 * 150
        )  # its slope is a quarter of the steepest after 28 probes
        assert t.evidence.statistic == "slope_equivalence"
        assert "there its slope is certainly less than 0.25 of the steepest before, p = " in t.evidence.sentence


@pytest.mark.parametrize("sd", [0.05, 0.5])
def test_what_still_grows_as_fast_has_not_settled(sd: float) -> None:
    assert [t for seed in range(10) for t in told(np.linspace(0, 10, 150) + noise(seed, 150, sd))] == []


@pytest.mark.parametrize("sd", [0.05, 0.1])
def test_what_grows_faster_and_faster_has_not_settled(sd: float) -> None:
    growth = 0.01 * np.exp(np.linspace(0.0, 5.0, 150))
    assert [t for seed in range(6) for t in told(growth * (1.0 + noise(seed, 150, sd)))] == []


def test_a_level_of_a_least_effect_is_one_that_would_stay_if_the_series_lasted_as_long_again() -> None:
    asked = machine("moving settled", turn("moving", "settled", "settle", slope=0.05), value_scale="log")
    t = np.arange(300.0)
    for seed in range(3):
        scatter = np.exp(noise(seed, 300, 0.01))
        assert told(2.0 / (1.0 + t / 5.0) * scatter, asked) == []
        found = told((0.2 + 2.0 * np.exp(-t / 15.0)) * scatter, asked)
        assert len(found) == 1
        assert "as many steps again would change it by " in found[0].evidence.sentence


def test_where_noise_hides_the_slope_it_mostly_abstains() -> None:
    found = [told(saturating(80) + noise(seed, 80, 5.0)) for seed in range(20)]
    assert sum(map(len, found)) <= 5


def test_an_arch_has_no_slope_as_a_whole_and_has_not_settled() -> None:
    t = np.arange(160.0)
    arch = np.where(t < 80, t, 160 - t) / 8.0
    assert [t for seed in range(10) for t in told(arch + noise(seed, 160, 0.1))] == []


def test_a_curve_must_be_flat_at_two_probes_in_a_row() -> None:
    flat = turn("moving", "settled", "settle", min_effect=0.0)
    x = np.arange(60.0)
    y = np.concatenate([np.linspace(0, 10, 20), np.full(40, 10.0)])
    whole = Buckets(np.ones(60), y, np.full(60, 1e-4), x, x)
    steepest = Steepest(0.5)
    found = Lines(whole, x, 0.01)
    assert steepest.flat(flat, whole, found, "linear", 1.0) is None
    assert steepest.flat(flat, whole, found, "linear", 1.0) is not None


def test_a_phase_may_be_left_by_settling_or_by_hovering_whichever_is_shown() -> None:
    both = machine(
        "moving settled there",
        turn("moving", "settled", "settle", min_effect=0.0),
        turn("moving", "there", "hover", min_effect=0.0, slope=0.5),
        target=100.0,
    )
    for seed in range(5):
        curve = saturating() + noise(seed, 200, 0.1)
        assert [(t.to_phase, t.known_step) for t in told(curve, both)] == [
            ("settled", t.known_step) for t in told(curve, SETTLING)
        ]


def test_what_comes_to_the_band_and_stays_hovers() -> None:
    for seed in range(10):
        (t,) = told(saturating() + noise(seed, 200, 0.05), HOVERING)
        assert t.evidence.after.mean == pytest.approx(10.0, rel=0.08)
        assert t.known_step >= 10 * 20 * math.log(1 / 0.07)
        assert t.evidence.statistic == "level_and_slope_equivalence"


@pytest.mark.parametrize(
    "mean",
    [
        0.85 * saturating(),  # stays below the band
        np.linspace(0.0, 20.0, 200),  # passes through
        np.concatenate([np.linspace(0, 20, 40), 20 * np.exp(-np.arange(160.0) / 30)]),  # through and back, and on down
    ],
    ids=["below", "through", "there and back"],
)
def test_what_stays_below_or_passes_through_does_not_hover(mean: np.ndarray) -> None:
    assert [t for seed in range(6) for t in told(mean + noise(seed, mean.size, 0.05), HOVERING)] == []


def test_a_place_that_is_asked_for_has_to_be_reached() -> None:
    low = machine("moving settled", turn("moving", "settled", "settle", min_effect=0.0, at_least=11.0))
    high = machine("moving settled", turn("moving", "settled", "settle", min_effect=0.0, at_least=9.0))
    curve = saturating() + noise(0, 200, 0.1)
    assert told(curve, low) == []
    assert len(told(curve, high)) == 1


HOVER = turn("coming", "there", "hover", min_effect=0.0, slope=0.5)


def hovers(y: np.ndarray, target: float = 10.0, steepest: float = 0.5, sd: float = 0.01) -> bool:
    """Whether probes without noise, each said to have a little, hover at the target at the last of them."""
    x = np.arange(float(y.size))
    whole = Buckets(np.ones(y.size), y, np.full(y.size, sd**2), x, x)
    return Steepest(steepest).shown(HOVER, whole, Lines(whole, x, sd), "linear", target) is not None


@pytest.mark.parametrize(("slope", "there"), [(0.02, True), (0.025, False)])
def test_what_would_leave_the_band_within_twice_its_length_does_not_hover(slope: float, there: bool) -> None:  # noqa: FBT001
    """Of lines of ten probes and more that end at 10.9 the shortest stays longest in a band up to 11.2: 10.9 + 13.5 slopes."""
    assert hovers(10.9 - slope * np.arange(29.0, -1.0, -1.0), sd=1e-4) == there


def test_what_comes_down_into_the_band_does_not_hover_until_as_much_lies_within_it_as_above() -> None:
    """A line is not believed while the probes just before it, as many, lay certainly higher."""
    up = np.linspace(0.0, 14.0, 20)
    for stayed, there in ((12, False), (40, True)):
        down = np.concatenate([up, np.linspace(14.0, 10.0, 8), np.full(stayed, 10.0)])
        assert hovers(down) == there
    from_below = np.concatenate([np.linspace(0.0, 10.0, 28), np.full(12, 10.0)])
    assert hovers(from_below)


def test_a_line_that_reaches_back_to_the_first_probe_has_nothing_higher_before_it() -> None:
    assert hovers(np.full(12, 10.0))
