"""A network on a plane: what a model computes at points of the plane through three of its inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators.activations import BENT_ELSEWHERE, fused, see_activations
from probe_agent.frozen_copy import copy_of

Floats = NDArray[np.float64]

FORWARD_BYTES = 2 * 2**20
"""What a batch of points may take in the widest layer: small batches stay in a CPU's cache."""


@final
@dataclass(frozen=True, slots=True)
class Plane:
    """x = origin + u a + v b with orthonormal a and b: lengths in the plane are lengths between inputs."""

    origin: Tensor
    axes: Tensor
    shape: torch.Size

    @classmethod
    def through(cls, points: Tensor) -> "Plane":
        """The plane through three inputs, shape ``(3, ...)``: from their mean, a towards the second from the first.

        Raises:
            ValueError: they are not three, or on one line.
        """
        if points.dim() < 2 or len(points) != 3 or not points.is_floating_point():
            raise ValueError(
                f"Got inputs of shape {tuple(points.shape)}, {points.dtype}; need three, of floating point."
            )
        flat = points.detach().double().flatten(1)
        first, second = flat[1] - flat[0], flat[2] - flat[0]
        a = first / first.norm()
        across = second - (a @ second) * a
        across = across - (a @ across) * a  # twice is enough for orthogonal to the last digit
        if not float(across.norm()) > 1e-6 * float(torch.maximum(first.norm(), second.norm())):
            raise ValueError("Got three inputs on one line, or equal ones; need three that span a plane.")
        return cls(flat.mean(0), torch.stack([a, across / across.norm()]), points.shape[1:])

    def coordinates(self, points: Tensor) -> Floats:
        """(u, v) of inputs, or of their feet in the plane: ``(n, ...)`` → ``(n, 2)``."""
        flat = points.detach().to(self.origin).flatten(1)
        feet: Floats = ((flat - self.origin) @ self.axes.mT).cpu().numpy()
        return feet

    def inputs(self, coordinates: Floats) -> Tensor:
        """The inputs at (u, v): ``(n, 2)`` → ``(n, ...)``, float64."""
        where = torch.from_numpy(np.ascontiguousarray(coordinates)).to(self.origin.device)
        return (self.origin + where @ self.axes).reshape(-1, *self.shape)


class _Enough(Exception):
    """What was to be seen has been seen."""


@final
class NetworkOnPlane:
    """A copy of a model, in evaluation mode and float64, evaluated at points (u, v) of a plane.

    ``layers`` names the ReLU-like activation functions in the order they run, ``units`` counts their units.

    Raises:
        NotApplicable: the model has other activation functions, or does not give each input its own row of numbers.
    """

    def __init__(self, model: nn.Module, plane: Plane) -> None:
        self.plane = plane
        self._model = copy_of(model).double()
        self.layers: list[str] = []
        self.units: list[int] = []
        others: list[str] = []

        def see(layer: str, function: str, z: Tensor) -> None:
            self.layers.append(layer)
            self.units.append(z.numel() // 2)
            if function in BENT_ELSEWHERE:
                others.append(f"{function} in layer {layer}")

        three = plane.inputs(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        with torch.no_grad():
            output, again = _shown(self._model, three[:2], see), self._model(three)
        if others or (hidden := fused(model)):
            raise NotApplicable(
                f"Got {' and '.join(others or hidden)}; need activation functions that are linear but for a bend at zero: "
                "ReLU, LeakyReLU or PReLU, called as torch modules or functions. Of a link function leave the last layer off."
            )
        if not (isinstance(output, Tensor) and output.dim() in {1, 2} and len(output) == 2):
            raise NotApplicable("Got a model whose outputs are not one number or one row of numbers for each input.")
        if not again.isfinite().all():
            raise NotApplicable("Got a model whose outputs are not finite numbers; there is nothing to look at.")
        if not torch.allclose(output, again[:2], rtol=1e-9, atol=1e-12 * float(output.abs().max())):
            raise NotApplicable("Got a model whose output for an input depends on the rest of its batch, or on chance.")
        self._rows = max(1, FORWARD_BYTES // (8 * max([three[0].numel(), *self.units])))

    def preactivations(self, where: Floats, layer: int) -> Floats:
        """The input of one layer's activation function: ``(n, 2)`` → ``(n, units)``."""
        found = np.empty((len(where), self.units[layer]))

        def run(some: slice) -> None:
            passed = iter(range(layer + 1))

            def see(_: str, __: str, z: Tensor) -> None:
                if next(passed) == layer:
                    found[some] = self._rows_of(z, some).cpu().numpy()
                    raise _Enough

            try:
                _shown(self._model, self.plane.inputs(where[some]), see)
            except _Enough:
                return
            raise NotApplicable(f"Got a model that runs layer {self.layers[layer]} for some inputs only.")

        self._in_batches(len(where), run)
        return found

    def outputs(self, where: Floats) -> Floats:
        """The model's outputs: ``(n, 2)`` → ``(n, classes)``."""
        parts: list[Floats] = []
        self._in_batches(
            len(where), lambda some: parts.append(self._model(self.plane.inputs(where[some])).cpu().numpy())
        )
        return np.concatenate(parts).reshape(len(where), -1)

    def patterns(self, where: Floats) -> NDArray[np.uint8]:
        """Which units are above zero, eight to a byte: ``(n, 2)`` → ``(n, bytes)``."""
        parts: list[NDArray[np.uint8]] = []

        def run(some: slice) -> None:
            above: list[Tensor] = []
            _shown(
                self._model, self.plane.inputs(where[some]), lambda _, __, z: above.append(self._rows_of(z, some) > 0)
            )
            parts.append(np.packbits(torch.cat(above, dim=1).cpu().numpy(), axis=1))

        self._in_batches(len(where), run)
        return np.concatenate(parts)

    def _in_batches(self, n: int, run: Callable[[slice], object]) -> None:
        with torch.no_grad():
            for start in range(0, n, self._rows):
                run(slice(start, min(start + self._rows, n)))

    def _rows_of(self, z: Tensor, some: slice) -> Tensor:
        if len(z) != some.stop - some.start:
            raise NotApplicable("Got a layer whose first axis is not the inputs'; need one row for each input.")
        return z.flatten(1)


def _shown(model: nn.Module, inputs: Tensor, see: Callable[[str, str, Tensor], None]) -> object:
    """The model's output, each pre-activation shown on the way."""
    outputs: list[object] = []
    see_activations(model, lambda: outputs.append(model(inputs)), see)
    return outputs[0]
