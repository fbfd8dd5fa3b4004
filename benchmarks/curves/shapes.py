"""Shapes: the smooth ways in which a quantity rises, decays and saturates, and how often it is probed."""

from collections.abc import Callable

import numpy as np

from .curve import Floats

Shape = Callable[[Floats], Floats]
"""From the time since the start, in units of its own, to the share of the way that is done."""


def spacing(rng: np.random.Generator) -> int:
    """Steps between probes: 1 to 1000, log-uniform."""
    return int(np.round(10.0 ** rng.uniform(0.0, 3.0)))


def rising(rng: np.random.Generator) -> Shape:
    """From 0 to 1 over u in (0, 1): sigmoidal, power-like, or quick at first; flat before and after."""
    a = rng.uniform(1.0, 2.5)
    k = rng.uniform(4.0, 9.0)
    ends = 1.0 / (1.0 + np.exp(k / 2.0))
    forms: tuple[Shape, ...] = (
        lambda u: np.sin(np.pi * u / 2.0) ** a,
        lambda u: ((1.0 - np.cos(np.pi * u)) / 2.0) ** (a / 1.5),
        lambda u: (1.0 / (1.0 + np.exp(-k * (u - 0.5))) - ends) / (1.0 - 2.0 * ends),
        lambda u: 1.0 - (1.0 - u) ** (1.0 + a / 2.0),
        lambda u: u**a * (1.0 + a * (1.0 - u)),
        lambda u: u**a * np.exp(a * (1.0 - u)),
    )
    form = forms[rng.integers(len(forms))]
    return lambda u: form(np.clip(u, 0.0, 1.0))


def decaying(rng: np.random.Generator) -> Shape:
    """From 1 towards 0 with v >= 0, a time constant at v = 1: some quadratic at first, some with a corner."""
    a = rng.uniform(0.6, 1.6)
    forms: tuple[Shape, ...] = (
        lambda v: np.exp(1.0 - np.sqrt(1.0 + v**2)),
        lambda v: 1.0 / (1.0 + v**2) ** (a / 2.0),
        lambda v: 1.0 / np.cosh(v),
        lambda v: 1.0 / (1.0 + v) ** a,
        lambda v: np.exp(-v),
        lambda v: (1.0 + v) * np.exp(-v),
    )
    form = forms[rng.integers(len(forms))]
    return lambda v: form(np.maximum(v, 0.0))


def saturation(rng: np.random.Generator) -> Shape:
    """From 0 towards 1 with v >= 0, never turning."""
    a = rng.uniform(0.8, 2.0)
    forms: tuple[Shape, ...] = (
        lambda v: 1.0 - np.exp(-v),
        np.tanh,
        lambda v: v**a / (1.0 + v**a),
        lambda v: 1.0 - np.exp(-(v**a)),
        lambda v: v / np.sqrt(1.0 + v**2),
    )
    form = forms[rng.integers(len(forms))]
    return lambda v: form(np.maximum(v, 0.0))


def first_time(share: float, shape: Shape, until: float) -> float:
    """When a rising shape has first done ``share`` of the way."""
    fine = np.linspace(0.0, until, 4001)
    return float(fine[np.argmax(shape(fine) >= share)])
