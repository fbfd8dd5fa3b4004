"""Axis: where a value or a step lies on the scale of its test."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["linear", "log"]
Floats = NDArray[np.float64]

LARGEST = 1e150
"""Largest value that can still be squared; beyond it training has diverged."""


def testable(value: float, scale: Scale) -> bool:
    """Whether a value has a place on the axis: finite, and positive where it is logarithmic."""
    return abs(value) <= LARGEST and (scale == "linear" or value > 0.0)


def placed(value: float, error: float, scale: Scale) -> tuple[float, float]:
    """A value and its standard error on the axis, in nats where it is logarithmic; NaN for an error that makes no sense."""
    if scale == "log":
        value, error = math.log(value), error / value
    return value, error if 0.0 <= error <= LARGEST else math.nan


def step_placed(step: float, scale: Scale) -> float:
    """A step on its axis: log(1 + step) where it is logarithmic."""
    return math.log1p(step) if scale == "log" else float(step)


def value_of(y: Floats, scale: Scale) -> Floats:
    """Back from the axis to the units of the quantity."""
    return np.asarray(np.exp(np.minimum(y, 700.0))) if scale == "log" else y  # beyond lies infinity
