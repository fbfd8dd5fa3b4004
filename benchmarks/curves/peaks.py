"""Peaks: a fast rise, a peak and a decline, as the Fisher trace early in training.

Achille, Rovere and Soatto (2019), section 3: information in the weights rises, then falls although training goes on.
"""

from dataclasses import dataclass, replace

import numpy as np

from .curve import Curve, Family, Floats
from .noise import Noise, observe, thinned
from .shapes import decaying, first_time, rising, spacing


@dataclass(frozen=True, slots=True)
class Hump:
    """A peak before noise: probes at times ``t`` in probes, and the ranges that each seed draws from.

    ``rise`` is T in probes, ``wait`` the probes before the rise begins (a negative wait is a rise that had
    begun), ``base`` the level before it, ``decay`` the time constant of the decline in rise times and ``floor``
    where it ends; levels are relative to the peak.
    """

    rise: tuple[float, float] = (17.0, 34.0)
    wait: tuple[float, float] = (2.0, 10.0)
    base: tuple[float, float] = (0.03, 0.35)
    decay: tuple[float, float] = (1.4, 4.7)
    floor: tuple[float, float] = (0.05, 0.5)

    def __call__(self, rng: np.random.Generator, t: Floats) -> tuple[Floats, float, float, float]:
        """The mean at times t, then the start of the rise, the peak and T, all in probes."""
        up, down = rising(rng), decaying(rng)
        tenth = first_time(0.1, up, 1.0)
        base, floor = rng.uniform(*self.base), rng.uniform(*self.floor)
        probes = np.exp(rng.uniform(*np.log(self.rise)))
        whole = probes / (1.0 - tenth)
        constant = probes * np.exp(rng.uniform(*np.log(self.decay)))
        start = rng.uniform(*self.wait)
        peak = start + whole
        mean = np.where(
            t < peak,
            base + (1.0 - base) * up((t - start) / whole),
            floor + (1.0 - floor) * down((t - peak) / constant),
        )
        return mean, start, peak, probes


TYPICAL = Hump()
SLOW = Hump(rise=(12.0, 20.0), decay=(5.0, 13.0), floor=(0.02, 0.2))
QUICK = Hump(rise=(6.0, 10.0), wait=(1.0, 4.0), decay=(0.8, 2.5))
DENSE = Hump(rise=(70.0, 130.0), wait=(8.0, 40.0))


def peak(noise: Noise, hump: Hump = TYPICAL, n: int = 150, *, ragged: bool = False, missing: float = 0.0) -> Family:
    """A family of peaks; ``ragged`` probes are at random distances, a share of them is ``missing``."""

    def draw(rng: np.random.Generator) -> Curve:
        t = ragged_times(rng, n) if ragged else np.arange(float(n))
        mean, _, top, rise = hump(rng, t)
        every = max(spacing(rng), 10 if ragged else 1)
        curve = observe(rng, np.round(t * every).astype(np.int64), mean, noise)
        if missing:
            curve = thinned(curve, rng.random(n) >= missing)
        return _true(curve, every, top, rise)

    return Family("", "peak_passed", null=False, draw=draw)


def ragged_times(rng: np.random.Generator, n: int) -> Floats:
    """Times of probes at random distances: a tenth of a probe and an exponential, one probe on average."""
    return np.cumsum(0.1 + rng.exponential(0.9, n)) - 0.1


def _true(curve: Curve, every: int, *turns: float) -> Curve:
    *at, rise = turns
    steps = tuple(round(every * turn) for turn in at)
    return replace(curve, truth=steps[0], turns=steps, rise=every * rise)


def _level_change(rng: np.random.Generator) -> Curve:
    """The level before the rise steps up or down once, as where a learning rate warms up or a data set changes."""
    t = np.arange(150.0)
    mean, start, top, rise = Hump(wait=(20.0, 35.0), base=(0.1, 0.3))(rng, t)
    change = start * rng.uniform(0.4, 0.8)
    before = rng.choice([rng.uniform(0.3, 0.7), rng.uniform(1.4, 2.0)])
    mean = np.where(t < change, mean[0] * before, mean)
    every = spacing(rng)
    return _true(observe(rng, (t * every).astype(np.int64), mean, Noise(20.0)), every, top, rise)


def _double(rng: np.random.Generator) -> Curve:
    """A peak, a valley and a second peak, as high or higher; a call after the first is right."""
    t = np.arange(220.0)
    mean, _, top, rise = Hump(floor=(0.3, 0.5), decay=(1.0, 2.0), rise=(14.0, 24.0))(rng, t)
    valley = top + rise * rng.uniform(2.0, 3.0)
    second = valley + rise * rng.uniform(1.2, 2.0)
    low = float(np.interp(valley, t, mean))
    high = rng.uniform(0.9, 1.4)
    u = np.clip((t - valley) / (second - valley), 0.0, 1.0)
    v = np.maximum(t - second, 0.0) / (rise * rng.uniform(1.5, 4.0))
    late = low + (high - low) * (1.0 - np.cos(np.pi * u)) / 2.0 * np.exp(1.0 - np.sqrt(1.0 + v**2))
    every = spacing(rng)
    curve = observe(rng, (t * every).astype(np.int64), np.where(t < valley, mean, late), Noise(20.0))
    return _true(curve, every, top, valley, second, rise)


NAMED: dict[str, Family] = {
    "peak SNR 5": peak(Noise(5.0)),
    "peak SNR 10": peak(Noise(10.0)),
    "peak SNR 20": peak(Noise(20.0)),
    "peak SNR 50": peak(Noise(50.0)),
    "peak, slow decay": peak(Noise(10.0), SLOW),
    "peak, AR(.3)": peak(Noise(10.0, ar=0.3)),
    "peak, AR(.8)": peak(Noise(10.0, ar=0.8)),
    "peak, AR(.8), whole error": peak(Noise(10.0, ar=0.8, sees_process=True)),
    "peak, heavy tails": peak(Noise(10.0, tails="heavy")),
    "peak, skew": peak(Noise(10.0, tails="skew")),
    "peak, spikes": peak(Noise(10.0, wild=0.03)),
    "peak, giant spike": peak(Noise(10.0, giant=True)),
    "peak, irregular": peak(Noise(10.0), ragged=True),
    "peak, missing": peak(Noise(10.0), missing=0.3),
    "peak, 40 probes": peak(Noise(10.0), QUICK, 40),
    "peak, 600 probes": peak(Noise(10.0), DENSE, 600),
    "peak, no stderr": peak(Noise(10.0, stderr=False)),
    "peak, level change": Family("", "peak_passed", null=False, draw=_level_change),
    "peak, double": Family("", "peak_passed", null=False, draw=_double),
    "peak, immediate rise": peak(Noise(20.0), Hump(wait=(-6.0, -1.0))),
    "peak, tiny plateau": peak(Noise(20.0), Hump(wait=(0.5, 2.0))),
    "peak, long plateau": peak(Noise(20.0), Hump(wait=(30.0, 60.0), decay=(1.5, 3.0))),
}
