"""Stability: curves that settle, and sharpness that reaches the edge of stability and hovers there.

Cohen et al. (2021), section 3: the sharpness rises to 2/eta (progressive sharpening), then hovers at or just above it.
"""

from dataclasses import replace

import numpy as np

from .curve import Curve, Family, Floats
from .noise import Noise, ar1, observe
from .nulls import Mean, linear, saturating
from .peaks import Hump
from .shapes import saturation, spacing

SETTLED = 0.9
"""Share of the whole change after which a curve counts as settled."""
EARLY = 0.8
"""Share of the time it takes to settle before which a call is early."""
NEAR = 0.93
"""Share of the target from which on sharpness may be said to have reached it."""


def steepening(rng: np.random.Generator, t: Floats) -> Floats:
    """Growth that is fastest at the end."""
    u = t / t[-1]
    if rng.random() < 0.5:
        return np.asarray(1.0 + rng.uniform(2.0, 9.0) * u ** rng.uniform(1.5, 3.0))
    return np.asarray(np.exp(rng.uniform(1.5, 4.0) * u))


def _to_a_floor(rng: np.random.Generator, t: Floats) -> Floats:
    floor = rng.uniform(0.1, 0.4)
    return floor + (1.0 - floor) * np.exp(-(np.maximum(t - rng.uniform(0.0, 5.0), 0.0)) / rng.uniform(8.0, 20.0))


def _to_a_ceiling(rng: np.random.Generator, t: Floats) -> Floats:
    base = rng.uniform(0.03, 0.3)
    return base + (1.0 - base) * saturation(rng)((t - rng.uniform(0.0, 5.0)) / rng.uniform(8.0, 20.0))


def _rise_peak_fall_flat(rng: np.random.Generator, t: Floats) -> Floats:
    hump = Hump(rise=(12.0, 20.0), decay=(0.6, 1.0), floor=(0.2, 0.6))
    return hump(rng, t)[0]


def settling(mean: Mean, noise: Noise, n: int = 200) -> Family:
    """Curves that settle; the truth is where ``SETTLED`` of the last change is done, T is from a tenth of it to there."""

    def draw(rng: np.random.Generator) -> Curve:
        level = mean(rng, np.arange(float(n)))
        from_ = int(np.argmax(level)) if level[-1] < level.max() - 1e-9 else 0
        done = (level - level[from_]) / (level[-1] - level[from_])
        done[:from_] = 0.0
        tenth, settled = (int(np.argmax(done >= share)) for share in (1.0 - SETTLED, SETTLED))
        every = spacing(rng)
        curve = observe(rng, np.arange(n) * every, level, noise)
        at, rise = settled * every, float((settled - tenth) * every)
        return replace(curve, truth=at, turns=(at,), rise=rise, earliest=round(EARLY * at))

    return Family("", "stabilised", null=False, draw=draw)


def moving(mean: Mean, noise: Noise, n: int = 200) -> Family:
    """Curves that never settle."""

    def draw(rng: np.random.Generator) -> Curve:
        return observe(rng, np.arange(n) * spacing(rng), mean(rng, np.arange(float(n))), noise)

    return Family("", "stabilised", null=True, draw=draw)


def hovering(noise: float, *, schedule: bool = False, n: int = 200) -> Family:
    """Sharpness that rises to its target and hovers; the truth is where the mean first reaches the target.

    ``noise`` is the sd of a probe over the level. Around the target the sharpness itself wanders by 2 %, correlated
    from probe to probe. With ``schedule`` the learning rate decays, so the target rises and sharpness follows.
    """

    def draw(rng: np.random.Generator) -> Curve:
        t = np.arange(float(n))
        target = 1.0 / _decay(rng, t / n) if schedule else np.ones(n)
        begin, reach = rng.uniform(0.05, 0.4), rng.uniform(25.0, 35.0 if schedule else 70.0)
        approach = begin + (1.0 - begin) * (t / reach) ** rng.uniform(0.7, 1.3)
        crossed = int(np.argmax(approach >= target))
        wander = 1.0 + rng.uniform(0.0, 0.04) + 0.02 * ar1(rng, n, 0.5)
        mean = np.where(t < crossed, approach, target * wander)
        tenth = int(np.argmax(approach >= begin + 0.1 * (target[crossed] - begin)))
        near = int(np.argmax(mean >= NEAR * target))
        return _sharpness(rng, mean, target, noise, (tenth, near, crossed))

    return Family("", "eos_reached", null=False, draw=draw)


def _decay(rng: np.random.Generator, u: Floats) -> Floats:
    """A learning rate relative to its first value: cosine to a tenth or linear to a third, u in (0, 1)."""
    if rng.random() < 0.5:
        return np.asarray(0.1 + 0.9 * (1.0 + np.cos(np.pi * u)) / 2.0)
    return 1.0 - u * 2.0 / 3.0


def _stays_below(rng: np.random.Generator, t: Floats) -> Floats:
    return rng.uniform(0.4, 0.8) * saturating(rng, t)


def _catapult(rng: np.random.Generator, t: Floats) -> Floats:
    """Lewkowycz et al. (2020): sharpness starts low, shoots high above the target and comes down below it."""
    top, end, when = rng.uniform(1.5, 4.0), rng.uniform(0.3, 0.8), rng.uniform(10.0, 50.0)
    rise = rng.uniform(0.1, 0.5) + top * (np.minimum(t, when) / when) ** 2
    v = np.maximum(t - when, 0.0) / rng.uniform(4.0, 20.0)
    return np.where(t < when, rise, end + (rise[-1] - end) * (1.0 + v) * np.exp(-v))


def _passes_through(rng: np.random.Generator, t: Floats) -> Floats:
    u = t / t[-1]
    return np.asarray(rng.uniform(0.1, 0.4) + rng.uniform(1.8, 4.0) * u ** rng.uniform(0.7, 1.5))


def not_hovering(mean: Mean, noise: float = 0.03, n: int = 200) -> Family:
    """Sharpness that does not hover at its target, which is 1 before the scale."""

    def draw(rng: np.random.Generator) -> Curve:
        return _sharpness(rng, mean(rng, np.arange(float(n))), np.ones(n), noise)

    return Family("", "eos_reached", null=True, draw=draw)


def _sharpness(
    rng: np.random.Generator,
    mean: Floats,
    target: Floats,
    noise: float,
    reached: tuple[int, int, int] | None = None,
) -> Curve:
    """``reached`` are the probes at a tenth of the approach, near the target, and at it."""
    every, scale = spacing(rng), 10.0 ** rng.uniform(-1.0, 3.0)
    curve = observe(rng, np.arange(mean.size) * every, mean, Noise(1.0 / noise), scale=scale)
    curve = replace(curve, target=scale * target)
    if reached is None:
        return curve
    tenth, near, at = (probe * every for probe in reached)
    return replace(curve, truth=at, turns=(at,), rise=float(at - tenth), earliest=near)


NAMED: dict[str, Family] = {
    "settling, saturating SNR 20": settling(_to_a_ceiling, Noise(20.0)),
    "settling, saturating SNR 5": settling(_to_a_ceiling, Noise(5.0)),
    "settling, decay": settling(_to_a_floor, Noise(20.0)),
    "settling, AR(.8)": settling(_to_a_ceiling, Noise(20.0, ar=0.8)),
    "settling, rise peak fall flat": settling(_rise_peak_fall_flat, Noise(20.0)),
    "moving, linear SNR 20": moving(linear, Noise(20.0)),
    "moving, linear SNR 5": moving(linear, Noise(5.0)),
    "moving, steepening": moving(steepening, Noise(20.0)),
    "edge, clean": hovering(0.01),
    "edge, noisy": hovering(0.10),
    "edge, moving target": hovering(0.03, schedule=True),
    "edge null, below": not_hovering(_stays_below),
    "edge null, catapult": not_hovering(_catapult),
    "edge null, passes through": not_hovering(_passes_through),
}
