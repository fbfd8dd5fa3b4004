"""ProbeSet: the fixed inputs and targets every snapshot is measured on, so that a moving curve means a moving network."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from inspect import signature
from typing import Any, Final

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]

FEWEST: Final = 32
"""Below so many samples a set is not halved: the error of a mean is itself too uncertain then."""


def kept(n: int, halvings: int) -> int:
    """How many of n samples are left after so many halvings."""
    return max(min(n, FEWEST), n >> halvings)


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """Inputs as the model takes them and the targets its loss compares with; ``n`` samples along every first axis."""

    inputs: Inputs
    targets: Tensor

    @property
    def n(self) -> int:
        """The number of samples."""
        return self.targets.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the probe set lives."""
        return self.targets.device

    @property
    def names_places(self) -> bool:
        """Whether the targets may be places in the batch, as those of in-batch contrasts are: each of 0…n − 1 once."""
        if self.targets.dim() != 1 or self.targets.is_floating_point() or self.targets.is_complex():
            return False
        return self.targets.dtype is not torch.bool and self.targets.sort().values.tolist() == list(range(self.n))

    def part(self, index: slice | Tensor) -> "ProbeSet":
        """Some of the samples, by a slice or a tensor of indices."""
        return ProbeSet(rows(self.inputs, index), self.targets[index])

    def halved(self, halvings: int, most: int, generator: torch.Generator) -> "ProbeSet":
        """A random part of the first ``most`` samples, in their order; with one generator each halving keeps some of those before."""
        n = min(self.n, most)
        order = torch.randperm(n, generator=generator, device=generator.device)[: kept(n, halvings)]
        return self.part(order.sort().values.to(self.device))


def each(inputs: Inputs, of: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs with a function applied to each of their tensors."""
    if isinstance(inputs, Tensor):
        return of(inputs)
    if isinstance(inputs, dict):
        return {name: of(tensor) for name, tensor in inputs.items()}
    made: tuple[Tensor, ...] = getattr(inputs, "_make", tuple)(
        of(tensor) for tensor in inputs
    )  # a NamedTuple stays one
    return made


def rows(inputs: Inputs, index: slice | Tensor) -> Inputs:
    """Some of the samples."""
    return each(inputs, lambda tensor: tensor[index])


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """The tensors the inputs are made of, in the order the model takes them."""
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values() if isinstance(inputs, dict) else inputs)


def arguments(model: nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    """The inputs as arguments of the model: a dict by its names, a tuple one by one, or as one where the model takes only that."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    several: tuple[tuple[Any, ...], dict[str, Tensor]] = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    as_one: tuple[tuple[Any, ...], dict[str, Tensor]] = (inputs,), {}
    try:
        takes = signature(model.forward)
    except (TypeError, ValueError):  # one that cannot be read
        return several
    # In part: one that was put around the method tells of "self" too.
    return as_one if not _fit(takes.bind_partial, *several) and _fit(takes.bind, *as_one) else several


def _fit(bind: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Tensor]) -> bool:
    try:
        bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def tensors_of_set(of: ProbeSet) -> list[Tensor]:
    """The tensors of the inputs, then the targets."""
    return [*tensors_of(of.inputs), of.targets]


def digest(sets: Iterable[ProbeSet]) -> str:
    """SHA-256 of all numbers of the sets, in their order: the same samples give the same."""
    found = sha256()
    for of in sets:
        for tensor in tensors_of_set(of):
            found.update(as_bytes(tensor))
    return found.hexdigest()


def as_bytes(tensor: Tensor) -> bytes:
    """The numbers of a tensor of any type as they lie in memory."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
