"""The local complexity probe: how finely the network partitions the input space around the probe inputs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.activations import BENT_AT_ZERO, fused
from probe_agent.estimators.draws import Draws, jackknife_draws, mean_of, ratio_draws
from probe_agent.estimators.input_space import InputSpace, input_space
from probe_agent.estimators.local_complexity import Crossings, crossings
from probe_agent.estimators.perturbation import loss_here
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

LOCAL_COMPLEXITY = Quantity(
    "local_complexity",
    "units",
    "Mean number of units whose hyperplane crosses a small neighbourhood of a probe input: a proxy for the number of "
    "linear regions there (Humayun, Balestriero and Baraniuk 2024). Comparable only between series of the same settings. "
    "It also falls when units die.",
    "Local complexity",
)
FRACTION = Quantity(
    "local_complexity_fraction",
    "ratio",
    "Local complexity over the number of units: the share of units that bend near a probe input.",
    "Local complexity, share of units",
)
LIVE = Quantity(
    "local_complexity_live",
    "ratio",
    "Local complexity over the number of live units. Where this holds while local complexity falls, units are dying and "
    "regions are not moving away.",
    "Local complexity, share of live units",
)
DEAD = Quantity(
    "dead_units",
    "ratio",
    "The share of units whose activation is at or below zero around every probe input: dead for a ReLU.",
    "Dead units",
)
DEFECT = Quantity(
    "affine_defect",
    "1",
    "How far from affine the network is near a probe input: its second difference over its first, of the outputs. Zero "
    "inside a linear region; also meaningful for GELU, SiLU and tanh, whose units bend everywhere.",
    "Affine defect",
    "log",
)

AUTOMATIC = 0.02
"""The radius in units of the inputs' spread, rather than of whatever they are in. Humayun et al. (2024) use 0.005 of their normalised
pixels, where a small network has one or two crossed units a point and the curve is mostly noise; here it has some ten."""

SMALL_COUNT = 2.0
"""Crossed units a point at which the small radius is set: few enough to see what happens right at the inputs."""

FEW = 16
"""The fewest points that are looked around, and those the number of points and the small radius are chosen with."""

SEARCHES = 4
"""Passes in search of the small radius."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalComplexity(Probe):
    """Crossed units around the first probe inputs, of the whole network and of each layer, at two radii and on other inputs.

    Each input has a random frame of its own, drawn once for the run: inputs and frames together are independent draws of one pair,
    so sd / √points is the standard error of the mean over both. With one frame for all inputs, as published, it would be too
    small, some 3 times in a trained network, since all inputs would share the luck of the frame.

    The series without labels are of the probe set at the larger radius. ``radius="small"`` is at the small one; ``split="random"``
    around uniformly random inputs of the probe inputs' range, "test" and "ood" around the further sets. Token inputs are moved about
    in the space of their embedding.

    Exact counts are of piecewise linear activation functions that bend at zero; for others (GELU, SiLU, tanh …) the sign of the
    pre-activation is a proxy, and setting ``activation`` says so. Where the training loss is below the rounding of its type the
    quantity follows rounding, not learning: it is then NOT_CONVERGED, and setting ``floor`` says at what loss.

    The cost is 2 · points · directions forward passes of one input, 6400 by default, and as many for the small
    radius and each further split with ``side_points`` for points. Where points differ little they are fewer, down
    to 16: as many, at the first snapshot and for good, as bring the relative standard error of the whole count to ``enough``.

    Attributes:
        points: how many of the probe inputs to look around, at most; which units are dead is judged by so many in any case.
        side_points: the same for the small radius and the other splits.
        enough: the relative standard error, at the first snapshot, for which no more inputs are looked around. Zero: all
            points.
        directions: P, the orthonormal directions of a neighbourhood; at most the inputs' dimension.
        radius: of the neighbourhood, in the inputs' units. None is 0.02 times the mean distance of
            the probe inputs from their mean, at the first snapshot and for good: when the inputs
            are scaled it scales with them.
        per_layer: whether each layer's numbers are reported too.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "local_complexity"
    quantities: ClassVar[tuple[Quantity, ...]] = (LOCAL_COMPLEXITY, FRACTION, LIVE, DEAD, DEFECT)
    needs: ClassVar = frozenset({Need.REAL_INPUTS, Need.ACTIVATIONS})
    uses: ClassVar = frozenset({Need.ONE_OUTPUT})

    points: int = 128
    side_points: int = 32
    enough: float = 0.015
    directions: int = 25
    radius: float | None = None
    per_layer: bool = True

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if min(self.points, self.side_points) < 2:
            raise ValueError(
                f"Got points={self.points}, side_points={self.side_points}; need at least two for a standard error."
            )
        if not self.enough >= 0:
            raise ValueError(
                f"Got enough={self.enough}; need a relative standard error, or 0 to look around all points."
            )
        if self.directions < 1:
            raise ValueError(f"Got directions={self.directions}; need at least one.")
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"Got radius={self.radius}; need a positive length, or None to choose it from the inputs.")

    def averages(self, n: int) -> int:
        """The points that are looked around."""
        return min(n, self.points)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """Whole first, then the layers in the order they run; then the small radius, then the other splits."""
        space = input_space(snapshot, self.points)
        if "radius" not in memory:
            memory["radius"] = _spread(space.points) * AUTOMATIC if self.radius is None else self.radius
        large = memory["radius"]
        if "points" not in memory:
            memory["points"] = self._enough(self._counted(snapshot, space, memory, large, FEW).whole)
        points: int = memory["points"]
        side = min(points, max(FEW, self.side_points * points // self.points), self.side_points)
        found = self._crossings(snapshot, space, memory, large, points)
        outcome, floor = _floor(snapshot)
        settings = self._settings(snapshot, space, found, large) | floor
        yield from _around(found, {}, settings, outcome)
        if self.per_layer:
            for layer in found.by_layer:
                yield from _around(_only(found, layer), {"layer": layer}, settings, outcome)
        yield _defect(found, settings, outcome)
        if "small" not in memory:
            memory["small"] = self._small(snapshot, space, memory, found)
        few = self._counted(snapshot, space, memory, memory["small"], side)
        settings = self._settings(snapshot, space, few, memory["small"]) | floor
        yield _count_of(few, {"radius": "small"}, settings, outcome)
        for split, view in self._others(snapshot, space, side):
            there = input_space(view, side)
            counted = self._counted(view, there, memory, large, side)
            settings = self._settings(view, there, counted, large) | floor
            yield _count_of(counted, {"split": split}, settings, outcome)
            for layer in counted.by_layer if self.per_layer else ():
                yield _count_of(_only(counted, layer), {"split": split, "layer": layer}, settings, outcome)

    def _crossings(
        self, snapshot: Snapshot, space: InputSpace, memory: Memory, radius: float, around: int, *, centres: bool = True
    ) -> Crossings:
        return crossings(
            snapshot,
            space.points if centres else space.points[:around],
            radius=radius,
            directions=self.directions,
            around=around,
            centres=centres,
            memory=memory,
            evaluate=space.evaluate,
        )

    def _counted(self, snapshot: Snapshot, space: InputSpace, memory: Memory, radius: float, around: int) -> Crossings:
        """Crossed units alone."""
        return self._crossings(snapshot, space, memory, radius, around, centres=False)

    def _enough(self, counts: Draws) -> int:
        """How many points bring the relative standard error to what is asked, by the spread of a few."""
        mean, spread = float(counts.mean()), float(counts.std(ddof=1))
        if not (self.enough and mean and math.isfinite(spread / mean)):
            return self.points
        needed = math.ceil((spread / mean / self.enough) ** 2)
        return min(max(needed, FEW), self.points)

    def _settings(self, snapshot: Snapshot, space: InputSpace, found: Crossings, radius: float) -> dict[str, str]:
        settings = {
            "points": str(len(next(iter(found.by_layer.values())))),
            "directions": str(found.directions),
            "frames": "one per point",
            "radius": f"{radius:.6g}",
            "dimension": str(space.points[0].numel()),
            "dtype": str(space.points.dtype).removeprefix("torch."),
        }
        if space.name != "inputs":
            settings["space"] = space.name
        if hidden := fused(snapshot.model):
            settings["unseen"] = ", ".join(hidden)[:200]
        return settings

    def _small(self, snapshot: Snapshot, space: InputSpace, memory: Memory, found: Crossings) -> float:
        """The radius at which a point has about `SMALL_COUNT` crossed units, or an eighth of the large one's, if that is less.

        The count is nearly proportional to the radius, which is therefore scaled, some times over.
        """
        large: float = memory["radius"]
        count = float(found.whole.mean())
        target = min(SMALL_COUNT, count / 8)
        least = 100 * torch.finfo(space.points.dtype).eps * float(space.points.flatten(1).norm(dim=1).max())
        least, most = min(max(large / 1000, least), large / 2), large / 2
        radius = large
        for tried in range(SEARCHES + 1):
            if tried:
                count = float(self._counted(snapshot, space, memory, radius, FEW).whole.mean())
            scale = min(max(target / count, 1 / 64), 4) if count > 0 else 4
            radius = min(max(radius * scale, least), most)
        return radius

    def _others(self, snapshot: Snapshot, space: InputSpace, points: int) -> Iterator[tuple[str, Snapshot]]:
        for split in snapshot.further_sets:
            yield split, snapshot.on(split)
        if space.name == "inputs":
            yield "random", replace(snapshot, probe_set=_random(snapshot, points))


def _around(
    found: Crossings, labels: dict[str, str], settings: dict[str, str], outcome: Outcome
) -> Iterator[Measurement]:
    """Count, share of units, share of live units and dead share of one or all layers."""
    yield _count_of(found, labels, settings, outcome)
    counts, units = found.whole, sum(found.units.values())
    yield _measured(FRACTION, counts / units, labels, settings, outcome)
    alive = np.concatenate(list(found.alive.values()), axis=1)
    woken = alive.sum(axis=0)
    live = int((woken > 0).sum())
    if live:
        yield _measured(LIVE, counts / live, labels, settings, outcome)
    else:
        yield Measurement(
            quantity=LIVE, estimate=Estimate.without_value(Outcome.NOT_APPLICABLE), labels=labels, settings=settings
        )
    without = 1 - (woken > alive).mean(axis=1) if len(alive) > 1 else np.array([math.nan])
    finite = np.isfinite(counts).all()  # of pre-activations that are not numbers none is above zero
    dead = jackknife_draws(1 - live / units if finite else math.nan, without)
    yield _measured(DEAD, dead, labels, settings, outcome)


def _defect(found: Crossings, settings: dict[str, str], outcome: Outcome) -> Measurement:
    """Second over first differences, a ratio of means over points."""
    if found.bend is None or found.slope is None or not found.slope.any():
        absent = Estimate.without_value(Outcome.NOT_APPLICABLE)
        return Measurement(quantity=DEFECT, estimate=absent, settings=settings)
    slope = found.slope
    draws = found.bend / slope if (slope == slope[0]).all() else ratio_draws(found.bend, slope)
    return _measured(DEFECT, draws, {}, settings, outcome)


def _count_of(found: Crossings, labels: dict[str, str], settings: dict[str, str], outcome: Outcome) -> Measurement:
    functions = sorted(set(found.functions.values()))
    activation = ", ".join(name if name in BENT_AT_ZERO else f"{name} (proxy)" for name in functions)[:200]
    return _measured(LOCAL_COMPLEXITY, found.whole, labels, settings | {"activation": activation}, outcome)


def _measured(
    quantity: Quantity, draws: Draws, labels: dict[str, str], settings: dict[str, str], outcome: Outcome
) -> Measurement:
    mean = mean_of(draws)
    if mean.outcome is Outcome.OK:
        mean = Estimate(mean.value, mean.stderr, n=mean.n, outcome=outcome)
    return Measurement(quantity=quantity, estimate=mean, labels=labels, draws=draws, settings=settings)


def _only(found: Crossings, layer: str) -> Crossings:
    return replace(
        found,
        by_layer={layer: found.by_layer[layer]},
        functions={layer: found.functions[layer]},
        units={layer: found.units[layer]},
        alive={layer: found.alive[layer]},
    )


def _floor(snapshot: Snapshot) -> tuple[Outcome, dict[str, str]]:
    """Whether the loss is so small that gradients, and with them the regions, are made of rounding.

    In float32 a cross-entropy below some 1e-7 is one rounding of its logits: local complexity then
    fell and jumped where the same run in float64 did not move.
    """
    dtype = next((p.dtype for p in snapshot.params.values()), torch.float32)
    floor = torch.finfo(dtype).eps
    if not abs(loss_here(snapshot).value) < floor:
        return Outcome.OK, {}
    return Outcome.NOT_CONVERGED, {
        "floor": f"the loss is below {floor:.1g}, the rounding of {str(dtype).removeprefix('torch.')}"
    }


def _random(snapshot: Snapshot, n: int) -> ProbeSet:
    """Inputs drawn uniformly between the smallest and the largest number of the probe inputs; the same at every snapshot."""
    inputs = snapshot.probe_set.inputs
    assert isinstance(inputs, Tensor)  # noqa: S101 - the input space has seen to it
    n = min(n, len(inputs))
    generator = snapshot.generator("random inputs")
    uniform = torch.rand((n, *inputs.shape[1:]), generator=generator, dtype=inputs.dtype, device=inputs.device)
    low, high = inputs.min(), inputs.max()
    return ProbeSet(low + (high - low) * uniform, snapshot.probe_set.targets[:n])


def _spread(points: Tensor) -> float:
    """The mean distance of the points from their mean."""
    flat = points.flatten(1).double()
    spread = float((flat - flat.mean(dim=0)).norm(dim=1).mean())
    if not 0 < spread < float("inf"):
        raise NotApplicable(
            f"Got probe inputs whose mean distance from their mean is {spread}; need different, finite inputs to choose a "
            "radius from. Give radius=... in the inputs' units."
        )
    return spread
