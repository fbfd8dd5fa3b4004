"""Gradient subspace: the few directions that learning happens in, cheaply from class gradients, exactly from the Hessian.

Gur-Ari, Roberts & Dyer (2018, "Gradient descent happens in a tiny subspace"): soon after training
begins most of the gradient lies in the span of the Hessian's top k eigenvectors, k the number of
classes, and that span hardly moves. The span of the k mean loss gradients of the classes holds most of it
at a small part of the cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import Draws, jackknife_draws
from probe_agent.estimators.group_gradients import GroupGradients
from probe_agent.estimators.hvp import hessian_of
from probe_agent.estimators.lanczos import Krylov
from probe_agent.likelihood import Categorical
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot

_RANK = 1e-10
"""A direction with less than this share of the longest's square is rounding."""


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
        NotApplicable: the loss is no cross-entropy, the targets are not one class a sample, or fewer than two classes fill the folds.
    """
    targets = snapshot.probe_set.targets
    if not isinstance(snapshot.likelihood, Categorical):
        known = (
            "that is not a known likelihood"
            if snapshot.likelihood is None
            else f"of a {snapshot.likelihood.name} likelihood"
        )
        raise NotApplicable(
            f"Got a loss {known}; the span of class gradients needs a classifier's cross-entropy. Where it is one all the same, "
            'attach(likelihood="categorical") says so. GradientSubspace(route="hessian") needs no classes.'
        )
    if targets.dim() != 1 or targets.is_floating_point():
        raise NotApplicable(
            f"Got targets of shape {tuple(targets.shape)} and type {targets.dtype}; the span of class gradients needs a "
            'classifier with one class a sample. GradientSubspace(route="hessian") needs no classes.'
        )
    classes, counts = targets[targets != snapshot.likelihood.ignored].unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    used = [int(c) for c, n in zip(classes[order], counts[order], strict=True) if n >= folds][:most]
    if len(used) < 2:
        raise NotApplicable(
            f"Got a probe set with {len(used)} classes of {folds} samples or more; need two. Use a larger probe set."
        )
    members = {c: (targets == c).nonzero().squeeze(1) for c in sorted(used)}
    return Folds([[snapshot.probe_set.part(index[fold::folds]) for index in members.values()] for fold in range(folds)])


def orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis of the span of the rows, shape ``(rank, numbers)``, by their Gram matrix.

    Rows count by direction alone: a class that is nearly learned has a small gradient and a vote.
    """
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    basis = (rows / lengths.clamp(min=torch.finfo(torch.float64).tiny))[lengths.squeeze(1) > 0].double()
    for _ in range(2):  # the second time mends what rounding left of nearly parallel rows
        values, vectors = torch.linalg.eigh(basis @ basis.mT)
        kept = values > _RANK * values[-1:]
        basis = (vectors[:, kept] / values[kept].sqrt()).mT @ basis
    spanning: Tensor = basis
    return spanning


def cross_fitted(gram: Draws) -> Draws:
    """The fraction of each fold's gradient in the span of the other folds' classes, and its jackknife error: shape ``(folds,)``.

    Σ_j ‖P_j g_j‖² / Σ_j ‖g_j‖² with P_j from all folds but j. Folds share most of their spans, so that their
    own spread is too small an error; the jackknife leaves a fold out of everything.

    Args:
        gram: ⟨s_jc, s_lm⟩ of the summed gradients of class c in fold j, shape ``(folds, classes, folds, classes)``.
    """
    folds = np.arange(len(gram))
    return jackknife_draws(_held_out(gram, folds), np.array([_held_out(gram, folds[folds != left]) for left in folds]))


def _held_out(gram: Draws, folds: NDArray[np.int_]) -> float:
    inside = whole = 0.0
    for fold in folds:
        others = folds[folds != fold]
        span = gram[np.ix_(others, range(gram.shape[1]), others, range(gram.shape[1]))].sum((0, 2))
        along = gram[others][:, :, fold].sum((0, 2))
        lengths = np.sqrt(np.maximum(span.diagonal(), np.finfo(np.float64).tiny))
        inverse = np.linalg.pinv(span / np.outer(lengths, lengths), rcond=_RANK, hermitian=True)
        inside += float((along / lengths) @ inverse @ (along / lengths))
        whole += float(gram[fold, :, fold].sum())
    return inside / whole if whole > 0 else math.nan


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
    krylov = Krylov(hessian, start.to(hessian.device, hessian.dtype), lambda: hessian.error)
    krylov.grow_to(min(products, hessian.dimension))
    values, vectors = torch.linalg.eigh(torch.from_numpy(krylov.tridiagonal))
    chosen = values.argsort(descending=True)[:k]
    return torch.stack([krylov.combination(vectors[:, i].tolist()) for i in chosen])


def eigenvectors_without(snapshot: Snapshot, k: int, products: int, parts: Sequence[Tensor]) -> list[Tensor]:
    """The `top_eigenvectors` of the Hessians with each part of the samples, given by their indices, left out.

    Each by a Krylov space of its own: turning the whole's to first order was tried, and wrong by ten errors where
    the k-th eigenvalue stands close to the next.
    """
    everything = torch.arange(snapshot.probe_set.n, device=snapshot.probe_set.device)
    found = []
    for part in parts:
        others = everything[~torch.isin(everything, part)]
        found.append(top_eigenvectors(replace(snapshot, probe_set=snapshot.probe_set.part(others)), k, products))
    return found
