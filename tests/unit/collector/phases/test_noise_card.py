"""The noise card calls noise by its name, and refuses what cannot be judged."""

import math

import numpy as np
import pytest

from collector.phases.meter import NoiseMeter
from collector.phases.noise_card import CORRELATED, noise_card
from collector.phases.transition import NoiseCard

RUNS = 60


def card(y: np.ndarray, paired: float = math.nan, *, relative: bool = False) -> NoiseCard:
    meter = NoiseMeter(relative=relative)
    for i, value in enumerate(y.tolist()):
        meter.take(float(i), value, paired, replaced=False)
    return noise_card(meter, float(y[-4:].mean()))


def white(seed: int, n: int = 150) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def ar1(seed: int, coefficient: float, n: int = 150) -> np.ndarray:
    y = white(seed, n)
    for i in range(1, n):
        y[i] = coefficient * y[i - 1] + math.sqrt(1 - coefficient**2) * y[i]
    return y


def verdicts(series: list[np.ndarray]) -> list[str]:
    return [card(y).verdict for y in series]


def test_white_noise_is_white_and_hardly_ever_unassessable() -> None:
    found = verdicts([white(seed) for seed in range(3 * RUNS)])
    assert found.count("white") >= 0.85 * len(found)
    assert found.count("unassessable") <= 0.03 * len(found)


def test_a_random_walk_is_unassessable_and_hardly_ever_called_white() -> None:
    found = verdicts([white(seed, 400).cumsum() for seed in range(2 * RUNS)])
    assert found.count("unassessable") >= 0.9 * len(found)
    assert found.count("white") <= 0.02 * len(found)


@pytest.mark.parametrize(
    "trend",
    [
        lambda t: t / 30,
        lambda t: 20 * (1 - np.exp(-t / 40)),
        lambda t: 20 * np.exp(-t / 15),
        lambda t: 5 * np.sin(t / 30),
    ],
    ids=["line", "saturation", "decay", "wave"],
)
def test_a_smooth_trend_is_never_unassessable(trend) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    t = np.arange(150.0)
    for noise in (1.0, 0.1, 0.001):
        assert "unassessable" not in verdicts([trend(t) + noise * white(seed) for seed in range(30)])


def test_an_ar1_process_is_called_correlated_with_about_its_coefficient() -> None:
    cards = [card(ar1(seed, 0.8)) for seed in range(RUNS)]
    assert [c.verdict for c in cards].count("white") <= 0.25 * RUNS
    assert sum(c.verdict in ("correlated", "unassessable") for c in cards) >= 0.75 * RUNS
    assert np.median([c.autocorrelation for c in cards]) == pytest.approx(0.8, abs=0.2)


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 0.5])
def test_the_autocorrelation_is_about_right_where_there_are_many_series(coefficient: float) -> None:
    found = np.median([card(ar1(seed, coefficient, 300)).autocorrelation for seed in range(RUNS)])
    assert found == pytest.approx(coefficient, abs=0.12)
    assert (found >= CORRELATED) == (coefficient >= 0.5) or coefficient == 0.3


def test_nothing_is_said_of_the_correlation_of_a_few_probes() -> None:
    assert card(white(0, 30)).verdict == "unknown"
    nothing = noise_card(NoiseMeter(relative=True), math.nan)
    assert (nothing.verdict, nothing.probes, nothing.outliers, nothing.estimator) == ("unknown", 0, 0.0, None)
    assert nothing.believed is None


def test_figures_are_relative_to_the_level_on_a_linear_axis_and_nats_on_a_logarithmic_one() -> None:
    y = 0.5 * white(1)
    assert card(50.0 + y).believed == pytest.approx(0.01, rel=0.3)
    assert card(-50.0 + y).believed == pytest.approx(0.01, rel=0.3)
    assert card(50.0 + y, relative=True).believed == pytest.approx(0.5, rel=0.3)


def test_what_the_estimator_reports_is_told_apart_from_what_training_adds() -> None:
    alone = card(10.0 + white(2), paired=1.0)
    assert alone.estimator == pytest.approx(0.1, rel=0.1)
    assert alone.process < 0.07
    wandering = card(10.0 + white(2), paired=0.1)
    assert wandering.process == pytest.approx(0.1, rel=0.3)
    assert card(10.0 + white(2)).estimator is None


def test_tails_are_one_for_a_gaussian_and_more_where_they_are_heavy() -> None:
    gauss = np.median([card(white(seed)).tails for seed in range(RUNS)])
    heavy = np.median([card(np.random.default_rng(seed).standard_t(2.0, 150)).tails for seed in range(RUNS)])
    assert gauss == pytest.approx(1.0, abs=0.1)
    assert heavy > 1.2
