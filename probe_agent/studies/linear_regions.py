"""Linear regions: into which polygons a piecewise linear network cuts a plane through three inputs, exactly.

Within a polygon on which all earlier units are on one side of their bends, a pre-activation is affine. Its
values at the corners say whether the unit's zero line runs through, and where: so the network is evaluated
at the corners, layer by layer, and never taken apart. Residual connections, convolutions and pooling by
means need nothing of their own (Humayun, Balestriero, Balakrishnan & Baraniuk 2023, "SplineCam: exact
visualization and characterization of deep network geometry and decision boundaries", section 3, push affine
maps through the layers; Berzins 2023, "Polyhedral complex extraction from ReLU networks using edge
subdivision", works on values at vertices).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.studies.convex_polygons import OUTER, Floats, Ints, Polygons, TooMany, cut
from probe_agent.studies.decision_boundary import contenders, distances_to, level, parted
from probe_agent.studies.network_on_plane import NetworkOnPlane, Plane
from probe_agent.undisturbed import undisturbed

Box = tuple[float, float, float, float]
"""Left, right, bottom and top."""

GRID = 200
"""Cells along a side on which areas near and far from the decision boundary are measured."""

TOLERANCE = 1e-13
"""A pre-activation this small beside the layer's largest is zero: a thousand roundings of float64."""

SOUND = 1e-10
"""How far, in the largest output, the network may be from affine within a region."""

LAYER_BYTES = 64 * 2**20
"""What one layer's pre-activations at the corners of some polygons may take together."""


@final
@dataclass(frozen=True, slots=True)
class LinearRegions:
    """R regions of a rectangle in a plane, and what proves them.

    ``polygons`` are the regions in (u, v); an edge's origin is the index in ``layers`` of the layer that bends there,
    or −1 on the rectangle. ``after`` counts the regions that each layer left. ``points`` are the three inputs, shape
    ``(3, 2)``. ``decision`` are the segments where the two largest outputs tie (of a single output, where it is zero), shape
    ``(S, 2, 2)``. ``territories`` are the regions again, cut where outputs tie so that each has one class, in ``classes``.

    ``area_error`` is |Σ areas / area of the rectangle − 1|. ``map_error`` is the largest distance, over regions and
    outputs, between the network at the centroid and what is affine in its values at the corners, in units of the
    largest output.
    """

    plane: Plane
    box: Box
    points: Floats
    polygons: Polygons
    layers: tuple[str, ...]
    after: tuple[int, ...]
    territories: Polygons
    classes: Ints
    decision: Floats
    area_error: float
    map_error: float

    def __len__(self) -> int:
        return len(self.polygons)

    def born(self) -> Ints:
        """The last layer that cut each region, −1 if none did: shape ``(R,)``."""
        last: Ints = self.polygons.origin.max(axis=1)
        return last

    def density(self, distances: Sequence[float]) -> Floats:
        """Length of the regions' boundaries per area, by distance to the decision boundary, in one over input units.

        Late in training, boundaries are reported to gather where classes meet (Humayun et al. 2024, "Deep
        networks always grok and here is why", section 4): near is then above far. Both are measured on a grid as fine as a `GRID`-th of
        the rectangle.

        Args:
            distances: m ascending limits of the bands, such as (0, 0.5, math.inf).

        Returns:
            shape ``(m − 1,)``; NaN in a band that no point is in, or without a decision boundary.
        """
        left, right, bottom, top = self.box
        step = max(right - left, top - bottom) / GRID
        vectors = self.polygons.edges()
        # Each edge once: its two polygons walk it in opposite directions.
        once = (self.polygons.origin != OUTER) & (
            (vectors[..., 0] > 0) | ((vectors[..., 0] == 0) & (vectors[..., 1] > 0))
        )
        starts, vectors = self.polygons.corners[once], vectors[once]
        lengths = np.hypot(*vectors.T)
        pieces = np.ceil(lengths / step).astype(np.intp)
        which = np.repeat(np.arange(len(pieces)), pieces)
        place = (np.arange(len(which)) - (np.cumsum(pieces) - pieces)[which] + 0.5) / pieces[which]
        on_edges = distances_to(self.decision, starts[which] + place[:, None] * vectors[which])
        inside = distances_to(self.decision, grid(self.box, GRID))
        length, _ = np.histogram(on_edges, distances, weights=(lengths / pieces)[which])
        count, _ = np.histogram(inside, distances)
        with np.errstate(invalid="ignore", divide="ignore"):
            per_area: Floats = length / (count * (right - left) * (top - bottom) / GRID**2)
        return np.where(count > 0, per_area, math.nan)


def linear_regions(
    model: nn.Module,
    points: Tensor,
    *,
    box: Box | None = None,
    max_regions: int = 50_000,
) -> LinearRegions:
    """Cut the plane through three inputs into the regions on which the network is affine.

    The model is only read. It is evaluated as in evaluation mode, in float64, on the device of its parameters.
    A region is where every unit is on one side of its zero line, so both sides of a line may have the same map.

    Args:
        model: piecewise linear, its bends all at zero (ReLU, LeakyReLU, PReLU), each row of a batch by itself.
        points: three inputs, shape ``(3, ...)``.
        box: left, right, bottom and top of the rectangle, in units of the inputs, around their mean; by
            default the square around the three that is half as wide again.
        max_regions: more are refused.

    Raises:
        ValueError: the points span no plane, or the box has no area.
        NotApplicable: the network is not piecewise linear as far as is seen, or has too many regions.
    """
    plane = Plane.through(points.to(_device(model)))
    corners = plane.coordinates(points)
    left, right, bottom, top = box = _around(corners) if box is None else box
    if not (left < right and bottom < top and all(map(math.isfinite, box))):
        raise ValueError(f"Got the box {box}; need left < right and bottom < top, all finite.")
    polygons = Polygons.rectangle(*box)
    after = []
    with undisturbed(plane.origin.device, 0):
        network = NetworkOnPlane(model, plane)
        for index, layer in enumerate(network.layers):
            try:
                polygons = _cut_by_layer(network, polygons, index, max_regions)
            except TooMany as reached:
                raise NotApplicable(
                    f"Got {reached} linear regions when not done with layer {layer}; need at most {max_regions}. "
                    "Take a smaller box, raise max_regions, or count the patterns on a grid: raster()."
                ) from None
            after.append(len(polygons))
        territories, classes, decision, map_error = _decided(network, polygons)
    area = math.fsum(polygons.areas()) / ((right - left) * (top - bottom))
    return LinearRegions(
        plane=plane,
        box=box,
        points=corners,
        polygons=polygons,
        layers=tuple(network.layers),
        after=tuple(after),
        territories=territories,
        classes=classes,
        decision=decision,
        area_error=abs(area - 1),
        map_error=map_error,
    )


def raster(model: nn.Module, plane: Plane, box: Box, side: int) -> Ints:
    """Which units are above zero at the centres of side × side cells, as numbers of distinct patterns: ``(side, side)``.

    What a grid sees of the regions: never more than there are, and none that lies between its points. Rows go up in v.
    """
    with undisturbed(plane.origin.device, 0):
        network = NetworkOnPlane(model, plane)
        if not network.layers:
            return np.zeros((side, side), dtype=np.intp)
        patterns = network.patterns(grid(box, side))
    # A row of bytes as one item, which sorts without looking at columns.
    _, numbers = np.unique(patterns.view(np.dtype((np.void, patterns.shape[1]))), return_inverse=True)
    return numbers.reshape(side, side).astype(np.intp)


def grid(box: Box, side: int) -> Floats:
    """The centres of side × side cells of a rectangle, row by row from the bottom: ``(side², 2)``."""
    left, right, bottom, top = box
    steps = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(left + (right - left) * steps, bottom + (top - bottom) * steps), axis=-1).reshape(-1, 2)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _around(points: Floats) -> Box:
    low, high = points.min(axis=0), points.max(axis=0)
    (u, v), half = (low + high) / 2, 0.75 * float((high - low).max())
    return float(u - half), float(u + half), float(v - half), float(v + half)


def _cut_by_layer(network: NetworkOnPlane, polygons: Polygons, index: int, at_most: int) -> Polygons:
    """All zero lines of one layer's units, in as many polygons at a time as memory allows."""
    parts: list[Polygons] = []
    count, size = 0, max(1, LAYER_BYTES // (16 * network.units[index]))
    for start in range(0, len(polygons), size):
        some = polygons[start : start + size]
        where, corner = _distinct(some.corners)
        z = network.preactivations(where, index)
        scale = float(np.abs(z).max(initial=0))
        few = some[:16]  # a first look, so that what is not piecewise linear is not cut up at length
        _check_affine(
            few, z[corner[:16, : few.corners.shape[1]]], network.preactivations(few.centroids(), index), scale
        )
        sides = (z > TOLERANCE * scale).view(np.int8) - (z < -TOLERANCE * scale).view(np.int8)
        low, high = sides[corner[:, 0]], sides[corner[:, 0]]
        for column in corner.T[1:]:
            np.minimum(low, sides[column], out=low)
            np.maximum(high, sides[column], out=high)
        owners, units = np.nonzero(low * high < 0)
        left = at_most - count - (len(polygons) - start - len(some))
        try:
            parts.append(
                cut(some, owners, z[corner[owners], units[:, None]], index, tolerance=TOLERANCE * scale, at_most=left)
            )
        except TooMany as reached:
            raise TooMany(reached.args[0] + at_most - left) from None
        count += len(parts[-1])
    return Polygons.joined(parts)


def _decided(network: NetworkOnPlane, polygons: Polygons) -> tuple[Polygons, Ints, Floats, float]:
    """The regions' parts of one class, their classes, the decision boundary, and how far from affine a region is."""
    where, corner = _distinct(polygons.corners)
    y = network.outputs(where)
    tolerance = TOLERANCE * (scale := float(np.abs(y).max()))
    at_corners = _of_classes(y)[corner]
    best = at_corners.argmax(axis=2)
    torn = (best != best[:, :1]).any(axis=1)
    disputed = polygons[torn]
    values = contenders(at_corners[torn, : disputed.corners.shape[1]])
    parts, decision = parted(disputed, values, tolerance), level(disputed, values, tolerance)
    middle = network.outputs(np.concatenate([polygons.centroids(), parts.centroids()]))
    map_error = _check_affine(polygons, y[corner], middle[: len(polygons)], scale)
    classes = _of_classes(middle).argmax(axis=1)
    undisputed = np.flatnonzero(~torn)
    of_territories = np.concatenate([classes[undisputed], classes[len(polygons) :]])
    return Polygons.joined([polygons[undisputed], parts]), of_territories, decision, map_error


def _of_classes(y: Floats) -> Floats:
    """One output's sign decides, as of two classes one of which is always 0: ``(n, 1)`` → ``(n, 2)``."""
    return np.concatenate([np.zeros_like(y), y], axis=1) if y.shape[1] == 1 else y


def _check_affine(polygons: Polygons, at_corners: Floats, middle: Floats, scale: float) -> float:
    error = float(np.abs(polygons.mean_of(at_corners) - middle).max(initial=0)) / (scale or 1.0)
    if not error <= SOUND:
        raise NotApplicable(
            f"Got a network that is not affine where its units are: off by {error:.1g} of its largest value. Need one that "
            "is piecewise linear with all its bends at the zeros of ReLUs in sight: no LayerNorm, softmax or max pooling."
        )
    return error


def _distinct(corners: Floats) -> tuple[Floats, Ints]:
    """Corners that polygons share, once each, shape ``(c, 2)``, and which of them each corner is: ``(n, k)``."""
    flat = np.ascontiguousarray(corners + 0.0).reshape(-1, 2)  # −0.0 and 0.0 are one number
    shared, which = np.unique(flat.view(np.complex128), return_inverse=True)
    return shared.view(np.float64).reshape(-1, 2), which.reshape(corners.shape[:2])
