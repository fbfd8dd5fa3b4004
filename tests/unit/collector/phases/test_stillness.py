"""The published rule for the end of an intervention is followed to the letter."""

import json

import numpy as np
import pytest

from collector.phases.stillness import LONGEST, Stillness
from tests.phase_runs import turn


def published(signal: np.ndarray, tau: int, epsilon: float) -> int | None:
    """Liu and Gurevych (2024), algorithm 2, with what is known at each probe: normalise, average, difference, compare."""
    moved = False
    for i in range(tau, signal.size):
        seen = signal[: i + 1] / np.abs(signal[: i + 1]).max()
        mu = np.convolve(seen, np.full(tau, 1.0 / tau), "valid")
        if abs(mu[-1] - mu[-2]) > epsilon:
            moved = True
        elif moved:
            return i
    return None


def found(signal: np.ndarray, tau: int, epsilon: float) -> int | None:
    still, rule = Stillness(), turn("a", "b", "still", window=tau, slope=epsilon)
    for i, value in enumerate(signal.tolist()):
        still.take(i, value)
        case = still.verdict(rule)
        if case is not None:
            assert case.after.n == tau
            assert case.after.mean == pytest.approx(signal[i - tau + 1 : i + 1].mean())
            assert case.before.mean == pytest.approx(signal[i - tau : i].mean())
            assert case.happened[0] == case.after.last_step == i
            return i
    return None


@pytest.mark.parametrize(("tau", "epsilon"), [(3, 0.02), (8, 0.02), (1, 0.1), (LONGEST, 0.005)])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_published_rule(tau: int, epsilon: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t = np.arange(150.0)
    signal = (1 - np.exp(-t / 15)) * (1 + 0.05 * rng.standard_normal(150)) * 10.0 ** rng.uniform(-3, 3)
    assert found(signal, tau, epsilon) == published(signal, tau, epsilon)
    assert found(-signal, tau, epsilon) == published(signal, tau, epsilon)


def test_what_never_moved_is_not_still() -> None:
    assert found(np.ones(100), 8, 0.02) is None
    assert found(np.zeros(100), 8, 0.02) is None


def test_what_moves_on_is_not_still() -> None:
    assert found(1.2 ** np.arange(100.0), 3, 0.02) is None


def test_it_comes_back_from_json_and_goes_on_as_it_would_have() -> None:
    signal = 1 - np.exp(-np.arange(80.0) / 10)
    rule = turn("a", "b", "still", window=8, slope=0.02)
    for cut in range(0, 80, 7):
        kept, back = Stillness(), Stillness()
        for i in range(cut):
            kept.take(i, float(signal[i]))
            kept.verdict(rule)
        back.restore(json.loads(json.dumps(kept.state())))
        for i in range(cut, 80):
            for one in (kept, back):
                one.take(i, float(signal[i]))
            assert repr(kept.verdict(rule)) == repr(back.verdict(rule))
