"""Noise: what stands between the mean of a curve and what a probe sees of it."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .curve import Curve, Floats, Steps

TAIL_FREEDOM = 2.5
"""Degrees of freedom of Student's t: finite variance, infinite fourth moment."""
PROCESS_SHARE = 0.7
"""Of the variance that an AR(1) process carries; the rest is white and is the estimator's."""
STDERR_ERROR = 0.08
"""Relative error of a reported standard error."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How probes scatter: sd = (0.3 top + 0.7 level) / ``snr``, where ``top`` is the highest level.

    ``ar`` is the coefficient of an AR(1) process that carries ``PROCESS_SHARE`` of the variance. Training makes that
    part, so the paired error is the white part's alone, unless ``sees_process``. ``wild`` is the
    share of probes that come out 3 to 10 times too large, ``giant`` makes one 20 to 100 times too large. The noise at
    the end is ``growth`` times what it would be; with ``stderr`` its size is reported.
    """

    snr: float
    tails: Literal["gauss", "heavy", "skew"] = "gauss"
    ar: float = 0.0
    sees_process: bool = False
    wild: float = 0.0
    giant: bool = False
    stderr: bool = True
    growth: float = 1.0


def observe(rng: np.random.Generator, steps: Steps, mean: Floats, noise: Noise, *, scale: float | None = None) -> Curve:
    """A mean seen through noise, at a scale of 10^U(-3, 3) unless it is given; the truth is for the caller to add."""
    n = mean.size
    size = np.abs(mean)
    sd = (0.3 * size.max() + 0.7 * size) / noise.snr * np.linspace(1.0, noise.growth, n)
    values = mean + sd * unit(rng, n, noise)
    if noise.wild:
        wild = rng.random(n) < noise.wild
        values = np.where(wild, values * rng.uniform(3.0, 10.0, n), values)
    if noise.giant:
        at = int(rng.integers(2, n))
        values[at] = size.max() * rng.uniform(20.0, 100.0)
    seen = sd * np.sqrt(1 - PROCESS_SHARE) if noise.ar and not noise.sees_process else sd
    reported = seen * np.abs(1 + STDERR_ERROR * rng.standard_normal(n))
    if scale is None:
        scale = 10.0 ** rng.uniform(-3.0, 3.0)
    return Curve(
        steps=steps,
        mean=scale * mean,
        sd=scale * sd,
        values=scale * values,
        stderr=scale * reported if noise.stderr else None,
    )


def unit(rng: np.random.Generator, n: int, noise: Noise) -> Floats:
    """Noise of mean 0 and variance 1, shape (n,)."""
    if noise.tails == "heavy":
        white = rng.standard_t(TAIL_FREEDOM, n) / np.sqrt(TAIL_FREEDOM / (TAIL_FREEDOM - 2))
    elif noise.tails == "skew":
        white = rng.exponential(1.0, n) - 1.0
    else:
        white = rng.standard_normal(n)
    if not noise.ar:
        return np.asarray(white)
    return np.asarray(np.sqrt(PROCESS_SHARE) * ar1(rng, n, noise.ar) + np.sqrt(1 - PROCESS_SHARE) * white)


def ar1(rng: np.random.Generator, n: int, coefficient: float) -> Floats:
    """A stationary AR(1) process of variance 1, shape (n,)."""
    shocks = rng.standard_normal(n).tolist()
    kept = np.sqrt(1.0 - coefficient**2)
    z = [shocks[0]]
    for shock in shocks[1:]:
        z.append(coefficient * z[-1] + kept * shock)
    return np.array(z)


def thinned(curve: Curve, kept: np.ndarray) -> Curve:
    """The curve with only some of its probes, ``kept`` as a mask or indices."""
    return replace(
        curve,
        steps=curve.steps[kept],
        mean=curve.mean[kept],
        sd=curve.sd[kept],
        values=curve.values[kept],
        stderr=None if curve.stderr is None else curve.stderr[kept],
        target=None if curve.target is None else curve.target[kept],
    )
