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
from functools import partial
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.activations import fused, see_activations
from probe_agent.estimators.draws import Draws, numbers
from probe_agent.estimators.repetition import repeats
from probe_agent.snapshot import Snapshot

ROUNDINGS = 64.0
"""The radius must exceed the rounding of the inputs this many times for x ± r v to be what it says."""

CPU_CHUNK_BYTES = 2**20
"""What a chunk's vertices may take in the widest layer: of the sizes tried, from 1/4 to 64 MiB, a CPU was among the fastest at it."""

GPU_CHUNK_BYTES = 128 * 2**20
"""The same on an accelerator, where few large launches are cheaper than many small ones."""

ALIVE_GROUPS = 8
"""Groups of points a unit's being alive is noted for, so that what other points would show can be jackknifed."""

KEPT_BYTES = 32 * 2**20
"""What the frames kept from one snapshot to the next may take; larger ones are made anew each time."""

REPEATED = 8
"""Points the network is run at twice, to see whether it is a function of its inputs."""

FRAMES = "local complexity frames"
"""What the frames' random numbers are drawn for: the same at every snapshot of a run."""


Evaluate = Callable[[Tensor, slice], Any]
"""(vertices, which points they surround) → the model's outputs there."""


@final
@dataclass(frozen=True, slots=True)
class Crossings:
    """Crossed units around each of n points: by layer, in the order the layers run, arrays of shape ``(n,)``.

    A point whose pre-activations are not numbers counts NaN. ``functions`` names each layer's
    activation function, ``units`` is how many it has. ``directions`` is P, the number of them that was used.

    Where the points themselves were run too, ``alive`` tells of each unit whether it was ever above zero at or
    around each of `ALIVE_GROUPS` groups of points (fewer where there are fewer points): bool of shape
    ``(groups, units)``. ``bend`` and ``slope`` are then each point's ‖f(x+rv) + f(x−rv) − 2f(x)‖ and
    ‖f(x+rv) − f(x−rv)‖, averaged over v, of shape ``(n,)``; None where the outputs are not one row a vertex.
    """

    by_layer: dict[str, Draws]
    functions: dict[str, str]
    units: dict[str, int]
    alive: dict[str, NDArray[np.bool_]]
    directions: int
    bend: Draws | None
    slope: Draws | None

    @property
    def whole(self) -> Draws:
        """Crossed units of all layers together, around each point."""
        summed: Draws = np.sum(list(self.by_layer.values()), axis=0)
        return summed


def crossings(
    snapshot: Snapshot,
    points: Tensor,
    *,
    radius: float,
    directions: int = 25,
    around: int | None = None,
    centres: bool = True,
    memory: dict[str, Any] | None = None,
    chunk_bytes: int | None = None,
    evaluate: Evaluate | None = None,
) -> Crossings:
    """Count crossed units around each point.

    Args:
        snapshot: the model, any architecture whose activation functions can be seen.
        points: inputs, shape ``(n, ...)``, or what stands for them (an embedding), moved about by ``evaluate``.
        radius: r > 0, in units of the points.
        directions: P, at most; D where the points have fewer dimensions.
        around: how many of the points to look around; by default all. At the others only ``alive`` is noted.
        centres: whether the points themselves are run, for all but the counts.
        memory: where the frames are kept from one call to the next, if they are small.
        chunk_bytes: what the vertices of one chunk of points may take in the widest layer; by default as
            the device likes it. The counts do not depend on it but for rounding.
        evaluate: how the model is run at moved points; by default they are its inputs.

    Raises:
        NotApplicable: no activation function is in sight, or the radius drowns in rounding, or what is seen at a point is not
            a function of it.
    """
    _check_radius(points, radius)
    evaluate = evaluate or (lambda vertices, _: snapshot.outputs(inputs=vertices))
    snapshot.once("activations repeat", lambda: _check_repeats(snapshot, evaluate, points[:REPEATED]))
    directions = min(directions, points[0].numel())
    if chunk_bytes is None:
        chunk_bytes = CPU_CHUNK_BYTES if points.device.type == "cpu" else GPU_CHUNK_BYTES
    n = len(points) if around is None else min(around, len(points))
    count = _Count(n, len(points))
    kept = None if memory is None else _kept(memory, snapshot, points[:n], directions)
    generator = snapshot.generator(FRAMES)
    chunk = start = 0
    while start < n:
        some = slice(start, min(start + max(chunk, 1), n))  # the first point tells how many more fit
        frame = frames(generator, points[some], directions) if kept is None else kept[some]
        outputs = _seen(snapshot, count, evaluate, _vertices(points[some], frame, radius), some, directions)
        if centres:
            count.bend(some, outputs, _seen(snapshot, count, evaluate, points[some], some, 0))
        start = some.stop
        if not chunk:
            widest = max(points[0].numel(), *(count.units.values() or (0,)))
            chunk = max(1, chunk_bytes // (2 * directions * widest * points.element_size()))
    layers = [layer for layer in count.functions if layer not in count.links]
    if not layers:
        raise NotApplicable(_nothing_seen(snapshot))
    rows = 2 * directions * chunk
    for first in range(n, len(points) if centres else n, rows):
        some = slice(first, min(first + rows, len(points)))
        _seen(snapshot, count, evaluate, points[some], some, 0)
    bent = [part for part in count.bent if part is not None] if None not in count.bent else []
    return Crossings(
        by_layer={layer: numbers(count.crossed[layer]) for layer in layers},
        functions={layer: count.functions[layer] for layer in layers},
        units={layer: count.units[layer] for layer in layers},
        alive={layer: (count.top[layer] > 0).cpu().numpy() for layer in layers},
        directions=directions,
        bend=np.concatenate([bend for bend, _ in bent]) if bent else None,
        slope=np.concatenate([slope for _, slope in bent]) if bent else None,
    )


def _check_repeats(snapshot: Snapshot, evaluate: Evaluate, points: Tensor) -> None:
    """See the pre-activations and outputs of a few points twice: units that differ by what is drawn are not crossed."""

    def seen() -> list[Tensor]:
        found: list[Tensor] = []

        def forward() -> Any:
            outputs = evaluate(points, slice(len(points)))
            found.extend([outputs.clone()] if isinstance(outputs, Tensor) and outputs.is_floating_point() else [])
            return outputs

        with torch.no_grad():
            see_activations(snapshot.model, forward, lambda _, __, z: found.append(z.clone()))
        return found

    once, again = seen(), seen()
    same = [one.shape == other.shape and repeats(one, other) for one, other in zip(once, again, strict=False)]
    if len(once) != len(again) or not all(same):
        raise NotApplicable(
            "Got a model whose pre-activations are others when the same inputs are given again: it draws random numbers in evaluation "
            "mode, or remembers earlier calls. Linear regions are those of a function of the inputs; need a model that draws only "
            "where self.training."
        )


def _kept(memory: dict[str, Any], snapshot: Snapshot, points: Tensor, directions: int) -> Tensor | None:
    """The frames of the points, made once a run and kept under "frames"; None where they are too large to keep."""
    if points.numel() * directions * points.element_size() > KEPT_BYTES:
        return None
    kept: Tensor | None = memory.get("frames")
    if (
        kept is None
        or len(kept) < len(points)
        or kept.shape[1:] != (directions, points[0].numel())
        or (kept.dtype, kept.device) != (points.dtype, points.device)
    ):
        kept = memory["frames"] = frames(snapshot.generator(FRAMES), points, directions)
    return kept


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


def _seen(snapshot: Snapshot, count: "_Count", evaluate: Evaluate, moved: Tensor, some: slice, directions: int) -> Any:
    """One pass: the outputs at moved points, all pre-activations having been counted."""
    outputs: list[Any] = []

    def forward() -> Any:
        outputs.append(evaluate(moved, some))
        return outputs[0]

    with torch.no_grad():
        link = see_activations(snapshot.model, forward, partial(count.see, some, 2 * directions))
    if link is not None:
        count.links.add(link)
    return outputs[0]


@final
class _Count:
    """What all passes showed, reduced the moment a pre-activation is seen; of the layers nothing else is kept.

    ``crossed`` is by layer of shape ``(n,)``; ``top`` the largest pre-activations in each group of points,
    ``(groups, units)``.
    """

    def __init__(self, looked_around: int, points: int) -> None:
        self._n = looked_around
        self._points = points
        self._groups = min(ALIVE_GROUPS, points)
        self.crossed: dict[str, Tensor] = {}
        self.top: dict[str, Tensor] = {}
        self.units: dict[str, int] = {}
        self.functions: dict[str, str] = {}
        self.links: set[str] = set()
        self.bent: list[tuple[Draws, Draws] | None] = []

    def see(self, some: slice, vertices: int, layer: str, function: str, z: Tensor) -> None:
        """Note a layer's pre-activations at so many vertices a point, or at the points themselves if 0."""
        by_point = _by_point(z, some.stop - some.start, max(vertices, 1))
        if by_point is None:
            return
        high = by_point.amax(dim=1)
        if layer not in self.top:
            if not vertices:
                return  # one row is mistaken for anything
            self.functions[layer], self.units[layer] = function, high.shape[1]
            self.crossed[layer] = torch.zeros(self._n, dtype=torch.float64, device=z.device)
            self.top[layer] = torch.full((self._groups, high.shape[1]), -math.inf, dtype=z.dtype, device=z.device)
        if vertices:
            self.crossed[layer][some] = crossed_by(high, by_point.amin(dim=1))
        top = self.top[layer]
        if high.shape[1] != top.shape[1]:  # a network may route more of some inputs through a layer
            return
        for group in range(some.start * self._groups // self._points, self._groups):
            # Point i belongs to group ⌊i · groups / points⌋.
            first, last = (-(-g * self._points // self._groups) - some.start for g in (group, group + 1))
            if first >= len(high):
                break
            torch.maximum(top[group], high[max(first, 0) : last].amax(dim=0), out=top[group])

    def bend(self, some: slice, around: object, centre: object) -> None:
        """Compare the outputs at opposite vertices with each other and with the centre's."""
        self.bent.append(None)
        points = some.stop - some.start
        if not (isinstance(around, Tensor) and isinstance(centre, Tensor) and around.is_floating_point()):
            return
        if len(centre) != points or len(around) % (2 * points) or around[0].numel() != centre[0].numel():
            return
        plus, minus = around.detach().double().reshape(points, 2, len(around) // (2 * points), -1).unbind(1)
        middle = centre.detach().double().reshape(points, 1, -1)
        bend, slope = (plus + minus - 2 * middle).norm(dim=2).mean(1), (plus - minus).norm(dim=2).mean(1)
        self.bent[-1] = numbers(bend), numbers(slope)


def _by_point(z: Tensor, points: int, vertices: int) -> Tensor | None:
    """The pre-activation as ``(points, vertices, units)``, whichever axis holds the rows."""
    rows = points * vertices
    axis = next((axis for axis, size in enumerate(z.shape) if size == rows), None)
    if axis is not None:
        return z.movedim(axis, 0).reshape(points, vertices, -1)
    if z.dim() and z.shape[0] and z.shape[0] % rows == 0:  # positions folded into the batch
        return z.reshape(points, vertices, -1)
    return None


def crossed_by(high: Tensor, low: Tensor) -> Tensor:
    """How many units do not have one sign at all vertices, from their extremes ``(points, units)``: float64 ``(points,)``.

    The published sign(z) is 0 at 0, a sign of its own. Signs are in the order of numbers, so that they all
    are one where those of the extremes are. A point with an extreme that is not a number counts NaN.
    """
    counts = (high.sign() != low.sign()).sum(dim=1).double()
    return counts.masked_fill(high.sum(dim=1).isnan() & high.isnan().any(dim=1), math.nan)


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
