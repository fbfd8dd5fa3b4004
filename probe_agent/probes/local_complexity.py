"""The local complexity probe: how finely the network partitions the input space around the probe inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.activations import BENT_AT_ZERO, fused
from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.local_complexity import Crossings, crossings
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Quantity

LOCAL_COMPLEXITY = Quantity(
    "local_complexity",
    "units",
    "Mean number of units whose hyperplane crosses a small neighbourhood of a probe input: a proxy for the number of "
    "linear regions there (Humayun, Balestriero and Baraniuk 2024). Comparable only between series of the same settings. "
    "It also falls when units die.",
    "Local complexity",
)

AUTOMATIC = 0.02
"""The radius in units of the inputs' spread, rather than of whatever they are in. Humayun et al. (2024) use 0.005 of
their normalised pixels, where a small network has one or two crossed units a point and the curve is mostly counting
noise; at this one it has some ten and keeps its shape."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalComplexity(Probe):
    """Crossed units around the first probe inputs, of the whole network and of each layer.

    Each input has a random frame of its own, drawn once for the run: inputs and frames together are
    independent draws of one pair, so sd / √points is the standard error of the mean over both.
    With one frame for all inputs, as published, it would be too small, some 3 times in a trained
    network, since all inputs would share the luck of the frame.

    Exact counts are of piecewise linear activation functions that bend at zero; for others (GELU, SiLU,
    tanh …) the sign of the pre-activation is a proxy, and setting ``activation`` says so. In float32
    with a training loss below some 1e-8 the quantity follows rounding, not learning.

    The cost is 2 · points · directions forward passes of one input: 6400 by default.

    Attributes:
        points: how many of the probe inputs to look around.
        directions: P, the orthonormal directions of a neighbourhood; at most the inputs' dimension.
        radius: of the neighbourhood, in the inputs' units. None is 0.02 times the mean distance of
            the probe inputs from their mean, at the first snapshot and for good: when the inputs
            are scaled it scales with them.
        per_layer: whether each layer's count is reported too.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "local_complexity"
    quantities: ClassVar[tuple[Quantity, ...]] = (LOCAL_COMPLEXITY,)

    points: int = 128
    directions: int = 25
    radius: float | None = None
    per_layer: bool = True

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.points < 2:
            raise ValueError(f"Got points={self.points}; need at least two for a standard error.")
        if self.directions < 1:
            raise ValueError(f"Got directions={self.directions}; need at least one.")
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"Got radius={self.radius}; need a positive length, or None to choose it from the inputs.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """Whole first, then the layers in the order they run; the draws are the counts of each point."""
        inputs = _continuous(snapshot)
        if "radius" not in memory:
            memory["radius"] = _spread(inputs) * AUTOMATIC if self.radius is None else self.radius
        points = inputs[: self.points]
        found = crossings(snapshot, points, radius=memory["radius"], directions=self.directions)
        settings = {
            "points": str(len(points)),
            "directions": str(found.directions),
            "frames": "one per point",
            "radius": f"{memory['radius']:.6g}",
            "dimension": str(points[0].numel()),
            "dtype": str(points.dtype).removeprefix("torch."),
        }
        hidden = fused(snapshot.model)
        if hidden:
            settings["unseen"] = ", ".join(hidden)[:200]
        whole: Draws = np.sum(list(found.by_layer.values()), axis=0)
        yield _measurement(whole, {}, settings | {"activation": _activation(found, *found.by_layer)})
        for layer, draws in found.by_layer.items() if self.per_layer else ():
            yield _measurement(draws, {"layer": layer}, settings | {"activation": _activation(found, layer)})


def _measurement(draws: Draws, labels: dict[str, str], settings: dict[str, str]) -> Measurement:
    return Measurement(
        quantity=LOCAL_COMPLEXITY, estimate=mean_of(draws), labels=labels, draws=draws, settings=settings
    )


def _activation(found: Crossings, *layers: str) -> str:
    functions = sorted({found.functions[layer] for layer in layers})
    return ", ".join(name if name in BENT_AT_ZERO else f"{name} (proxy)" for name in functions)[:200]


def _continuous(snapshot: Snapshot) -> Tensor:
    """The probe inputs, where they are points of a space with neighbourhoods."""
    inputs = snapshot.probe_set.inputs
    if not isinstance(inputs, Tensor):
        raise NotApplicable(
            f"Got probe inputs that are a {type(inputs).__name__} of tensors; local complexity moves one tensor about. "
            "Wrap the model so that it takes one floating-point tensor."
        )
    if not inputs.is_floating_point():
        raise NotApplicable(
            f"Got probe inputs of type {inputs.dtype}; local complexity needs real numbers, which have neighbours. "
            "For tokens, attach the model behind its embedding."
        )
    return inputs


def _spread(inputs: Tensor) -> float:
    """The mean distance of the inputs from their mean."""
    flat = inputs.flatten(1).double()
    spread = float((flat - flat.mean(dim=0)).norm(dim=1).mean())
    if not 0 < spread < float("inf"):
        raise NotApplicable(
            f"Got probe inputs whose mean distance from their mean is {spread}; need different, finite inputs to choose a "
            "radius from. Give radius=... in the inputs' units."
        )
    return spread
