"""Wild values are replaced and counted before any test; a trend and a fast rise are left alone."""

import json
import math

import numpy as np
import pytest

from collector.phases.cleaner import WINDOW, Cleaner
from collector.phases.history import Probe


def cleaned(y: np.ndarray, paired: float = math.nan, cleaner: Cleaner | None = None) -> list[Probe]:
    """Each probe as it is at the end, final or not."""
    cleaner = cleaner or Cleaner("log", "linear")
    final = [probe for i, value in enumerate(y.tolist()) for probe in cleaner.take(i, value, paired)]
    return [*final, *cleaner.newest()]


def replaced(y: np.ndarray, paired: float = math.nan) -> list[int]:
    return [probe.step for probe in cleaned(y, paired) if probe.replaced]


def white(seed: int, n: int = 40) -> np.ndarray:
    return np.asarray(0.1 * np.random.default_rng(seed).standard_normal(n))


def test_every_probe_is_told_once_in_order_and_final_when_three_more_have_come() -> None:
    cleaner, told = Cleaner("linear", "linear"), []
    for i, value in enumerate(white(0, 30).tolist()):
        told += [probe.step for probe in cleaner.take(i, value, math.nan)]
        assert told == list(range(i - 2 if i >= WINDOW - 1 else 0))
        assert told + [probe.step for probe in cleaner.newest()] == list(range(i + 1))


@pytest.mark.parametrize("at", [0, 1, 2, 3, 20, 36, 38, 39], ids=lambda at: f"probe {at}")
def test_one_giant_is_replaced_wherever_it_is(at: int) -> None:
    for size in (50.0, -50.0):
        y = white(7)
        y[at] = size
        assert replaced(y) == [at]
        assert abs(cleaned(y)[at].y) < 0.4


def test_three_wild_values_in_a_row_are_replaced_and_four_are_a_level() -> None:
    y = white(8)
    y[20:23] = 2.0
    assert replaced(y) == [20, 21, 22]
    y[23] = 2.0
    assert replaced(y) == []


def test_what_was_replaced_is_counted() -> None:
    y, cleaner = white(9, 100), Cleaner("log", "linear")
    y[[20, 50, 51, 80]] = 9.0
    cleaned(y, cleaner=cleaner)
    assert cleaner.meter.replaced == 4
    assert cleaner.meter.probes == 97  # three are not final yet


def test_a_giant_does_not_become_the_noise() -> None:
    y, cleaner = white(10, 60), Cleaner("log", "linear")
    y[5::9] = 9.0
    cleaned(y, cleaner=cleaner)
    assert cleaner.meter.sigma() < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_noise_that_grows_tenfold_is_seen_to_grow_and_giants_in_it_are_still_replaced(seed: int) -> None:
    y, cleaner = np.concatenate([white(seed, 80), 10.0 * white(seed + 10, 80)]), Cleaner("linear", "linear")
    y[[110, 140]] = 90.0
    probes, outgrown = [], []
    for i, value in enumerate(y.tolist()):
        probes += cleaner.take(i, value, math.nan)
        outgrown.append(cleaner.outgrown)
    assert any(outgrown[80:110])
    assert not any(outgrown[:80])
    assert not outgrown[-1]
    assert cleaner.meter.sigma() > 0.6
    assert max(abs(probe.y) for probe in probes) < 10.0


def test_counts_that_are_mostly_zero_are_no_row_of_outliers() -> None:
    counts = np.random.default_rng(0).poisson(0.3, 200).astype(float)
    cleaner = Cleaner("linear", "linear")
    cleaned(counts, cleaner=cleaner)
    assert cleaner.meter.sigma() > 0.3


def test_sound_noise_is_hardly_ever_replaced() -> None:
    share = np.mean([len(replaced(white(seed, 150))) / 150 for seed in range(40)])
    assert share < 0.01


def test_a_rise_within_the_first_probes_is_not_an_outlier() -> None:
    rise = np.concatenate([[-3.0, -1.5, -0.6], 0.02 * np.random.default_rng(9).standard_normal(30)])
    assert replaced(rise) == []


def test_a_rise_within_five_probes_survives_anywhere() -> None:
    for at in (5, 15, 30):
        y = 0.02 * np.random.default_rng(at).standard_normal(50) + np.clip((np.arange(50.0) - at) / 5, 0, 1)
        assert replaced(y) == [], at


def test_a_steady_trend_is_not_an_outlier_anywhere() -> None:
    assert replaced(np.arange(30.0), paired=0.01) == []


def test_the_noise_of_a_probe_is_at_least_what_was_reported_of_it() -> None:
    probes = cleaned(white(11), paired=0.3)
    assert all(probe.variance >= 0.3**2 for probe in probes)
    assert all(probe.variance > 0.0 for probe in cleaned(white(11))[:-3])


def test_a_cleaner_comes_back_from_json_and_goes_on_as_it_would_have() -> None:
    noisy = white(12, 60)
    noisy[[3, 30, 57]] = 5.0
    y = noisy.tolist()
    for cut in range(60):
        kept, back = Cleaner("linear", "log"), Cleaner("linear", "log")
        for i in range(cut):
            kept.take(i, y[i], math.nan)
        back.restore(json.loads(json.dumps(kept.state())))
        assert kept.newest() == back.newest()
        for i in range(cut, 60):
            assert kept.take(i, y[i], 0.1) == back.take(i, y[i], 0.1)
