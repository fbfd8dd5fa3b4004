"""Gradient subspace: the few directions that learning happens in, cheaply from class gradients, exactly from the Hessian.

Gur-Ari, Roberts & Dyer (2018, "Gradient descent happens in a tiny subspace"): soon after training
begins most of the gradient lies in the span of the Hessian's top k eigenvectors, k the number of
classes, and that span hardly moves. The span of the k mean loss gradients of the classes holds most of it
at a small part of the cost.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.group_gradients import GroupGradients
from probe_agent.estimators.hvp import hessian_of
from probe_agent.estimators.lanczos import Krylov
from probe_agent.likelihood import IGNORED, Categorical
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot

_RANK = 1e-6
"""A direction shorter than this share of the longest is rounding."""


@dataclass(frozen=True, slots=True)
class Folds:
    """For each fold of the probe set, its samples of each class: ``parts[fold][class]``."""

    parts: list[list[ProbeSet]]

    @property
    def flat(self) -> list[ProbeSet]:
        """All of them, fold by fold."""
        return [part for fold in self.parts for part in fold]


def class_folds(snapshot: Snapshot, folds: int, most: int) -> Folds:
    """The samples of each class dealt into folds, as equal as can be; the same deal at every snapshot.

    Only classes with a sample in every fold, the ``most`` frequent of them, are used.

    Raises:
        NotApplicable: the targets are not one class a sample, or fewer than two classes fill the folds.
    """
    targets = snapshot.probe_set.targets
    if not isinstance(snapshot.likelihood, Categorical) or targets.dim() != 1 or targets.is_floating_point():
        raise NotApplicable(
            f"Got targets of shape {tuple(targets.shape)} and type {targets.dtype}; the span of class gradients needs a "
            'classifier with one class a sample. GradientSubspace(route="hessian") needs no classes.'
        )
    classes, counts = targets[targets != IGNORED].unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    used = [int(c) for c, n in zip(classes[order], counts[order], strict=True) if n >= folds][:most]
    if len(used) < 2:
        raise NotApplicable(
            f"Got a probe set with {len(used)} classes of {folds} samples or more; need two. Use a larger probe set."
        )
    members = {c: (targets == c).nonzero().squeeze(1) for c in sorted(used)}
    return Folds([[snapshot.probe_set.part(index[fold::folds]) for index in members.values()] for fold in range(folds)])


def orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis of the span of the rows, shape ``(rank, numbers)``."""
    _, sizes, directions = torch.linalg.svd(rows.double(), full_matrices=False)
    kept = sizes > _RANK * sizes[0].clamp(min=torch.finfo(sizes.dtype).tiny)
    basis: Tensor = directions[kept]
    return basis


def fraction(basis: Tensor, gradient: Tensor) -> float:
    """F = ‖P g‖² / ‖g‖², the share of the gradient's square that lies in the subspace."""
    return float((basis @ gradient.double()).square().sum() / gradient.double().square().sum())


def overlap(one: Tensor, other: Tensor) -> float:
    """tr(P P′) / k of two subspaces: 1 where they are the same, about k/P where they are random in P dimensions."""
    return float((one @ other.mT).square().sum()) / max(min(len(one), len(other)), 1)


def stacked(found: GroupGradients) -> Tensor:
    """The rows over all parameters, shape ``(groups, numbers)``."""
    return torch.cat(list(found.rows.values()), dim=1)


def top_eigenvectors(snapshot: Snapshot, k: int, products: int) -> Tensor:
    """The eigenvectors of the k largest eigenvalues of the Hessian, by so many Lanczos products: shape ``(k, P)``."""
    hessian = hessian_of(snapshot)
    generator = snapshot.generator("subspace start")
    start = torch.randn(hessian.dimension, generator=generator, device=generator.device)
    krylov = Krylov(hessian, start.to(hessian.device, hessian.dtype))
    krylov.grow_to(min(products, hessian.dimension))
    values, vectors = torch.linalg.eigh(torch.from_numpy(krylov.tridiagonal))
    chosen = values.argsort(descending=True)[:k]
    return torch.stack([krylov.combination(vectors[:, i].tolist()) for i in chosen])
