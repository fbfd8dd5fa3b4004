"""Local complexity: how many units of a network bend within a small neighbourhood of an input.

Around x the neighbourhood is the cross-polytope conv{x ± r v_p} of P orthonormal directions. Its 2P
vertices pass through the network, and a unit is *crossed* when its pre-activation does not have
the same sign at all of them. The number of crossed units stands for the number of linear regions
in the neighbourhood: exactly the hyperplanes that cut it, in the first layer; beyond, the
hyperplanes that cut the hull of the images of its vertices (Humayun, Balestriero & Baraniuk, 2023,
"Training dynamics of deep network linear regions", section 3.2, and 2024, "Deep networks always
grok and here is why", section 3).

Differing from the published code, each point has a frame of directions of its own. One frame shared
by all points adds an error that more points do not average out.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.activations import fused, see_activations
from probe_agent.estimators.draws import Draws, numbers
from probe_agent.snapshot import Snapshot

ROUNDINGS = 64.0
"""The radius must exceed the rounding of the inputs this many times for x ± r v to be what it says."""

CPU_CHUNK_BYTES = 4 * 2**20
"""What a chunk's vertices may take in the widest layer: the size in which a CPU was fastest, from 1 to 64 MiB."""

GPU_CHUNK_BYTES = 128 * 2**20
"""The same on an accelerator, where few large launches are cheaper than many small ones."""

FRAMES = "local complexity frames"
"""What the frames' random numbers are drawn for: the same at every snapshot of a run."""


@final
@dataclass(frozen=True, slots=True)
class Crossings:
    """Crossed units around each of n points: by layer, in the order the layers run, arrays of shape ``(n,)``.

    A point whose pre-activations are not numbers counts NaN. ``functions`` names each layer's
    activation function. ``directions`` is P, the number of them that was used.
    """

    by_layer: dict[str, Draws]
    functions: dict[str, str]
    directions: int


def crossings(
    snapshot: Snapshot, points: Tensor, *, radius: float, directions: int = 25, chunk_bytes: int | None = None
) -> Crossings:
    """Count crossed units around each point. It costs 2P·n forward passes of one input.

    An activation that does not hold a row or more of its own for each vertex (a table of positions, a
    routed expert) is left out, and so is a link function that gives the model's output.

    Args:
        snapshot: the model; its ``generator`` draws the frames, the same at every snapshot.
        points: inputs of the model, shape ``(n, ...)``, of a real floating-point type, D numbers each.
        radius: r > 0, in units of the inputs.
        directions: P, at most; D where the inputs have fewer dimensions.
        chunk_bytes: what the vertices of one chunk of points may take in the widest layer; by default as
            the device likes it. The counts do not depend on it but for rounding.

    Raises:
        NotApplicable: no activation function is in sight, or the radius drowns in rounding.
    """
    _check_radius(points, radius)
    directions = min(directions, points[0].numel())
    survey, link = _count(snapshot, snapshot.generator(FRAMES), points[:1], radius, directions)
    layers = [layer for layer in survey.functions if layer != link]
    if not layers:
        raise NotApplicable(_nothing_seen(snapshot))
    if chunk_bytes is None:
        chunk_bytes = CPU_CHUNK_BYTES if points.device.type == "cpu" else GPU_CHUNK_BYTES
    widest = max(points[0].numel(), *(survey.units[layer] for layer in layers))
    chunk = max(1, chunk_bytes // (2 * directions * widest * points.element_size()))
    by_layer = {layer: torch.zeros(len(points), dtype=torch.float64, device=points.device) for layer in layers}
    generator = snapshot.generator(FRAMES)
    for start in range(0, len(points), chunk):
        some = slice(start, start + chunk)
        count, _ = _count(snapshot, generator, points[some], radius, directions)
        for layer in layers:
            if layer in count.crossed:  # a network may route some inputs past a layer
                by_layer[layer][some] = count.crossed[layer]
    return Crossings(
        by_layer={layer: numbers(counts) for layer, counts in by_layer.items()},
        functions={layer: survey.functions[layer] for layer in layers},
        directions=directions,
    )


def frames(generator: torch.Generator, points: Tensor, directions: int) -> Tensor:
    """Random orthonormal directions, uniform up to their signs, one frame a point: shape ``(n, P, D)``.

    Drawn point by point, so that the numbers do not depend on how the points are chunked.
    """
    shape = (points[0].numel(), directions)
    normal = [torch.randn(shape, generator=generator, dtype=points.dtype, device=points.device) for _ in points]
    orthonormal: Tensor = torch.linalg.qr(torch.stack(normal)).Q
    return orthonormal.mT


def _vertices(points: Tensor, frame: Tensor, radius: float) -> Tensor:
    """Of each point, x + r v_1 … x + r v_P and then x − r v_1 … x − r v_P: shape ``(n · 2P, ...)``."""
    steps = radius * torch.cat([frame, -frame], dim=1)
    return (points.flatten(1).unsqueeze(1) + steps).reshape(-1, *points.shape[1:])


def _count(
    snapshot: Snapshot, generator: torch.Generator, points: Tensor, radius: float, directions: int
) -> tuple["_Count", str | None]:
    """One pass of the points' vertices: what was crossed, and the layer that is a link function, if any."""
    vertices = _vertices(points, frames(generator, points, directions), radius)
    count = _Count(len(points), directions)
    with torch.no_grad():
        link = see_activations(snapshot.model, lambda: snapshot.outputs(inputs=vertices), count.see)
    return count, link


@final
class _Count:
    """Crossed units of one pass, reduced the moment a pre-activation is seen; nothing else is kept."""

    def __init__(self, points: int, directions: int) -> None:
        self._points = points
        self._vertices = 2 * directions
        self.crossed: dict[str, Tensor] = {}
        self.units: dict[str, int] = {}
        self.functions: dict[str, str] = {}

    def see(self, layer: str, function: str, z: Tensor) -> None:
        by_point = self._by_point(z)
        if by_point is None:
            return
        high, low = by_point.amax(dim=1), by_point.amin(dim=1)
        # The published sign(z) is 0 at 0, a sign of its own: differing signs are exactly this.
        crossed = ((high >= 0) & (low <= 0) & (high != low)).sum(dim=1, dtype=torch.float64)
        self.crossed[layer] = crossed.masked_fill(high.isnan().any(dim=1), math.nan)
        self.units[layer] = high.shape[1]
        self.functions[layer] = function

    def _by_point(self, z: Tensor) -> Tensor | None:
        """The pre-activation as ``(points, vertices, units)``, whichever axis holds the rows."""
        rows = self._points * self._vertices
        axis = next((axis for axis, size in enumerate(z.shape) if size == rows), None)
        if axis is not None:
            return z.movedim(axis, 0).reshape(self._points, self._vertices, -1)
        if z.dim() and z.shape[0] and z.shape[0] % rows == 0:  # positions folded into the batch
            return z.reshape(self._points, self._vertices, -1)
        return None


def _check_radius(points: Tensor, radius: float) -> None:
    needed = ROUNDINGS * torch.finfo(points.dtype).eps * float(points.flatten(1).norm(dim=1).max())
    if not radius > needed:
        raise NotApplicable(
            f"Got a neighbourhood of radius {radius:.3g} around {points.dtype} inputs, whose rounding is not small beside "
            f"it; need more than {needed:.3g}. Give the probe set in float32 or float64, centred, or a larger radius."
        )


def _nothing_seen(snapshot: Snapshot) -> str:
    hidden = fused(snapshot.model)
    where = f" {' and '.join(hidden)} run theirs inside one fused operation." if hidden else ""
    return (
        "Saw no activation function in the model's forward pass, so there are no linear regions to count."
        f"{where} Local complexity needs activations called as torch modules or functions, such as nn.ReLU or F.relu."
    )
