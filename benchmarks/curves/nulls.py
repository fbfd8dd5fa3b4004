"""Nulls: curves that never rise and then decline for good; who says that the peak has passed is wrong."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .curve import Curve, Family, Floats
from .noise import Noise, observe, thinned
from .peaks import ragged_times
from .shapes import decaying, saturation, spacing

Mean = Callable[[np.random.Generator, Floats], Floats]


def constant(_: np.random.Generator, t: Floats) -> Floats:
    """A level that stays."""
    return np.full(t.size, 1.0)


def linear(rng: np.random.Generator, t: Floats) -> Floats:
    """Growth without end, 2 to 10 times over the run."""
    return np.asarray(1.0 + rng.uniform(1.0, 9.0) * t / t[-1])


def saturating(rng: np.random.Generator, t: Floats) -> Floats:
    """A rise that stays up: most of it over within a fifteenth to a third of the run."""
    base = rng.uniform(0.03, 0.5)
    return base + (1.0 - base) * saturation(rng)((t - rng.uniform(0.0, 8.0)) / (t[-1] * rng.uniform(0.06, 0.3)))


def staircase(rng: np.random.Generator, t: Floats) -> Floats:
    """Three to six steps up with plateaus between them."""
    at = rng.uniform(0.03, 0.95, rng.integers(3, 7)) * t[-1]
    width = rng.uniform(0.002, 0.04, at.size) * t[-1]
    height = rng.uniform(0.3, 1.0, at.size)
    steps: Floats = height / (1.0 + np.exp(-np.clip((t[:, None] - at) / width, -60.0, 60.0)))
    return np.asarray(rng.uniform(0.1, 0.5) + steps.sum(axis=1))


def logarithmic(rng: np.random.Generator, t: Floats) -> Floats:
    """Ever slower growth that never ends."""
    return rng.uniform(0.1, 1.0) + np.log1p(t / rng.uniform(0.5, 10.0))


def second_rise(rng: np.random.Generator, t: Floats) -> Floats:
    """A rise, a plateau, and late in the run another rise."""
    late = (t / t[-1] - rng.uniform(0.5, 0.8)) / rng.uniform(0.05, 0.15)
    return saturating(rng, t) + rng.uniform(0.3, 1.5) * np.asarray(saturation(rng)(late))


def declining(rng: np.random.Generator, t: Floats) -> Floats:
    """Highest at the first probe: it never rose."""
    floor = rng.uniform(0.05, 0.5)
    return floor + (1.0 - floor) * decaying(rng)(t / (t[-1] * rng.uniform(0.07, 0.5)))


def stepping_down(rng: np.random.Generator, t: Floats) -> Floats:
    """A constant that steps down once; only noise can have looked like a rise before it."""
    return np.where(t < rng.uniform(0.2, 0.8) * t[-1], 1.0, rng.uniform(0.5, 0.85))


def pausing(rng: np.random.Generator, t: Floats) -> Floats:
    """Growth that pauses for an eighth to a third of the run and then goes on."""
    begin = rng.uniform(0.05, 0.4) * t[-1]
    end = begin + rng.uniform(0.12, 0.33) * t[-1]
    moving = np.where(t < begin, t, np.where(t < end, begin, t - end + begin)) / t[-1]
    return np.asarray(rng.uniform(0.1, 0.4) + moving ** rng.uniform(0.6, 1.2))


def dipping(rng: np.random.Generator, t: Floats) -> Floats:
    """Growth that has saturated, then one dip, 0.2 to 0.35 deep and an eighth to a third of the run wide, that recovers."""
    width = rng.uniform(0.12, 0.3) * t[-1]
    begin = rng.uniform(0.35, 0.55) * t[-1]
    u = np.clip((t - begin) / width, 0.0, 1.0)
    base = rng.uniform(0.03, 0.5)
    level = base + (1.0 - base) * saturation(rng)((t - rng.uniform(0.0, 8.0)) / (t[-1] * rng.uniform(0.04, 0.12)))
    return np.asarray(level * (1.0 - rng.uniform(0.2, 0.35) * np.sin(np.pi * u) ** 2))


def null(
    mean: Mean, noise: Noise, n: int = 150, *, ragged: bool = False, missing: float = 0.0, levels: int = 0
) -> Family:
    """A family without a peak; ``levels`` quantises what is seen to so many values from 0 to the top."""

    def draw(rng: np.random.Generator) -> Curve:
        t = ragged_times(rng, n) if ragged else np.arange(float(n))
        every = max(spacing(rng), 10 if ragged else 1)
        curve = observe(rng, np.round(t * every).astype(np.int64), mean(rng, t), noise)
        if missing:
            curve = thinned(curve, rng.random(n) >= missing)
        if levels:
            grain = float(curve.mean.max()) / levels
            curve = replace(curve, values=grain * np.round(curve.values / grain))
        return curve

    return Family("", "peak_passed", null=True, draw=draw)


SOFT: dict[str, Family] = {
    "null, constant": null(constant, Noise(10.0)),
    "null, linear": null(linear, Noise(10.0)),
    "null, saturating SNR 10": null(saturating, Noise(10.0)),
    "null, saturating SNR 50": null(saturating, Noise(50.0)),
    "null, staircase": null(staircase, Noise(20.0)),
    "null, heavy tails": null(saturating, Noise(10.0, tails="heavy")),
    "null, skew": null(saturating, Noise(10.0, tails="skew")),
    "null, spikes": null(saturating, Noise(10.0, wild=0.03)),
    "null, giant spike": null(saturating, Noise(10.0, giant=True)),
    "null, AR(.3)": null(saturating, Noise(10.0, ar=0.3)),
    "null, irregular": null(saturating, Noise(10.0), ragged=True),
    "null, missing": null(saturating, Noise(10.0), missing=0.3),
    "null, 600 probes": null(saturating, Noise(10.0), 600),
    "null, no stderr": null(saturating, Noise(10.0, stderr=False)),
    "null, step down": null(stepping_down, Noise(10.0)),
    "null, logarithmic": null(logarithmic, Noise(10.0)),
    "null, second rise": null(second_rise, Noise(20.0)),
    "null, declining": null(declining, Noise(10.0)),
    "null, growing noise": null(saturating, Noise(20.0, growth=3.0)),
    "null, pause": null(pausing, Noise(20.0)),
    "null, quantised": null(saturating, Noise(20.0), levels=12),
}
"""Nulls on which the promised rate of false alarms must hold."""

HARD: dict[str, Family] = {
    "null, AR(.8)": null(saturating, Noise(10.0, ar=0.8)),
    "null, AR(.8), whole error": null(saturating, Noise(10.0, ar=0.8, sees_process=True)),
    "null, dip": null(dipping, Noise(20.0)),
}
"""Nulls that noise or a passing dip makes look like a peak for a while."""

NAMED = SOFT | HARD
