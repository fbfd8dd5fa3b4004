"""Simulated: small seeded families of curves with known truth, to try a machine on before anything is recorded.

A curve is a course of legs in the words of `machine`: a "fall" after a "rise" is a peak. Its truth takes the last leg's
turn; its nulls have all that leads there, and then something else. Noise is 30 % additive and 70 % in proportion to the
level. The courses are ours and smooth; real curves are neither.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from collector.phases.axis import Floats
from collector.phases.machine import When

Noise = Literal["white", "AR(.3)", "AR(.8)", "heavy tails", "wild probes"]
Instead = Literal["level", "trend", "dip", "below", "through"]
"""What a null does where its truth turns: stays, goes on, dips and recovers, stays below a target or passes it."""
Null = tuple[Instead, Noise]
Bounds = tuple[float | None, float | None]
"""The least and the largest level that a turn asks for."""

_USUAL: tuple[Noise, ...] = ("white", "AR(.3)", "heavy tails", "AR(.8)")
_CALM: tuple[Null, ...] = tuple(("level", noise) for noise in _USUAL)
_MOVING: tuple[Null, ...] = tuple(("trend", noise) for noise in _USUAL)
_SHAPE: tuple[Null, ...] = (("trend", "white"), *_CALM, ("level", "wild probes"), ("dip", "white"))
_APART: tuple[Null, ...] = (("below", "white"), ("below", "heavy tails"), ("through", "white"), ("below", "AR(.8)"))
NULLS: dict[When, tuple[Null, ...]] = {
    "rise": _SHAPE,
    "fall": _SHAPE,
    "settle": _MOVING,
    "still": _MOVING,
    "hover": _APART,
    "spike": _CALM,
    "diverge": _CALM,
    "calm": (),
    "given": (),
}
"""What each turn is tried on. Whatever follows a spike is calm or a divergence; what is given, one curve does not tell."""
HARD: tuple[str, ...] = ("AR(.8)", "dip")
"""What looks like a turn for a while: no rule keeps its promise there, so it is told apart."""

AR = {"AR(.3)": 0.3, "AR(.8)": 0.8}
ESTIMATOR = 0.3
"""Share of the variance that is the estimator's where training wanders by itself: all that a paired error knows."""
LEVEL = 60
"""Probes of a level before anything happens, and of one that lasts."""
AWAY = 4.0
"""Times its level that a curve rises to, about."""


class Simulated(msgspec.Struct, frozen=True):
    """A curve of n probes, shapes (n,): values and paired errors as seen, ``mean`` and ``sd`` behind them.

    ``turned`` is the probe where the turn takes place, or would; ``began`` where the phase before it does. ``rise`` is the
    unit of delays, in probes: from a tenth of the move before the turn to there, or how long the turn itself takes.
    """

    values: Floats
    paired: Floats
    mean: Floats
    sd: Floats
    began: int
    turned: int
    rise: float


def simulated(
    legs: Sequence[When],
    seed: int,
    *,
    instead: Instead | None = None,
    noise: Noise = "white",
    snr: float = 10.0,
    slope: float = 0.25,
    target: float = 1.0,
    bounds: Sequence[Bounds] = (),
    log: bool = False,
) -> Simulated:
    """The curve of a seed that goes through these legs, or does something ``instead`` of the last one.

    ``snr`` is the highest level over the noise there, ``slope`` what counts as settled, ``target`` where it hovers; on a
    ``log`` axis a trend is straight there. Levels are scaled so that each leg ends within its ``bounds``, if any.
    """
    rng = np.random.default_rng((seed, len(legs)))
    length = rng.uniform(20.0, 32.0)
    level = 0.4 * target if legs[0] == "hover" else 1.0
    parts = [np.full(0 if legs[0] in {"settle", "still", "hover"} else LEVEL, level)]
    began, turned, rise, before = 0, 0, length, None
    ends = list[float]()
    for i, when in enumerate(legs):
        last = i == len(legs) - 1
        if last and instead is not None:
            part, at, unit = _otherwise(rng, instead, when, level, length, target, log=log), 0, rise
        else:
            part, at, unit = _leg(rng, when, before, level, length, target, slope, last=last)
        began, turned, rise, before = turned, sum(map(len, parts)) + at, unit, when
        parts.append(part)
        level = float(part[-1]) if np.isfinite(part[-1]) else level
        ends.append(level)
    mean = _scale(ends, bounds) * np.concatenate(parts)
    return _seen(rng, mean, noise, snr, (began, turned, rise))


def _leg(
    rng: np.random.Generator,
    when: When,
    before: When | None,
    level: float,
    length: float,
    target: float,
    slope: float,
    *,
    last: bool,
) -> tuple[Floats, int, float]:
    """A leg that begins at a level, the probe of its turn, and the unit of its delay."""
    n = round(length)
    match when:
        case "rise" | "fall":
            to = level * (AWAY * rng.uniform(0.8, 1.2)) ** (1.0 if when == "rise" else -1.0)
            if {when, before} == {"rise", "fall"} and last:
                # A smooth top and a long tail: a tenth of the height is lost within one rise time.
                lost = 1.0 - np.exp(-0.5 * (np.log1p(np.arange(6.0 * n) / length) / rng.uniform(1.0, 1.7)) ** 2)
                return level + (to - level) * lost, 0, 0.8 * length
            move = level + (to - level) * (1.0 - np.cos(np.pi * np.arange(n) / n)) / 2.0
            stays = np.full(LEVEL if last else 0, to)
            return np.concatenate([move, stays]), 0, length
        case "settle" | "still":
            if before in {"rise", "fall"}:
                return np.full(2 * LEVEL, level), -round(length * np.arcsin(slope) / np.pi), length
            # Steepest at first, like a loss; on the way to another turn straight, so that nothing goes on after the corner.
            t = np.minimum(np.arange(2 * n + 2 * LEVEL) / (2 * n), 1.0)
            left = 1.0 - (np.sin(np.pi / 2.0 * t) if last else t)
            at = round(4.0 / np.pi * n * np.arccos(slope)) if last else 2 * n
            return level * (1.0 + left) / 2.0, at, at
        case "hover":
            approach = np.linspace(level, target, 2 * n, endpoint=False)
            return np.concatenate([approach, np.full(LEVEL, target)]), 2 * n, 2.0 * length
        case "spike":
            return np.repeat([level * AWAY, level], [6, LEVEL if last else 0]), 0, 1.0
        case "calm":
            return np.full(LEVEL, level / AWAY if before == "spike" else level), 0, 1.0
        case "given":
            return np.full(LEVEL, level), 0, 1.0
        case _:  # "diverge"
            climb = level * 1.3 ** np.arange(1.0, 16.0 if before == "spike" else 1.0)
            return np.append(climb, [np.inf] * 3), 0, 1.0


def _otherwise(
    rng: np.random.Generator,
    instead: Instead,
    when: When,
    level: float,
    length: float,
    target: float,
    *,
    log: bool,
) -> Floats:
    """What is there in place of a turn."""
    t = np.arange(2.0 * LEVEL)
    match instead:
        case "level":
            return np.full(t.size, level)
        case "trend":
            if when == "rise":
                return level * (np.exp(-t / (2.0 * length)) if log else 1.0 - 0.8 * t / t.size)
            return level * (np.exp(t / (1.6 * length)) if log else 1.0 + t / length)
        case "dip":
            u = np.clip((t - LEVEL / 2) / length, 0.0, 1.0)
            depth = rng.uniform(0.2, 0.35) * (1.0 if when == "rise" else -1.0)
            return np.asarray(level * (1.0 + depth * np.sin(np.pi * u) ** 2))
        case "below":
            return np.concatenate(
                [np.linspace(level, 0.75 * target, round(2.0 * length)), np.full(LEVEL, 0.75 * target)]
            )
        case "through":
            return np.linspace(level, 2.0 * target, t.size)


def _scale(ends: Sequence[float], bounds: Sequence[Bounds]) -> float:
    """What to multiply levels by, for each leg to end where it is asked to; where bounds contradict each other the least count."""
    least = [1.1 * low / end for end, (low, _) in zip(ends, bounds, strict=False) if low is not None and low > end]
    most = [0.9 * high / end for end, (_, high) in zip(ends, bounds, strict=False) if high is not None and high < end]
    return max(least) if least else min([1.0, *most])


def _seen(rng: np.random.Generator, mean: Floats, noise: Noise, snr: float, truth: tuple[int, int, float]) -> Simulated:
    size = np.abs(mean[np.isfinite(mean)])
    sd = (0.3 * float(np.quantile(size, 0.95)) + 0.7 * np.where(np.isfinite(mean), np.abs(mean), 0.0)) / snr
    z = rng.standard_normal(mean.size)
    white = 1.0
    match noise:
        case "AR(.3)" | "AR(.8)":
            white = np.sqrt(ESTIMATOR)
            z = white * z + np.sqrt(1.0 - ESTIMATOR) * _wandering(rng, mean.size, AR[noise])
        case "heavy tails":
            z = rng.standard_t(2.5, mean.size) / np.sqrt(5.0)
        case "wild probes":
            z += np.where(rng.random(mean.size) < 0.03, 8.0 * rng.choice([-1.0, 1.0], mean.size), 0.0)
    paired = np.abs(white * sd * (1.0 + 0.08 * rng.standard_normal(mean.size)))
    return Simulated(mean + sd * z, paired, mean, sd, *truth)


def _wandering(rng: np.random.Generator, n: int, coefficient: float) -> Floats:
    """A stationary AR(1) process of variance 1."""
    shocks = rng.standard_normal(n)
    for i in range(1, n):
        shocks[i] = coefficient * shocks[i - 1] + np.sqrt(1.0 - coefficient**2) * shocks[i]
    return shocks
