"""The planner's law is what a brute-force bound says, and its command tells it."""

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from typer.testing import CliRunner

from collector.cli import app
from collector.errors import CollectorError
from collector.phases.isotonic import isotonic
from collector.phases.planner import bound, cadence, plan, squared_distance
from tests import collector_fixtures, curves
from tests.curves import Floats


def pooled(mean: Floats) -> Floats:
    return isotonic(mean, np.ones(mean.size))


@pytest.mark.parametrize(("curvature", "after"), [(1.0, 1.0), (3.0, 0.4), (0.2, 2.0)])
def test_the_distance_is_that_of_a_parabola_pooled_numerically(curvature: float, after: float) -> None:
    density = 4000 / after
    t = np.arange(-2.0 * after, after, 1.0 / density)
    mean = -0.5 * curvature * t**2
    numerically = float(np.sum((mean - pooled(mean)) ** 2)) / density
    assert squared_distance(curvature, after) == pytest.approx(numerically, rel=0.01)
    level = np.flatnonzero(pooled(mean) == pooled(mean)[-1])[0]
    assert t[level] == pytest.approx(-after / 2, rel=0.01)  # the block that is pooled begins there


def test_at_the_bound_the_best_test_finds_half_of_the_peaks() -> None:
    snr, probes, decline, alpha = 20.0, 400, 0.5, 0.01
    after = bound(snr, probes, decline=decline, alpha=alpha)
    t = np.arange(-1.0, after, 1.0 / probes)
    mean = snr * (1.0 - decline * t**2)
    apart = mean - pooled(mean)
    rng = np.random.default_rng(0)
    runs = rng.standard_normal((4000, t.size)) @ apart / np.linalg.norm(apart)
    threshold = NormalDist().inv_cdf(1.0 - alpha)
    assert float(np.mean(runs > threshold)) == pytest.approx(alpha, abs=0.006)  # had it never fallen
    assert float(np.mean(runs + np.linalg.norm(apart) > threshold)) == pytest.approx(0.5, abs=0.04)


def numerical_bound(shape: str, snr2m: float) -> tuple[float, float]:
    """The bound of a smooth peak in rise times, by pooling and bisection, and the law's for its curvature."""
    density = 1000
    t = np.arange(0.0, 12.0, 1.0 / density)  # the peak is at 1
    mean = np.exp(-0.5 * ((t - 1.0) / 0.4) ** 2) if shape == "gauss" else curves.bump(t, 1.0, 1.5)
    rise = 1.0 - float(np.interp(0.1, mean[: density + 1], t[: density + 1]))
    curvature = (1.0 / 0.4**2 if shape == "gauss" else 1.5) * rise**2
    variance = rise * density / snr2m
    needed = NormalDist().inv_cdf(0.99) ** 2
    low, high = density, t.size
    while high - low > 1:
        middle = (low + high) // 2
        far = float(np.sum((mean[:middle] - pooled(mean[:middle])) ** 2)) / variance >= needed
        low, high = (low, middle) if far else (middle, high)
    return (t[high - 1] - 1.0) / rise, bound(snr2m**0.5, 1.0, decline=curvature / 2.0)


@pytest.mark.parametrize(
    ("shape", "snr2m", "longer"),
    [("gauss", 1e3, 1.08), ("gauss", 1e5, 1.02), ("skewed", 1e3, 1.25), ("skewed", 1e5, 1.08)],
)
def test_the_law_is_a_lower_bound_of_smooth_peaks_and_near_it(shape: str, snr2m: float, longer: float) -> None:
    true, law = numerical_bound(shape, snr2m)
    assert 0.99 * law < true < longer * law


def test_the_delay_of_a_smooth_peak_goes_with_the_fifth_root() -> None:
    delays = [numerical_bound("gauss", snr2m)[0] for snr2m in (1e5, 1e7)]
    assert np.log(delays[0] / delays[1]) / np.log(100.0) == pytest.approx(0.2, abs=0.006)


@pytest.mark.parametrize(
    ("probes", "snr", "measured"), [(24, 10, 1.21), (24, 50, 0.59), (100, 10, 0.94), (100, 100, 0.36)]
)
def test_it_tells_the_bounds_that_were_measured_on_slowly_declining_curves(
    probes: float, snr: float, measured: float
) -> None:
    assert bound(snr, probes) == pytest.approx(measured, rel=0.08)


def test_half_the_delay_costs_5_7_times_less_noise_or_32_times_the_probes() -> None:
    now = plan(0.1, 20, 480)
    assert now.changed(noise=2**-2.5).delay == pytest.approx(now.delay / 2)
    assert now.changed(probes=32).delay == pytest.approx(now.delay / 2)
    again = plan(0.05, 5, 480)
    assert now.changed(noise=0.5, probes=4).delay == pytest.approx(again.delay)
    assert now.changed(noise=0.5, probes=4).every_steps == again.every_steps


def test_a_plan_is_one_sentence() -> None:
    assert plan(0.1, 20, 480).sentence == (
        "With a noise of 10 % a probe and a probe every 20 steps, a rise of 480 steps can be seen to have peaked about "
        "1.9 rise times (920 steps) after the peak; with a quarter of the noise: 1.1."
    )
    assert "more than" in plan(0.5, 20, 200).sentence


@pytest.mark.parametrize(
    ("numbers", "words"),
    [((0.0, 20, 480), "noise of 0"), ((0.1, -1, 480), "between probes of -1"), ((0.1, 20, 5), "rise of 5 steps")],
)
def test_a_plan_of_impossible_numbers_is_refused(numbers: tuple[float, float, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan(*numbers)


def test_noise_cadence_and_rise_are_those_of_the_series() -> None:
    curve = curves.rise_peak_decay(4, snr=20.0)
    found = cadence(curve.steps, curve.values, curve.paired)
    assert found.every_steps == 20
    assert 0.03 < found.noise < 0.12  # the noise is relative, and the level lower than the peak's for most of the run
    assert found.rise_steps == pytest.approx(curve.rise_steps, rel=0.5)
    assert cadence(curve.steps, np.linspace(1.0, 2.0, 150)).rise_steps is None


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code == 0
    return done.output


def test_the_command_tells_the_delay_and_what_would_shorten_it() -> None:
    output = told("--noise", "0.1", "--every", "20", "--rise", "480")
    assert "about 1.9 rise times (920 steps)" in " ".join(output.split())
    assert "a quarter of the noise" in output


def test_the_command_takes_noise_and_cadence_from_a_stored_run(tmp_path: Path) -> None:
    collector_fixtures.seed(tmp_path / "store.sqlite", now=1_790_000_100.0).store.close()
    run = ("--store", str(tmp_path / "store.sqlite"), "--run", "digits-cnn", "--json")
    now, half, *_ = json.loads(told(*run))
    assert 0.01 < now["noise"] < 0.04  # it was drawn with 2 %
    assert 300 < now["rise_steps"] < 600
    assert half["noise"] == pytest.approx(now["noise"] / 2)
    assert json.loads(told(*run, "--noise", "0.3"))[0]["noise"] == 0.3
    with pytest.raises(CollectorError, match=r"did not measure\. It measured: fisher_trace"):
        told(*run, "--quantity", "mistyped")


def test_the_command_asks_for_what_is_lacking() -> None:
    with pytest.raises(CollectorError, match="no --every, no --rise"):
        told("--noise", "0.1")
    with pytest.raises(CollectorError, match="rise of 1 steps"):
        told("--noise", "0.1", "--every", "20", "--rise", "1")
