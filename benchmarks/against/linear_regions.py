"""Linear regions in a plane, exactly, beside the patterns of units that a grid of points sees."""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from against.timing import Arm, Comparison, Value, compare, relative
from against.workloads import Frozen, digits
from probe_agent.studies.linear_regions import Box, LinearRegions, grid, linear_regions
from probe_agent.studies.network_on_plane import Plane

SIDE = 512
"""Points along a side of the grid."""

HALVES = (0.85, 2.0, 4.0)
"""Half the side of the square windows, in the distance between inputs: some one, five and seventeen thousand regions."""

BATCH = 1024
"""Points in a batch of the grid: the fastest where we tried."""


def in_planes() -> Iterator[Comparison]:
    """The plane through three digits, of a network with three hidden layers of 200, in windows of three sizes."""
    workload = digits(64, 200, 200, 200, 10).train({2000})
    at = workload.at(2000, 3)
    for half in HALVES:
        box = (-half, half, -half, half)
        found = linear_regions(at.model, at.x, box=box)
        where = f"{workload.name}, step 2000, window of side {2 * half:g}"
        truth_is = (
            "the exact count; error of ours: the larger of what areas and maps are off by, of a grid: the share unseen"
        )
        arms = [Arm("ours, exact", partial(_exact, at, box), partial(_proof, found), "float64, its proofs included")]
        for dtype in (torch.float64, torch.float32):
            name, precision = f"grid of {SIDE}²", str(dtype).removeprefix("torch.")
            run = partial(_seen, at.model, found.plane, box, dtype)
            arms.append(Arm(f"{name}, {precision}", run, relative(len(found)), f"in batches of {BATCH}"))
        step = workload.step(slice(128))
        yield compare("linear regions", where, truth_is, arms, step, rounds=5, steps_a_round=20, patience=math.inf)


def _exact(at: Frozen, box: Box) -> Value:
    return float(len(linear_regions(at.model, at.x, box=box)))


def _proof(found: LinearRegions, _: Value) -> float:
    return max(found.area_error, found.map_error)


@torch.no_grad()
def _seen(model: nn.Module, plane: Plane, box: Box, dtype: torch.dtype) -> Value:
    """Distinct patterns of the signs of all units on the grid."""
    above: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: above.append(args[0] > 0))
        for module in model.to(dtype).modules()
        if isinstance(module, nn.ReLU)
    ]
    hashes: list[NDArray[np.uint64]] = []
    for where in np.array_split(grid(box, SIDE), SIDE**2 // BATCH):
        model(plane.inputs(where).to(dtype))
        bits = np.packbits(torch.cat(above, dim=1).numpy(), axis=1)
        words = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)
        factors = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64) * 2 + 1
        hashes.append((words * factors).sum(axis=1))
        above.clear()
    for hook in hooks:
        hook.remove()
    model.float()
    return float(len(np.unique(np.concatenate(hashes))))
