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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
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

ALIVE_GROUPS = 8
"""Groups of points a unit's being alive is noted for, so that what other points would show can be jackknifed."""

FRAMES = "local complexity frames"
"""What the frames' random numbers are drawn for: the same at every snapshot of a run."""


Evaluate = Callable[[Tensor, slice], Any]
"""(vertices, which points they surround) → the model's outputs there."""


@final
@dataclass(frozen=True, slots=True)
class Crossings:
    """Crossed units around each of n points: by layer, in the order the layers run, arrays of shape ``(n,)``.

    A point whose pre-activations are not numbers counts NaN. ``functions`` names each layer's
    activation function, ``units`` is how many it has. ``alive`` tells of each unit whether it was ever
    above zero around each of `ALIVE_GROUPS` groups of points (fewer where there are fewer points): bool of
    shape ``(groups, units)``. ``directions`` is P, the number of them that was used. ``bend`` and
    ``slope`` are each point's ‖f(x+rv) + f(x−rv) − 2f(x)‖ and ‖f(x+rv) − f(x−rv)‖, averaged over v,
    of shape ``(n,)``; None where the outputs are not one row a vertex.
    """

    by_layer: dict[str, Draws]
    functions: dict[str, str]
    units: dict[str, int]
    alive: dict[str, NDArray[np.bool_]]
    directions: int
    bend: Draws | None
    slope: Draws | None


def crossings(
    snapshot: Snapshot,
    points: Tensor,
    *,
    radius: float,
    directions: int = 25,
    chunk_bytes: int | None = None,
    evaluate: Evaluate | None = None,
) -> Crossings:
    """Count crossed units around each point.

    Args:
        snapshot: the model, any architecture whose activation functions can be seen.
        points: inputs, shape ``(n, ...)``, or what stands for them (an embedding), moved about by ``evaluate``.
        radius: r > 0, in units of the points.
        directions: P, at most; D where the points have fewer dimensions.
        chunk_bytes: what the vertices of one chunk of points may take in the widest layer; by default as
            the device likes it. The counts do not depend on it but for rounding.
        evaluate: how the model is run at moved points; by default they are its inputs.

    Raises:
        NotApplicable: no activation function is in sight, or the radius drowns in rounding.
    """
    _check_radius(points, radius)
    evaluate = evaluate or (lambda vertices, _: snapshot.outputs(inputs=vertices))
    directions = min(directions, points[0].numel())
    survey, link = _count(snapshot, snapshot.generator(FRAMES), points, slice(0, 1), radius, directions, evaluate)
    layers = [layer for layer in survey.functions if layer != link]
    if not layers:
        raise NotApplicable(_nothing_seen(snapshot))
    if chunk_bytes is None:
        chunk_bytes = CPU_CHUNK_BYTES if points.device.type == "cpu" else GPU_CHUNK_BYTES
    widest = max(points[0].numel(), *(survey.units[layer] for layer in layers))
    chunk = max(1, chunk_bytes // (2 * directions * widest * points.element_size()))
    groups = min(ALIVE_GROUPS, len(points))
    chunk = min(chunk, math.ceil(len(points) / groups))
    by_layer = {layer: torch.zeros(len(points), dtype=torch.float64, device=points.device) for layer in layers}
    alive = {
        layer: torch.zeros(groups, survey.units[layer], dtype=torch.bool, device=points.device) for layer in layers
    }
    bends, slopes = [], []
    generator = snapshot.generator(FRAMES)
    for start in range(0, len(points), chunk):
        some = slice(start, min(start + chunk, len(points)))
        count, _ = _count(snapshot, generator, points, some, radius, directions, evaluate)
        for layer in layers:
            if layer in count.crossed:  # a network may route some inputs past a layer
                by_layer[layer][some] = count.crossed[layer]
                if count.above[layer].shape == alive[layer].shape[1:]:
                    alive[layer][start * groups // len(points)] |= count.above[layer]
        bends.append(count.bend)
        slopes.append(count.slope)
    whole = all(part is not None for part in bends)
    return Crossings(
        by_layer={layer: numbers(counts) for layer, counts in by_layer.items()},
        functions={layer: survey.functions[layer] for layer in layers},
        units={layer: survey.units[layer] for layer in layers},
        alive={layer: flags.cpu().numpy() for layer, flags in alive.items()},
        directions=directions,
        bend=np.concatenate([part for part in bends if part is not None]) if whole else None,
        slope=np.concatenate([part for part in slopes if part is not None]) if whole else None,
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
    snapshot: Snapshot,
    generator: torch.Generator,
    points: Tensor,
    some: slice,
    radius: float,
    directions: int,
    evaluate: Evaluate,
) -> tuple["_Count", str | None]:
    """One pass of some points' vertices: what was crossed, and the layer that is a link function, if any."""
    centres = points[some]
    vertices = _vertices(centres, frames(generator, centres, directions), radius)
    count = _Count(len(centres), directions)
    outputs: list[Any] = []

    def forward() -> Any:
        outputs.append(evaluate(vertices, some))
        return outputs[0]

    with torch.no_grad():
        link = see_activations(snapshot.model, forward, count.see)
        count.bent(outputs[0], evaluate(centres, some))
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
        self.above: dict[str, Tensor] = {}
        self.bend: Draws | None = None
        self.slope: Draws | None = None

    def bent(self, around: object, centre: object) -> None:
        """Compare the outputs at opposite vertices with each other and with the centre's."""
        if not (isinstance(around, Tensor) and isinstance(centre, Tensor)):
            return
        if (
            len(around) != self._points * self._vertices
            or len(centre) != self._points
            or not around.is_floating_point()
        ):
            return
        plus, minus = around.double().reshape(self._points, 2, self._vertices // 2, -1).unbind(1)
        middle = centre.double().reshape(self._points, 1, -1)
        self.bend = numbers((plus + minus - 2 * middle).norm(dim=2).mean(1))
        self.slope = numbers((plus - minus).norm(dim=2).mean(1))

    def see(self, layer: str, function: str, z: Tensor) -> None:
        by_point = self._by_point(z)
        if by_point is None:
            return
        high, low = by_point.amax(dim=1), by_point.amin(dim=1)
        # The published sign(z) is 0 at 0, a sign of its own: differing signs are exactly this.
        crossed = ((high >= 0) & (low <= 0) & (high != low)).sum(dim=1, dtype=torch.float64)
        self.crossed[layer] = crossed.masked_fill(high.isnan().any(dim=1), math.nan)
        self.units[layer] = high.shape[1]
        self.above[layer] = (high > 0).any(dim=0)
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
