"""Curve: probes, the noise-free values behind them, and the step at which the transition truly took place."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """``n`` probes with the truth behind them.

    ``mean`` and ``sd`` are the noise-free values and the standard deviation of their noise, ``values`` what a
    detector sees, ``stderr`` the reported paired standard errors; all of shape (n,). ``truth`` is the step of the
    transition, None where there is none; ``turns`` are the steps of all transitions in order. ``rise`` is the
    rise time T, the unit delays are told in: from a tenth of the way to ``truth`` in steps, or in decades where
    ``log_axis``. A call before ``earliest`` (``truth`` unless given) is early. ``target`` is the level that sharpness is
    compared with, at each probe.
    """

    steps: Steps
    mean: Floats
    sd: Floats
    values: Floats
    stderr: Floats | None
    truth: int | None = None
    rise: float = float("nan")
    turns: tuple[int, ...] = ()
    target: Floats | None = None
    log_axis: bool = False
    earliest: int | None = None

    def is_early(self, step: int) -> bool:
        """Whether a call at ``step`` comes before there is anything to call."""
        first = self.truth if self.earliest is None else self.earliest
        return first is not None and step < first

    def delay(self, step: int) -> float:
        """How late a call at ``step`` is, in rise times; negative where it is early."""
        if self.truth is None:
            return float("nan")
        if self.log_axis:
            return float(np.log10((1 + step) / (1 + self.truth)) / self.rise)
        return (step - self.truth) / self.rise


@dataclass(frozen=True, slots=True)
class Family:
    """Curves of one kind, one for each seed; ``asked`` is the kind of transition a detector is asked for.

    A null has no transition of that kind.
    """

    name: str
    asked: str
    null: bool
    draw: Callable[[np.random.Generator], Curve] = field(repr=False)

    def __call__(self, seed: int) -> Curve:
        """The curve of a seed: the same on every machine, and independent of the other families."""
        return self.draw(np.random.default_rng((zlib.crc32(self.name.encode()), seed)))
