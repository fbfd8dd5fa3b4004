"""CentralDifferences: v ↦ J v for a field w ↦ f(w) that can be evaluated elsewhere, such as a gradient, whose J is the Hessian.

For operations that cannot be differentiated once more. Along a unit vector u the central difference

    D(h) = (f(w + hu) − f(w − hu)) / 2h = Ju + h²/6 ∂²J[u, u, u] + O(h⁴) + rounding of the order ε‖f‖/h

is wrong by a truncation that grows with h and a rounding that falls with it. Two steps cancel the first
truncation (Richardson 1911): Ju ≈ (4 D(h) − D(2h)) / 3, and their distance ‖D(2h) − D(h)‖ tells of the error: it is
three times the truncation that was cancelled and about as large as the rounding that was not. A jump of f within
h of w (a gradient where a ReLU switches) by s puts s/2h into D(h) and s/4h into D(2h), so that the value is off by 7/3 of the
distance. Of the three that is the worst, and 7/3 of the distance is the error.

The step is the one of a ladder of halvings at which the distance is relatively least along a few random directions (in the way of
Ridders 1982, "Accurate computation of F'(x) and F'(x)F''(x)"): neither the third derivative nor the rounding of a
stranger's kernel is known beforehand.
"""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

JUMP = 7 / 3
"""How many distances the value may be off."""

NEARLY = 2.0
"""Of steps that are almost as good as the best the smallest is taken: it meets fewer jumps."""


@final
class CentralDifferences:
    """J v of f's shape for v of shape ``(P,)``, four evaluations each; ``error`` is how long the vector may be that the last was off by."""

    def __init__(self, field: Callable[[Tensor], Tensor], here: Tensor, step: float) -> None:
        self._field, self._here, self._step = field, here, step
        self.error = 0.0

    def __call__(self, v: Tensor) -> Tensor:
        """J v; zero for v = 0."""
        length = float(torch.linalg.vector_norm(v))
        if length == 0:
            return torch.zeros_like(self._field(self._here))
        near, far = (difference(self._field, self._here, v / length, h) for h in (self._step, 2 * self._step))
        self.error = JUMP * length * float(torch.linalg.vector_norm(far - near))
        return torch.lerp(far, near, 4 / 3).mul_(length)


def difference(field: Callable[[Tensor], Tensor], here: Tensor, u: Tensor, h: float) -> Tensor:
    """D(h) along the unit vector u, of f's shape."""
    return (field(here + h * u) - field(here - h * u)).div_(2 * h)


def best_step(field: Callable[[Tensor], Tensor], here: Tensor, along: Sequence[Tensor], epsilon: float) -> float:
    """The h at which D(h) and D(2h) are closest, relative to their length, by the median of a few random directions.

    Of halvings from a quarter of ‖w‖, where a kernel in bfloat16 would have it, to the cube root of ε of ‖w‖ and
    somewhat further, where truncation and rounding meet in the best case. One direction may happen on a jump.

    Args:
        field: f, from vectors of shape ``(P,)``.
        here: w, where J is wanted.
        along: the directions, unit vectors.
        epsilon: the relative rounding of the field's type, at the best.
    """
    size = max(float(torch.linalg.vector_norm(here)), 1e-3)
    h, tried = size / 4, []
    far = [difference(field, here, u, 2 * h) for u in along]
    while h > size * epsilon ** (1 / 3) / 8:
        near = [difference(field, here, u, h) for u in along]
        tried.append((statistics.median(map(_apart, near, far)), h))
        far, h = near, h / 2
    least = min(apart for apart, _ in tried)
    return min(h for apart, h in tried if apart <= NEARLY * least)


def _apart(near: Tensor, far: Tensor) -> float:
    lengths = (float(torch.linalg.vector_norm(each)) for each in (near, far))
    distance = float(torch.linalg.vector_norm(far - near)) / max(*lengths, sys.float_info.min)
    return distance if math.isfinite(distance) else sys.float_info.max
