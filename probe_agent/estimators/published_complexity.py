"""Local complexity as published, for comparison with published numbers: one frame for all points, chosen modules' outputs.

Humayun, Balestriero & Baraniuk (2024, "Deep networks always grok and here is why", section 3, and their
code): all points share P orthonormal directions, the units are the outputs of named modules (every linear
layer, the logits included; every BatchNorm of a ResNet), and a unit counts where its sign is not the same at
all 2P vertices. `probe_agent.probes.local_complexity` gives each point a frame of its own and leaves the
logits out, for the reasons in its card.

The counts are the published ones; the work is not. Nothing is kept of a layer but its smallest and largest
output over the vertices. Where the network begins with a linear layer its outputs at x ± r v are
z(x) ± r W v: n + P rows are multiplied instead of 2 P n, for all radii at once, and whether it is crossed
follows from |z(x)| ≤ r max |W v|.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import Draws, numbers
from probe_agent.estimators.local_complexity import crossed_by
from probe_agent.snapshot import Snapshot

CHUNK_BYTES = 2**20
"""What a chunk's vertices may take: on a CPU the caches decide, not the memory."""

FIRST_BYTES = 2**21
"""The same of the first layer's outputs, where they are all that is made."""


def published_frame(dimension: int, directions: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """P orthonormal directions, shape ``(P, D)``.

    Raises:
        NotApplicable: there are fewer dimensions than directions.
    """
    if directions > dimension:
        raise NotApplicable(
            f"Got {directions} directions in {dimension} dimensions; need no more than there are dimensions."
        )
    normal = torch.randn(dimension, directions, generator=generator, device=generator.device, dtype=dtype)
    frame: Tensor = torch.linalg.qr(normal).Q.mT.contiguous()
    return frame


def published_crossings(
    snapshot: Snapshot, points: Tensor, frame: Tensor, radii: Sequence[float], layers: Sequence[str]
) -> list[dict[str, Draws]]:
    """Crossed outputs around each point, for each radius by layer: float64 of shape ``(n,)``.

    Args:
        snapshot: the model.
        points: shape ``(n, ...)``.
        frame: the shared directions, shape ``(P, D)``.
        radii: in units of the points.
        layers: paths of the modules whose outputs are looked at, each called once in a pass.
    """
    counts = [{layer: torch.zeros(len(points), dtype=torch.float64) for layer in layers} for _ in radii]
    vertices = 2 * len(frame)
    signed = torch.cat([frame, -frame])
    with torch.no_grad():
        first = _first_linear(snapshot.model, points)
        path = next((path for path, module in snapshot.model.named_modules() if module is first), None)
        most, wide = (CHUNK_BYTES, points[0].numel()) if first is None else (FIRST_BYTES, first.out_features)
        chunk = max(1, most // (vertices * wide * points.element_size()))
        # The function, and not the module, which is being watched.
        along = signed if first is None else nn.functional.linear(signed, first.weight)
        moves = [radius * along for radius in radii]
        with _counted(snapshot.model, [layer for layer in layers if layer != path], vertices) as seen:
            for start in range(0, len(points), chunk):
                some = points[start : start + chunk]
                rows = (len(some) * vertices, *some.shape[1:])
                around = some.flatten(1)
                if first is not None:
                    around = nn.functional.linear(around, first.weight, first.bias)
                for move, found in zip(moves, counts, strict=True):
                    moved = (around[:, None] + move).flatten(0, 1)
                    if first is None:
                        snapshot.outputs(inputs=moved.reshape(rows))
                    else:
                        with _given(first, moved):
                            snapshot.outputs(inputs=some[:1].expand(rows))
                        if path in found:
                            seen[path] = _crossed_linear(around, move)
                    for layer in layers:
                        found[layer][start : start + len(some)] = seen.pop(layer)
    return [{layer: numbers(count) for layer, count in found.items()} for found in counts]


def _crossed_linear(centre: Tensor, moves: Tensor) -> Tensor:
    """How many outputs z ± r W v change sign: rounding keeps the sign of a sum, so this is exact."""
    reach = moves.amax(0)
    counts = ((centre.abs() <= reach) & (reach > 0)).sum(1).double()
    return counts.masked_fill(centre.isnan().any(1), math.nan)


def _first_linear(model: nn.Module, points: Tensor) -> nn.Linear | None:
    """The linear layer that takes in the points as they are, flattened at most, and is the first to do anything."""
    began: list[tuple[nn.Module, object]] = []

    def note(module: nn.Module, args: tuple[object, ...]) -> None:
        if not any(module.children()) and not isinstance(module, nn.Flatten | nn.Identity):
            began.append((module, args[0]))

    handles = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        model(points[:1])
    finally:
        for handle in handles:
            handle.remove()
    module, given = began[0] if began else (None, None)
    same = (
        isinstance(given, Tensor)
        and given.numel() == points[:1].numel()
        and torch.equal(given.flatten(), points[0].flatten())
    )
    return module if isinstance(module, nn.Linear) and same else None


@contextmanager
def _given(module: nn.Linear, output: Tensor) -> Iterator[None]:
    """Inside, the module gives ``output`` without computing it."""
    vars(module)["forward"] = lambda _: output  # of this instance alone
    try:
        yield
    finally:
        del vars(module)["forward"]


@contextmanager
def _counted(model: nn.Module, layers: Sequence[str], vertices: int) -> Iterator[dict[str, Tensor]]:
    """How many outputs of each layer change sign around each point, told while a pass runs."""
    seen: dict[str, Tensor] = {}

    def see(layer: str, z: Tensor) -> None:
        by_point = z.reshape(-1, vertices, z[0].numel())
        seen[layer] = crossed_by(by_point.amax(1), by_point.amin(1)).cpu()

    handles = [
        model.get_submodule(layer).register_forward_hook(lambda _m, _a, z, layer=layer: see(layer, z))
        for layer in layers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
