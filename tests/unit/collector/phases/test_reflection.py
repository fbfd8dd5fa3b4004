"""The reflected e-process is what it says it is, and under the null worth no more than one."""

import math
from itertools import product

import numpy as np
import pytest

from collector.phases.history import Buckets, History, Probe
from collector.phases.reflection import BEFORE, GAP, RATES, Folds, fall, largest_weight, log_weight, none, rise


def buckets(y: np.ndarray, variance: np.ndarray | float = 1.0, n: np.ndarray | None = None) -> Buckets:
    """Buckets of means ``y``: their sums are kept."""
    n = np.ones(y.size) if n is None else n
    last = np.cumsum(n)
    return Buckets(n, n * y, n * np.broadcast_to(variance, y.shape), last - n + 1.0, last)


def weight(split: int) -> float:
    """The definition: with split = 2^j (2i - 1), 1 / ((j+1)(j+2) i(i+1)); a fold of either shape has half of it."""
    j = 0
    while split % 2 == 0:
        split, j = split // 2, j + 1
    i = (split + 1) // 2
    return 1.0 / ((j + 1) * (j + 2) * i * (i + 1))


def summed(y: list[float], variance: list[float], k: int, gap: float = 0.0, before: float = 1.0) -> float:
    """One fold of single probes, probe by probe; the gap and what lies before it in units of k, as whole probes."""
    b, unit = len(y) - k, math.sqrt(sum(variance) / len(y))
    end = b - math.ceil(gap * k)
    first = max(len(y) - math.ceil((1 + gap + before) * k), 0)
    m = end - first
    d = k * math.fsum(y[first:end]) / m - math.fsum(y[b:])
    v = math.fsum(variance[b:]) + (k / m) ** 2 * math.fsum(variance[first:end])
    e = sum(math.exp(rate / unit * d - (rate / unit) ** 2 * v / 2) for rate in RATES) / len(RATES)
    return math.log(e * weight(b) / 2)


def is_told(found: float, defined: float) -> bool:
    """Evidence below zero need not be told."""
    return found == pytest.approx(defined, rel=1e-9) or (found == -math.inf and defined < 0.0)


def test_it_is_the_definition_summed_probe_by_probe() -> None:
    rng = np.random.default_rng(0)
    y, variance = rng.standard_normal(41) - 2.5 * (np.arange(41) > 25), rng.uniform(0.25, 4.0, 41)
    folds = fall(buckets(y, variance), 0.0)
    close, apart = range(1, 21), range(1, int(41 / (2 + GAP)) + 1)
    assert folds.k.tolist() == [*close, *apart]
    assert np.isfinite(folds.log_e[: len(close)]).sum() >= 5
    assert np.isfinite(folds.log_e[len(close) :]).sum() >= 1
    for j, (k, shape) in enumerate([*((k, (0.0, 1.0)) for k in close), *((k, (GAP, BEFORE)) for k in apart)]):
        b = 41 - k
        until = b - math.ceil(shape[0] * k)
        first = max(41 - math.ceil((1 + shape[0] + shape[1]) * k), 0)
        assert is_told(folds.log_e[j], summed(y.tolist(), variance.tolist(), k, *shape))
        assert folds.before[j] == pytest.approx(y[first:until].mean())
        assert folds.after[j] == pytest.approx(y[b:].mean())
        assert folds.windows(j) == (slice(first, until), slice(b, 41))
    assert folds.together() == pytest.approx(math.log(np.exp(folds.log_e).sum()))


def test_older_buckets_are_means_of_a_window_before_that_may_be_longer() -> None:
    n = np.array([8.0, 8.0, 4.0, 2.0, 1.0, 1.0, 1.0])
    y = np.array([9.0, 8.0, 9.0, 6.0, 3.0, 2.0, 1.0])
    folds = fall(buckets(y, 2.0, n), 0.0)
    assert folds.k.tolist() == [1.0, 2.0, 3.0, 5.0, 9.0, 1.0, 2.0, 3.0, 5.0]
    windows = [folds.windows(j) for j in range(9)]
    assert [before.start for before, _ in windows] == [
        5,
        3,
        2,
        1,
        0,
        3,
        2,
        1,
        0,
    ]  # that reach far enough back, or further
    for j, (k, (of_before, of_after)) in enumerate(zip(folds.k, windows, strict=True)):
        before, after = n[of_before], n[of_after]
        first, until, split = of_before.start, of_before.stop, of_after.start
        assert after.sum() == k
        assert j >= 5 or (until == split and before.sum() >= k)
        assert j < 5 or n[until:split].sum() >= GAP * k
        ratio = k / before.sum()
        mean = float(before @ y[first:until] / before.sum()), float(after @ y[split:] / k)
        drop, v = k * (mean[0] - mean[1]), 2.0 * k + 2.0 * before.sum() * ratio**2
        e = np.mean([math.exp(r / math.sqrt(2) * drop - r * r / 4 * v) for r in RATES])
        assert is_told(folds.log_e[j], math.log(e * weight(int(n.sum() - k)) / 2))
        assert (folds.before[j], folds.after[j]) == pytest.approx(mean)


def test_less_noise_than_believed_is_not_believed() -> None:
    y = np.random.default_rng(2).standard_normal(30) - 3.0 * (np.arange(30) > 20)
    assert np.array_equal(fall(buckets(y, 0.01), 1.0).log_e, fall(buckets(y, 1.0), 0.0).log_e)


def test_the_weights_of_all_splits_sum_to_one() -> None:
    levels, most = 30, 20_000
    odd = 2 * np.arange(1, most + 1) - 1
    splits = np.array([2.0**j * odd for j in range(levels)])
    total = float(np.exp(log_weight(np.sort(splits.ravel())[::-1])).sum())
    # What is left out of a sum of 1 / i(i+1) after n terms is 1 / (n + 1).
    assert total == pytest.approx((1 - 1 / (levels + 1)) * (1 - 1 / (most + 1)), rel=1e-9)
    for most in (50, 4095, 4096, 5000):
        found = np.exp(log_weight(np.arange(float(most), 0.0, -1.0)))
        assert found == pytest.approx([weight(b) for b in range(most, 0, -1)])


@pytest.mark.parametrize("n", [[1] * 6, [4, 2, 1, 1, 1, 1], [2, 2, 1, 1]], ids=str)
def test_an_e_value_has_under_the_null_a_mean_of_its_weight_at_most(n: list[int]) -> None:
    """Integrated over the difference of the windows, which is Gaussian, on a fine grid: no draw is needed."""
    sizes, sigma = np.array(n, dtype=float), 1.5
    grid = np.linspace(-14.0, 14.0, 561)
    at = [fall(buckets(np.zeros(sizes.size), sigma**2, sizes), 0.0)]
    for j, k in enumerate(at[0].k):
        window, _ = at[0].windows(j)
        before = sizes[window].sum()
        sd = sigma * math.sqrt(1.0 / k + 1.0 / before)  # of the difference of the means
        density = np.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
        e = []
        for z in grid:
            y = np.zeros(sizes.size)
            y[window] = z * sd
            e.append(math.exp(fall(buckets(y, sigma**2, sizes), 0.0).log_e[j]))
        mean = float(np.trapezoid(np.array(e) * density, grid))
        assert 0.0 < mean <= 1.001 * weight(int(sizes.sum() - k)) / 2


def test_the_definition_has_under_the_null_exactly_the_mean_of_its_weight() -> None:
    grid, k, n = np.linspace(-14.0, 14.0, 2001), 3, 7
    sd = math.sqrt(2.0 * k)  # of the difference of the sums of two windows
    density = np.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
    e = [math.exp(summed([0.0] * (n - k - 1) + [z * sd] + [0.0] * k, [1.0] * n, k)) for z in grid]
    assert float(np.trapezoid(np.array(e) * density, grid)) == pytest.approx(weight(n - k) / 2, rel=1e-3)


def _ever_crosses(y: np.ndarray, sigma: np.ndarray, alpha: float) -> bool:
    return any(
        fall(buckets(y[:n], sigma[:n] ** 2), 0.0).together() >= math.log(1.0 / alpha) for n in range(2, y.size + 1)
    )


@pytest.mark.parametrize("shape", ["flat", "rising", "uneven noise"])
def test_under_the_null_it_ever_crosses_no_more_often_than_alpha(shape: str) -> None:
    rng, runs, n, alpha = np.random.default_rng(1), 150, 60, 0.2
    mean = 0.02 * np.arange(n) if shape == "rising" else np.zeros(n)
    sigma = np.exp(rng.uniform(-1, 1, n)) if shape == "uneven noise" else np.ones(n)
    crossed = sum(_ever_crosses(mean + sigma * rng.standard_normal(n), sigma, alpha) for _ in range(runs))
    assert crossed <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_a_fall_is_evidence_of_a_fall_at_the_fold_where_it_fell_and_not_of_a_rise() -> None:
    y = np.concatenate([np.ones(30), np.zeros(20)])
    folds = fall(buckets(y, 0.09), 0.0)
    assert folds.log_e.max() > math.log(1e6)
    assert folds.windows(int(folds.log_e.argmax()))[1] == slice(30, 50)
    assert rise(buckets(y, 0.09), 0.0).log_e.max() < 0.0


def _gathered(y: np.ndarray, gap: float, before: float) -> float:
    """The most that any fold of a shape ever gathers of a curve without noise: half its squared standard score."""
    found = []
    for k in range(1, int(y.size / (2 + gap)) + 1):
        window = y[max(y.size - math.ceil((1 + gap + before) * k), 0) : y.size - k - math.ceil(gap * k)]
        found.append((window.mean() - y[-k:].mean()) ** 2 / (1 / k + 1 / window.size) / 2)
    return max(found)


def test_of_a_rounded_top_windows_apart_gather_two_fifths_more_than_windows_that_touch() -> None:
    top = -(np.arange(-45.0, 46.0) ** 2)
    assert _gathered(top, GAP, BEFORE) == pytest.approx(1.4 * _gathered(top, 0.0, 1.0), rel=0.05)


def test_what_folds_show_together_is_the_sum_and_nothing_where_there_is_none() -> None:
    folds = fall(buckets(np.concatenate([np.ones(60), np.zeros(6)]), 0.09), 0.0)
    assert folds.together() == pytest.approx(math.log(np.exp(folds.log_e).sum()))
    assert folds.together() > folds.log_e.max() > 0.0
    assert fall(buckets(np.arange(9.0)), 1.0).together() == -math.inf


def test_a_rise_is_the_fall_of_the_mirror_image() -> None:
    y = np.random.default_rng(3).standard_normal(60) - 2.0 * (np.arange(60) > 40)
    mirror, straight = rise(buckets(-y), 1.0), fall(buckets(y), 1.0)
    assert np.array_equal(mirror.log_e, straight.log_e)
    assert np.array_equal(mirror.before, -straight.before)
    assert np.array_equal(mirror.after, -straight.after)


def test_neither_unit_nor_level_matters() -> None:
    y = np.random.default_rng(4).standard_normal(80) - 2.0 * (np.arange(80) > 55)
    plain = fall(buckets(y, 0.64), 0.8).log_e
    for unit, level in product((1e6, 1.0, 1e-6), (0.0, 1e5)):
        moved = fall(buckets(unit * (y + level), 0.64 * unit**2), 0.8 * unit).log_e
        assert np.allclose(moved, plain, rtol=0, atol=1e-6)


def test_overwhelming_evidence_does_not_overflow() -> None:
    y = np.concatenate([np.full(500, 1e6), np.zeros(500)])
    folds: Folds = fall(buckets(y), 1.0)
    assert not np.isnan(folds.log_e).any()
    assert math.isfinite(folds.log_e.max())


def test_a_split_at_a_round_number_costs_less_than_its_neighbours() -> None:
    weights = np.exp(log_weight(np.array([1023.0, 1024.0, 1025.0])))
    assert weights[1] > 100 * weights[0]
    assert weights[1] > 100 * weights[2]


def test_nothing_is_asked_where_all_folds_together_stay_below_the_least_and_all_is_where_they_do_not() -> None:
    asked = 0
    for seed in range(60):
        y = np.random.default_rng(seed).standard_normal(60) - 1.5 * (np.arange(60) > 48)
        every, some = fall(buckets(y), 1.0), fall(buckets(y), 1.0, least=3.0)
        if np.isfinite(some.log_e).any():
            asked += 1
            assert np.array_equal(some.log_e, every.log_e)
        else:
            assert every.together() < 3.0
    assert 5 < asked < 55


def test_folds_that_do_not_count_are_not_asked_and_the_others_are_as_they_were() -> None:
    y = np.random.default_rng(3).standard_normal(41) - 2.5 * (np.arange(41) > 25)
    for of, sign in ((fall, 1.0), (rise, -1.0)):
        every = of(buckets(sign * y), 0.0)
        some = of(buckets(sign * y), 0.0, lambda before, after, k: (k >= 14) & (np.abs(before - after) > 1.0))
        asked = (every.k >= 14) & (np.abs(every.before - every.after) > 1.0)
        assert np.array_equal(some.log_e, np.where(asked, every.log_e, -np.inf))
        assert np.isfinite(some.log_e).sum() >= 3
        assert np.isfinite(every.log_e).sum() > np.isfinite(some.log_e).sum()


@pytest.mark.parametrize("probes", [*range(2, 300), 1000, 4095, 4096, 4097, 70_000])
def test_no_split_in_the_newer_half_weighs_more_than_the_bound(probes: int) -> None:
    largest = max(log_weight(np.arange((probes + 1) // 2, probes, dtype=float)))
    assert largest_weight(probes) >= largest
    assert largest_weight(probes) == largest or probes <= 32


def test_where_the_bound_says_that_there_is_none_no_fold_has_evidence() -> None:
    rng = np.random.default_rng(5)
    said = passed_on = 0
    for _ in range(1000):
        n, turned = int(rng.integers(8, 400)), rng.random()
        y = 100.0 + rng.uniform(-2.0, 2.0) * (np.arange(n) > turned * n) + rng.standard_normal(n)
        kept = History()
        for i, variance in enumerate(rng.uniform(0.5, 2.0, n).tolist()):
            kept.append(Probe(i, float(y[i]), variance))
        seen = kept.buckets()
        for way, found in (("fall", fall(seen, 0.9)), ("rise", rise(seen, 0.9))):
            if none(seen, 0.9, way):
                said += 1
                assert found.together() == -math.inf
            else:
                passed_on += found.together() > -math.inf
    assert said > 500
    assert passed_on > 300  # neither of them says so always


@pytest.mark.parametrize("split", [16, 64, 256])
def test_the_bound_is_reached_by_a_step_at_the_split_that_weighs_most(split: int) -> None:
    least = math.sqrt(4.0 * (math.log(2.0) - math.log(weight(split))) / split)  # so much lower has evidence above zero
    for part, has_some in ((1.001, True), (0.999, False)):
        y = np.repeat([5.0, 5.0 - part * least], split)
        assert none(buckets(y), 1.0, "fall") is not has_some
        assert none(buckets(-y), 1.0, "rise") is not has_some
        assert (fall(buckets(y), 1.0).together() > -math.inf) is has_some


def test_most_probes_of_a_series_that_does_not_turn_need_no_more_than_the_bound() -> None:
    rng = np.random.default_rng(6)
    assert sum(none(buckets(rng.standard_normal(150)), 1.0, "fall") for _ in range(400)) > 370
