"""Walks: random walks, which rise and fall and have no trend; who tells one is wrong, for it may be over with the next probe."""

from dataclasses import replace

import numpy as np

from .curve import Curve, Family
from .noise import Noise, observe
from .shapes import spacing

STEP = 0.01
"""The standard deviation of a step over the level at the begin."""


def walk(asked: str, noise: float, n: int = 300) -> Family:
    """A random walk seen through an estimator whose error is ``noise`` steps, and is reported."""

    def draw(rng: np.random.Generator) -> Curve:
        path = np.maximum(1.0 + STEP * rng.standard_normal(n).cumsum(), STEP)
        curve = observe(rng, np.arange(n) * spacing(rng), np.ones(n), Noise(1.0 / (STEP * noise)))
        scale = float(curve.mean[0])
        return replace(curve, mean=scale * path, values=curve.values + scale * (path - 1.0))

    return Family("", asked, null=True, draw=draw)


NAMED: dict[str, Family] = {
    f"{name}, {asked}": walk(asked, noise)
    for name, noise in (("random walk", 0.1), ("random walk in noise", 0.5))
    for asked in ("peak_passed", "onset_down", "onset_up", "stabilised")
}
