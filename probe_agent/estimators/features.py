"""Features: what the hidden layers of a network hold for the probe inputs, seen in one forward pass.

A layer's features are what its activation function gave, flattened: n samples by f numbers, channels
and positions alike. Nothing is pooled or projected. Where f > n only the n × n matrix of inner products
is kept, which has the same singular values, and in which a linear decoder is the same one.

Layers are named as in `probe_agent.estimators.activations`. The *last hidden layer* is what the last
module with parameters takes in: the features the logits are a linear function of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from probe_agent.errors import NotApplicable
from probe_agent.estimators.activations import see_activations
from probe_agent.probe_set import rows
from probe_agent.snapshot import Snapshot

T = TypeVar("T")

FEWEST = 4
"""Samples below which nothing can be said of features."""

BLOCK_BYTES = 32 * 2**20
"""What the double-precision copy of some columns of the features may take while they are multiplied."""

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)  # noqa: SLF001 - their bases


@final
@dataclass(frozen=True, slots=True)
class Features:
    """The features H of one layer, in double precision: ``width`` numbers for each of n samples.

    Attributes:
        matrix: H of shape ``(n, width)``, or H Hᵀ of shape ``(n, n)`` where the width is larger than n.
        width: f, the numbers a sample has in this layer.
        magnitudes: mean |h| over a unit's positions, shape ``(n, units)``. A unit is a channel of a
            convolution, else an entry of the last axis.
    """

    matrix: Tensor
    width: int
    magnitudes: Tensor

    @property
    def is_gram(self) -> bool:
        """Whether the inner products are kept in the features' place."""
        return self.width > len(self.matrix)


@final
@dataclass(frozen=True, slots=True)
class HiddenLayers:
    """Features by layer, in the order the layers activate, and those of the last hidden layer.

    ``last`` is the very object of a layer where both are the same. ``where`` says in words what it is.
    """

    by_layer: Mapping[str, Features]
    last: Features
    where: str
    n: int

    def each(self, of: Callable[[Features], T], *, per_layer: bool) -> list[tuple[dict[str, str], T]]:
        """Labels and what ``of`` gives: of the last hidden layer, without a label, then of each layer."""
        labelled = [({}, self.last), *(({"layer": name}, layer) for name, layer in self.by_layer.items() if per_layer)]
        found: dict[int, T] = {}
        for _, layer in labelled:
            if id(layer) not in found:  # the last hidden layer may be one of the others
                found[id(layer)] = of(layer)
        return [(labels, found[id(layer)]) for labels, layer in labelled]


def hidden_layers(snapshot: Snapshot, samples: int) -> HiddenLayers:
    """The features of the first ``samples`` probe inputs, from one forward pass shared by all who ask for as many.

    Raises:
        NotApplicable: there are too few samples, or nothing in the pass has an axis of samples.
    """
    return snapshot.once(f"hidden layers of {samples} samples", lambda: _seen(snapshot, samples))


def features_of(values: Tensor, unit_axis: int = -1) -> Features:
    """The features in a tensor with the samples along its first axis, and one unit for each entry of another."""
    n = len(values)
    values = values.detach()
    flat = values.reshape(n, -1)
    units = (values if values.dim() > 1 else flat).abs().movedim(unit_axis, -1)
    return Features(
        matrix=_gram(flat) if flat.shape[1] > n else flat.to(torch.float64, copy=True),  # the model may go on with it
        width=flat.shape[1],
        magnitudes=units.reshape(n, -1, units.shape[-1]).mean(1, dtype=torch.float64),
    )


def _gram(flat: Tensor) -> Tensor:
    """H Hᵀ in double precision, some columns of H at a time."""
    n, width = flat.shape
    gram = torch.zeros(n, n, dtype=torch.float64, device=flat.device)
    for block in flat.split(max(1, min(width, BLOCK_BYTES // (8 * n))), dim=1):
        wide = block.double()
        gram.addmm_(wide, wide.mT)
    return gram


def _seen(snapshot: Snapshot, samples: int) -> HiddenLayers:
    n = min(samples, snapshot.probe_set.n)
    if n < FEWEST:
        raise NotApplicable(f"Got {n} samples; features need at least {FEWEST}. Give a larger probe batch.")
    seeing = _Seeing(snapshot.model, n)
    with torch.no_grad():
        outputs = seeing.through(lambda: snapshot.outputs(inputs=rows(snapshot.probe_set.inputs, slice(n))))
    last, where = seeing.last_hidden(outputs)
    return HiddenLayers(seeing.by_layer, last, where, n)


@final
class _Seeing:
    """Reduces features as they are seen; one layer's output and one layer's input are kept, to tell the last hidden layer."""

    def __init__(self, model: nn.Module, n: int) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._n = n
        self._activated: tuple[str, Tensor, int] | None = None
        self._entered: list[str] = []
        self._taken: tuple[Tensor, str | None] | None = None
        self.by_layer: dict[str, Features] = {}

    def through(self, forward: Callable[[], Any]) -> Any:
        """What ``forward`` gives, the features seen on the way."""
        handles = [
            module.register_forward_pre_hook(self._entering(path), with_kwargs=True)
            for path, module in self._modules.items()
            if _is_a_layer(path, module)
        ]
        after = _After(self._activate)
        kept: list[Any] = []

        def inside() -> Any:
            with after:
                kept.append(forward())
            return kept[0]

        try:
            link = see_activations(self._model, inside, after.announce)
        finally:
            for handle in handles:
                handle.remove()
        if link is not None:  # it gave the model's output, so it is no hidden layer
            self.by_layer.pop(link, None)
        return kept[0]

    def last_hidden(self, outputs: Any) -> tuple[Features, str]:
        """The input of the last layer if another ran before it, else the last activation, else the outputs."""
        *before, last = self._entered or [""]
        if self._taken is not None and any(
            path == last or not f"{last}.".startswith(f"{path}.") for path in before if path
        ):
            taken, layer = self._taken
            if layer in self.by_layer:
                return self.by_layer[layer], f"after {layer}"
            by_sample = self._by_sample(taken)
            if by_sample is not None:
                return features_of(by_sample), f"input of {last}"
        if self.by_layer:
            layer = next(reversed(self.by_layer))
            return self.by_layer[layer], f"after {layer}"
        by_sample = self._by_sample(outputs) if isinstance(outputs, Tensor) else None
        if by_sample is None:
            raise NotApplicable(
                f"Got a model in which no hidden layer has an axis of {self._n} samples; need features that belong to "
                "samples. Call activation functions and layers as torch modules or functions on batched tensors."
            )
        return features_of(by_sample), "outputs"

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            taken = next(
                (a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.is_floating_point()), None
            )
            self._entered.append(path)
            self._taken = None if taken is None else (taken, self._same_as_activated(taken))

        return enter

    def _activate(self, layer: str, values: Tensor) -> None:
        by_sample = self._by_sample(values)
        if by_sample is None:
            return
        self._activated = (layer, values, values._version)  # noqa: SLF001 - the public counter of changes in place
        # Counted from the end, where neither samples nor what is folded into them can shift it.
        channels_first = isinstance(self._modules.get(layer.partition("#")[0]), _CHANNELS_FIRST)
        self.by_layer[layer] = features_of(by_sample, 1 - values.dim() if channels_first and values.dim() > 1 else -1)

    def _same_as_activated(self, taken: Tensor) -> str | None:
        """The layer whose activation this is, reshaped at most, if nothing has happened to it since."""
        if self._activated is None:
            return None
        layer, values, version = self._activated
        same = taken.data_ptr() == values.data_ptr() and taken.numel() == values.numel()
        return layer if same and values._version == version else None  # noqa: SLF001

    def _by_sample(self, values: Tensor) -> Tensor | None:
        """The values with the samples along the first axis, whichever axis they are on."""
        if not values.is_floating_point() or not values.numel():
            return None
        axis = next((axis for axis, size in enumerate(values.shape) if size == self._n), None)
        if axis is not None:
            return values.movedim(axis, 0)
        if values.dim() > 1 and values.shape[0] % self._n == 0:  # positions folded into the batch
            return values.reshape(self._n, -1, *values.shape[1:])
        return None


@final
class _After(TorchFunctionMode):
    """Shows what an activation function gave, right after `see_activations` announced it.

    It is entered inside that function's mode and so called first; the call it makes runs into the other.
    """

    def __init__(self, see: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self._see = see
        self._announced: str | None = None

    def announce(self, layer: str, _: str, __: Tensor) -> None:
        self._announced = layer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        layer, self._announced = self._announced, None
        if layer is not None and isinstance(result, Tensor):
            self._see(layer, result)
        return result


def _is_a_layer(path: str, module: nn.Module) -> bool:
    """Whether it owns parameters, and is neither an activation function nor the reparametrisation of a weight."""
    if isinstance(module, nn.PReLU | torch.jit.ScriptModule) or "parametrizations" in path.split("."):
        return False
    return is_parametrized(module) or next(module.parameters(recurse=False), None) is not None
