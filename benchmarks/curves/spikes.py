"""Spikes: training losses, one probe a step, healthy or with sudden rises that last a few steps."""

from dataclasses import replace

import numpy as np

from .curve import Curve, Family, Floats
from .noise import TAIL_FREEDOM, ar1

STEPS = 600


def _loss(rng: np.random.Generator, *, skew: float, heavy: bool = False) -> Curve:
    """A loss that falls like a power of the step; its noise is a third AR(.5) and has a tail upward."""
    t = np.arange(float(STEPS))
    floor = rng.uniform(0.2, 0.5)
    mean = floor + (1.0 - floor) * (1.0 + t / rng.uniform(5.0, 50.0)) ** -rng.uniform(0.4, 1.0)
    if heavy:
        white = rng.standard_t(TAIL_FREEDOM, STEPS) / np.sqrt(TAIL_FREEDOM / (TAIL_FREEDOM - 2.0))
    else:
        upward = (rng.gamma(2.0, 1.0, STEPS) - 2.0) / np.sqrt(2.0)
        white = np.sqrt(1.0 - skew) * rng.standard_normal(STEPS) + np.sqrt(skew) * upward
    sd = mean * rng.uniform(0.005, 0.025)
    noise = np.sqrt(1.0 / 3.0) * ar1(rng, STEPS, 0.5) + np.sqrt(2.0 / 3.0) * white
    scale = rng.uniform(1.0, 10.0)
    steps = np.arange(STEPS)
    return Curve(steps=steps, mean=scale * mean, sd=scale * sd, values=scale * (mean + sd * noise), stderr=None)


def _spiking(rng: np.random.Generator) -> Curve:
    """One to three spikes of 15 to 100 % of the level, each 3 to 20 steps long: up at once, down by and by."""
    curve = _loss(rng, skew=0.5)
    onsets = np.sort(rng.choice(np.arange(100, STEPS - 60, 80), rng.integers(1, 4), replace=False))
    onsets = onsets + rng.integers(0, 30, onsets.size)
    spikes: Floats = np.zeros(STEPS)
    for at in onsets:
        lasts = int(rng.integers(3, 21))
        shape = 1.0 - (np.arange(lasts) / lasts) ** rng.uniform(0.7, 3.0)
        spikes[at : at + lasts] += rng.uniform(0.15, 1.0) * shape * curve.mean[at]
    turns = tuple(int(at) for at in onsets)
    mean, values = curve.mean + spikes, curve.values + spikes
    return replace(curve, mean=mean, values=values, truth=turns[0], turns=turns, rise=1.0)


NAMED: dict[str, Family] = {
    "spikes in a loss": Family("", "spike", null=False, draw=_spiking),
    "healthy loss, Gaussian": Family("", "spike", null=True, draw=lambda rng: _loss(rng, skew=0.0)),
    "healthy loss, skew": Family("", "spike", null=True, draw=lambda rng: _loss(rng, skew=0.5)),
    "healthy loss, heavy tails": Family("", "spike", null=True, draw=lambda rng: _loss(rng, skew=0.0, heavy=True)),
}
