"""Group gradients: the mean loss gradient of each of several groups of samples, as rows one can take products of.

A row keeps each parameter's numbers apart, so that products can be taken layer by layer. Where all rows
would not fit in memory each parameter's are *sketched*: every number is added, with a random sign, to
one of fewer buckets (Charikar, Chen & Farach-Colton 2002, "Finding frequent items in data streams").
Inner products are unbiased over the signs, with a relative error of about √(2/buckets); signs and
buckets are the same at every snapshot.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probe_agent.estimators.draws import Draws, numbers
from probe_agent.estimators.fisher import layer_of
from probe_agent.estimators.perturbation import gradient
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot

ROW_BYTES = 256 * 2**20
"""What all rows may take."""

LEAST_BUCKETS = 2**12
"""Fewer are not used, however many rows there are: the error would be beyond 2 %."""


@dataclass(frozen=True, slots=True)
class GroupGradients:
    """Rows by parameter name, each of shape ``(groups, numbers kept)``; ``sketched`` where these are not all."""

    rows: dict[str, Tensor]
    sketched: bool

    def gram(self, other: "GroupGradients | None" = None) -> Draws:
        """⟨g_i, g_j⟩ over all parameters, float64 of shape ``(groups, groups of the other)``."""
        return self._products(self.rows, other)

    def gram_by_layer(self) -> dict[str, Draws]:
        """The same for each layer alone; they add up to the whole."""
        layers: dict[str, list[str]] = {}
        for name in self.rows:
            layers.setdefault(layer_of(name), []).append(name)
        return {layer: self._products(names, None) for layer, names in layers.items()}

    def _products(self, names: Iterable[str], other: "GroupGradients | None") -> Draws:
        against = self if other is None else other
        found = [self.rows[name].double() @ against.rows[name].double().mT for name in names]
        summed: Draws = np.sum([numbers(each) for each in found], axis=0)
        return summed


def group_gradients(snapshot: Snapshot, parts: Sequence[ProbeSet]) -> GroupGradients:
    """The gradient of the mean loss of each part, one backward pass each."""
    sizes = {name: p.numel() for name, p in snapshot.params.items()}
    element = max((p.element_size() for p in snapshot.params.values()), default=4)
    buckets = max(sizes.values(), default=1)
    while len(parts) * element * sum(min(n, buckets) for n in sizes.values()) > ROW_BYTES and buckets > LEAST_BUCKETS:
        buckets = max(buckets // 2, LEAST_BUCKETS)
    collected: dict[str, list[Tensor]] = {name: [] for name in sizes}
    for part in parts:
        for name, g in gradient(snapshot, part=part).items():
            collected[name].append(_kept(snapshot, name, g.flatten(), buckets))
    return GroupGradients(
        {name: torch.stack(each) for name, each in collected.items()}, any(n > buckets for n in sizes.values())
    )


def equal_parts(snapshot: Snapshot, groups: int) -> list[ProbeSet]:
    """The probe set dealt at random into at most so many groups of one size; what is left over is not used.

    The deal is the same at every snapshot.
    """
    return [snapshot.probe_set.part(index) for index in equal_deal(snapshot, groups)]


def equal_deal(snapshot: Snapshot, groups: int) -> list[Tensor]:
    """The indices of the samples in each of the `equal_parts`."""
    n = snapshot.probe_set.n
    groups = min(groups, n)
    generator = snapshot.generator("equal parts")
    order = torch.randperm(n, generator=generator, device=generator.device)
    return list(order[: n // groups * groups].split(n // groups))


def _kept(snapshot: Snapshot, name: str, g: Tensor, buckets: int) -> Tensor:
    if g.numel() <= buckets:
        return g
    generator = snapshot.generator(f"sketch {name}")
    where = torch.randint(buckets, g.shape, generator=generator, device=g.device)
    signs = 2 * torch.randint(2, g.shape, generator=generator, device=g.device).to(g) - 1
    return torch.zeros(buckets, dtype=g.dtype, device=g.device).index_add_(0, where, signs * g)
