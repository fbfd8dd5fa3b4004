"""Families of curves: the truth is where it is said to be, and the noise is what it is said to be."""

import numpy as np
import pytest
from curves import complexity, nulls, onsets, peaks, spikes, stability, walks
from curves.curve import Curve
from curves.families import FAMILIES
from curves.noise import PROCESS_SHARE

SEEDS = range(40)
PLAIN_PEAKS = [name for name in peaks.NAMED if name not in {"peak, double", "peak, level change"}]
UNSEEN = {"peak, 40 probes", "peak, irregular", "peak, immediate rise"}
"""Peaks whose tenth of the rise lies between distant probes or before the first."""
FALLING_NULLS = {"null, step down", "null, declining", "null, dip"}


def curves(name: str) -> list[Curve]:
    return [FAMILIES[name](seed) for seed in SEEDS]


def share_done(curve: Curve, at: float) -> float:
    """How much of the way from the lowest mean before the truth to the mean at the truth is done at a step."""
    assert curve.truth is not None
    low = curve.mean[curve.steps <= curve.truth].min()
    then, top = np.interp([at, curve.truth], curve.steps, curve.mean)
    return float((then - low) / (top - low))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_gives_the_same_curve_each_time_and_no_other_seed_gives_it(name: str) -> None:
    once, again, other = FAMILIES[name](3), FAMILIES[name](3), FAMILIES[name](4)
    assert np.array_equal(once.values, again.values)
    assert np.array_equal(once.steps, again.steps)
    assert once.truth == again.truth
    assert not np.array_equal(once.values[:5], other.values[:5])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_curve_is_finite_in_step_order_and_has_a_truth_unless_it_is_a_null(name: str) -> None:
    for curve in curves(name):
        assert np.all(np.diff(curve.steps) > 0)
        shapes = {column.shape for column in (curve.steps, curve.mean, curve.sd, curve.values)}
        assert shapes == {curve.steps.shape}
        assert np.isfinite(curve.values).all()
        assert np.all(curve.sd > 0)
        assert (curve.truth is None) == FAMILIES[name].null
        if curve.truth is not None:
            assert curve.steps[0] < curve.truth < curve.steps[-1]
            assert curve.rise > 0
            assert curve.truth in curve.turns


@pytest.mark.parametrize("name", PLAIN_PEAKS)
def test_a_peak_is_highest_at_its_truth_and_a_tenth_has_risen_one_rise_time_before(name: str) -> None:
    for curve in curves(name):
        assert curve.truth is not None
        top = int(curve.mean.argmax())
        around = curve.steps[max(top - 1, 0)], curve.steps[min(top + 1, curve.steps.size - 1)]
        assert around[0] <= curve.truth <= around[1]
        assert np.all(np.diff(curve.mean[top:]) <= 1e-9 * curve.mean[top])
        if curve.truth - curve.rise > curve.steps[0] and name not in UNSEEN:
            assert share_done(curve, curve.truth - curve.rise) == pytest.approx(0.1, abs=0.08)


def test_a_double_peak_has_a_valley_between_and_its_first_peak_is_the_truth() -> None:
    for curve in curves("peak, double"):
        first, valley, second = (float(np.interp(turn, curve.steps, curve.mean)) for turn in curve.turns)
        assert curve.truth == curve.turns[0]
        assert valley < 0.9 * first
        assert valley < 0.9 * second


@pytest.mark.parametrize("snr", [5, 10, 20, 50])
def test_the_height_of_a_peak_over_its_noise_is_the_snr_in_its_name(snr: int) -> None:
    drawn = curves(f"peak SNR {snr}")
    for curve in drawn:
        top = int(curve.mean.argmax())
        assert curve.mean[top] / curve.sd[top] == pytest.approx(snr, rel=0.01)
        assert curve.sd[0] == pytest.approx((0.3 * curve.mean[top] + 0.7 * curve.mean[0]) / snr)
    unit = np.concatenate([(curve.values - curve.mean) / curve.sd for curve in drawn])
    assert unit.std() == pytest.approx(1.0, abs=0.05)
    assert unit.mean() == pytest.approx(0.0, abs=0.05)


def test_a_reported_error_is_the_noise_within_eight_percent() -> None:
    drawn = curves("peak SNR 10")
    ratio = np.concatenate([curve.stderr / curve.sd for curve in drawn if curve.stderr is not None])
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)
    assert ratio.std() == pytest.approx(0.08, abs=0.01)
    assert all(curve.stderr is None for curve in curves("peak, no stderr"))


@pytest.mark.parametrize(("name", "phi"), [("null, AR(.3)", 0.3), ("null, AR(.8)", 0.8), ("peak, AR(.8)", 0.8)])
def test_seven_tenths_of_the_variance_is_autocorrelated_and_unknown_to_the_reported_error(
    name: str, phi: float
) -> None:
    drawn = [FAMILIES[name](seed) for seed in range(200)]
    unit = np.array([(curve.values - curve.mean) / curve.sd for curve in drawn])
    assert unit.std() == pytest.approx(1.0, abs=0.05)
    for lag in (1, 2):
        assert np.mean(unit[:, lag:] * unit[:, :-lag]) == pytest.approx(PROCESS_SHARE * phi**lag, abs=0.05)
    ratio = np.concatenate([curve.stderr / curve.sd for curve in drawn if curve.stderr is not None])
    assert ratio.mean() == pytest.approx(np.sqrt(1 - PROCESS_SHARE), abs=0.01)


@pytest.mark.parametrize("name", [name for name in nulls.NAMED if name not in FALLING_NULLS])
def test_the_mean_of_a_null_never_declines(name: str) -> None:
    for curve in curves(name):
        assert np.all(np.diff(curve.mean) >= -1e-9 * curve.mean.max())


def test_a_declining_null_never_rises_and_a_dip_recovers() -> None:
    assert all(np.all(np.diff(curve.mean) <= 1e-9 * curve.mean.max()) for curve in curves("null, declining"))
    for curve in curves("null, dip"):
        peak = np.maximum.accumulate(curve.mean)
        assert 0.12 <= float((1 - curve.mean / peak).max()) <= 0.36
        assert curve.mean[-1] == curve.mean.max()


def test_wild_probes_are_as_many_and_as_large_as_said() -> None:
    drawn = curves("null, spikes")
    wild = np.concatenate([curve.values > curve.mean + 10 * curve.sd for curve in drawn])
    assert 0.01 < wild.mean() < 0.04
    for curve in curves("null, giant spike"):
        assert np.sum(curve.values > 15 * curve.mean.max()) == 1


def test_missing_probes_are_three_in_ten_and_irregular_ones_lie_at_ragged_distances() -> None:
    assert np.mean([curve.steps.size for curve in curves("null, missing")]) == pytest.approx(105, abs=4)
    gaps = np.diff(curves("null, irregular")[0].steps)
    assert gaps.std() > 0.5 * gaps.mean()


@pytest.mark.parametrize("name", [name for name, family in stability.NAMED.items() if family.asked == "stabilised"])
def test_a_settling_curve_has_done_nine_tenths_at_its_truth_and_a_moving_one_never_slows(name: str) -> None:
    for curve in curves(name):
        if curve.truth is None:
            slope = np.diff(curve.mean)
            assert slope[-20:].mean() >= 0.99 * slope[:20].mean() > 0
            continue
        begin = int(curve.mean.argmax()) if name == "settling, rise peak fall flat" else 0
        done = (curve.mean - curve.mean[begin]) / (curve.mean[-1] - curve.mean[begin])
        at = int(np.searchsorted(curve.steps, curve.truth))
        assert done[at - 1] < 0.9 <= done[at]


@pytest.mark.parametrize("name", ["edge, clean", "edge, noisy", "edge, moving target"])
def test_sharpness_is_below_its_target_before_the_truth_and_within_a_tenth_of_it_after(name: str) -> None:
    for curve in curves(name):
        assert curve.target is not None
        assert curve.earliest is not None
        share = curve.mean / curve.target
        at = int(np.searchsorted(curve.steps, curve.truth))
        assert np.all(share[:at] < 1.0)
        assert np.all(np.abs(share[at:] - 1.02) < 0.12)
        assert np.all(share[curve.steps < curve.earliest] < stability.NEAR)


def test_sharpness_that_does_not_hover_stays_below_comes_down_or_goes_through() -> None:
    def share(name: str) -> list[np.ndarray]:
        return [curve.mean / curve.target for curve in curves(name) if curve.target is not None]

    assert all(np.all(below < 0.85) for below in share("edge null, below"))
    assert all(catapult.max() > 1.4 and catapult[-1] < 0.93 for catapult in share("edge null, catapult"))
    assert all(through[0] < 0.5 and through[-1] > 1.5 for through in share("edge null, passes through"))


def test_a_spike_jumps_at_its_onset_by_its_size_and_is_over_in_twenty_steps() -> None:
    for curve in curves("spikes in a loss"):
        assert 1 <= len(curve.turns) <= 3
        jumps = np.diff(curve.mean) / curve.mean[:-1]
        assert sorted(np.flatnonzero(jumps > 0.1) + 1) == sorted(curve.turns)
        for onset in curve.turns:
            assert 0.14 < jumps[onset - 1] < 1.01
            assert curve.mean[onset + 20] < curve.mean[onset - 1]
    assert all(np.all(np.diff(curve.mean) < 0) for name in spikes.NAMED if "healthy" in name for curve in curves(name))


@pytest.mark.parametrize("name", ["grokking", "grokking, AR(.8)", "plasticity loss"])
def test_an_onset_is_where_the_level_begins_to_leave(name: str) -> None:
    for curve in curves(name):
        assert curve.truth is not None
        start, end = curve.mean[0], curve.mean[-1]
        done = (np.interp(curve.truth, curve.steps, curve.mean) - start) / (end - start)
        assert done == pytest.approx(0.1 if name.startswith("grokking") else 0.0, abs=0.02)
        later = float(np.interp(curve.truth + curve.rise, curve.steps, curve.mean))
        assert abs(later - start) > 0.85 * abs(end - start)


@pytest.mark.parametrize("name", [*[n for n in onsets.NAMED if n.startswith("recon")], *complexity.NAMED])
def test_turns_on_a_log_axis_are_where_the_mean_turns(name: str) -> None:
    for curve in curves(name):
        if curve.truth is None:
            continue
        x, turn = np.log10(1.0 + curve.steps), np.log10(1.0 + curve.truth)
        near = np.abs(x - turn) < 0.4 * curve.rise
        best = x[near][np.argmin(curve.mean[near]) if name.startswith("recon") else np.argmax(curve.mean[near])]
        assert abs(best - turn) <= np.diff(x)[near[1:]].max() + 1e-9
        assert curve.delay(curve.truth) == 0.0
        assert curve.delay(round(10.0 ** (turn + curve.rise))) == pytest.approx(1.0, abs=0.05)


def test_local_complexity_with_batch_norm_descends_and_rises_and_stays() -> None:
    for curve in curves("complexity, batch norm"):
        low = int(curve.mean.argmin())
        assert np.all(np.diff(curve.mean[low:]) >= -1e-9)
        assert curve.mean[-1] > 1.3 * curve.mean[low]


@pytest.mark.parametrize(("name", "noise"), [("random walk", 0.1), ("random walk in noise", 0.5)])
def test_a_walk_has_independent_steps_of_one_size_and_the_noise_that_is_reported(name: str, noise: float) -> None:
    steps, seen, correlated = [], [], []
    for curve in curves(f"{name}, onset_down"):
        assert curve.stderr is not None
        level = curve.mean[0]
        step = np.diff(curve.mean) / level
        steps.append(step.std())
        correlated.append(np.corrcoef(step[1:], step[:-1])[0, 1])
        seen.append((curve.values - curve.mean).std() / np.median(curve.stderr))
        assert np.median(curve.stderr) / level == pytest.approx(noise * walks.STEP, rel=0.15)
    assert np.median(steps) == pytest.approx(walks.STEP, rel=0.05)
    assert np.median(correlated) == pytest.approx(0.0, abs=0.05)
    assert np.median(seen) == pytest.approx(1.0, rel=0.05)
