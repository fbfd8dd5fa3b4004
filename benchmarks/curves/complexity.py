"""Complexity: local complexity on log-spaced probes: a descent, an ascent, and a descent to the end.

Humayun et al. (2024), section 3: the first descent may be absent, batch norm removes the second, and in grokking there
are two ascents.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .curve import Curve, Family, Floats
from .noise import Noise, observe
from .shapes import rising

DECADES = 5.0
Draw = Callable[[np.random.Generator], tuple[list[float], list[float]]]
"""Turns in decades of steps and the levels there; the first pair is the start, the last is the end."""


def _two_descents(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    valley = rng.uniform(1.4, 2.0)
    top = valley + rng.uniform(1.2, 1.7)
    return [0.3, valley, top, DECADES], [1.0, rng.uniform(0.4, 0.6), rng.uniform(0.8, 1.1), rng.uniform(0.15, 0.4)]


def _no_first_descent(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    begin = rng.uniform(0.8, 1.6)
    top = begin + rng.uniform(1.2, 2.0)
    return [begin, top, DECADES], [rng.uniform(0.2, 0.5), 1.0, rng.uniform(0.15, 0.4)]


def _batch_norm(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    valley = rng.uniform(1.4, 2.0)
    return [0.3, valley, rng.uniform(3.5, 5.0)], [1.0, rng.uniform(0.4, 0.6), rng.uniform(0.8, 1.2)]


def _double_ascent(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    valley = rng.uniform(0.9, 1.2)
    first, dip, second = valley + np.cumsum(rng.uniform(0.7, 1.0, 3))
    level = rng.uniform(0.7, 0.9)
    return (
        [0.2, valley, first, dip, second, DECADES],
        [1.0, rng.uniform(0.35, 0.5), level, level * rng.uniform(0.75, 0.9), 1.0, rng.uniform(0.15, 0.4)],
    )


def complexity(draw_turns: Draw, *, peaks: bool, n: int = 60, snr: float = 20.0) -> Family:
    """Curves through given turns. The truth is the first peak, T is from a tenth of its ascent to there, in decades."""

    def draw(rng: np.random.Generator) -> Curve:
        at, level = draw_turns(rng)
        steps = np.unique(np.round(np.logspace(0.0, DECADES, n))).astype(np.int64)
        x = np.log10(steps)
        legs = [rising(rng) for _ in at[1:]]
        mean = _through(x, at, level, legs)
        curve = observe(rng, steps, mean, Noise(snr))
        tops = [i for i in range(1, len(at) - 1) if level[i] > level[i - 1] and level[i] > level[i + 1]]
        if not peaks:
            return curve
        i = tops[0]
        fine = np.linspace(at[i - 1], at[i], 2001)
        done = (_through(fine, at, level, legs) - level[i - 1]) / (level[i] - level[i - 1])
        turns = tuple(round(10.0**turn) for turn in at[1:-1])
        return replace(
            curve, truth=turns[i - 1], turns=turns, rise=float(at[i] - fine[np.argmax(done >= 0.1)]), log_axis=True
        )

    return Family("", "peak_passed", null=not peaks, draw=draw)


def _through(x: Floats, at: list[float], level: list[float], legs: list[Callable[[Floats], Floats]]) -> Floats:
    mean = np.full(x.size, level[0])
    for shape, left, right, low, high in zip(legs, at, at[1:], level, level[1:], strict=False):
        mean = np.where(x >= left, low + (high - low) * shape((x - left) / (right - left)), mean)
    return mean


NAMED: dict[str, Family] = {
    "complexity, two descents": complexity(_two_descents, peaks=True),
    "complexity, no first descent": complexity(_no_first_descent, peaks=True),
    "complexity, double ascent": complexity(_double_ascent, peaks=True),
    "complexity, batch norm": complexity(_batch_norm, peaks=False),
}
