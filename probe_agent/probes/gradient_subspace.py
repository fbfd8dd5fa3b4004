"""The gradient subspace probe: how much of the gradient lies in a few directions, and how fast these turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators import subspace
from probe_agent.estimators.draws import Draws, jackknife_draws, mean_of, numbers, ratio_draws
from probe_agent.estimators.group_gradients import equal_deal, group_gradients
from probe_agent.estimators.hvp import hessian_of
from probe_agent.estimators.second_order import certified, settings_of
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

FRACTION = Quantity(
    "gradient_subspace_fraction",
    "ratio",
    "The share of the gradient's square that lies in a subspace of a few directions found on other samples. It rises "
    "towards 1 within a few hundred steps (Gur-Ari, Roberts and Dyer 2018).",
    "Gradient inside the small subspace",
)
OVERLAP = Quantity(
    "gradient_subspace_overlap",
    "ratio",
    "The overlap tr(P P′)/k of the subspace with that of the previous measurement: 1 where it has not turned, near 0 for "
    "unrelated ones. Frozen directions are the mark of the end of the early phase.",
    "Overlap with the previous subspace",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GradientSubspace(Probe):
    """The fraction of the gradient inside a subspace of k directions, and the subspace's overlap in time.

    ``route="classes"`` takes the span of the mean loss gradients of the classes. A gradient always lies in
    the span of its own classes' gradients, so the fraction is cross-fitted: the subspace of all folds but one
    against the gradient of that one. ``route="hessian"`` takes the top k eigenvectors of the Hessian.

    Attributes:
        route: where the subspace comes from.
        k: its dimension, or the most classes; 10 as is usual.
        folds: parts of the probe set to cross-fit and jackknife over.
        products: Hessian-vector products of the Hessian's route.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "gradient_subspace"
    quantities: ClassVar[tuple[Quantity, ...]] = (FRACTION, OVERLAP)
    needs: ClassVar = frozenset({Need.CLASSES, Need.SEVERAL_INPUTS})
    looks_back: ClassVar[bool] = True  # the overlap is with the measurement before

    route: Literal["classes", "hessian"] = "classes"
    k: int = 10
    folds: int = 4
    products: int = 60

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.route not in ("classes", "hessian"):
            raise ValueError(f'Got route={self.route!r}; need "classes" or "hessian".')
        if self.k < 1 or self.folds < 2 or self.products < self.k:
            raise ValueError(
                f"Got k={self.k}, folds={self.folds}, products={self.products}; need one direction or more, two folds or "
                "more, and as many products as directions."
            )

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """The fraction, then the overlap with the previous snapshot's subspace."""
        trainable = tuple((name, p.shape) for name, p in snapshot.params.items())
        if memory.get("trainable") != trainable:  # directions in another space cannot overlap
            memory.clear()
            memory["trainable"] = trainable
        bases, draws, settings = self._hessian(snapshot, memory) if self.route == "hessian" else self._classes(snapshot)
        settings |= {"random": f"{len(bases[0]) / sum(p.numel() for p in snapshot.params.values()):.2g}"}
        yield Measurement(quantity=FRACTION, estimate=mean_of(draws), draws=draws, settings=settings)
        yield self._overlap(bases, memory, settings)

    def _classes(self, snapshot: Snapshot) -> tuple[list[Tensor], Draws, dict[str, str]]:
        """The whole's basis and then each with a fold left out; the parts of the fraction."""
        folds = subspace.class_folds(snapshot, self.folds, self.k)
        found = group_gradients(snapshot, folds.flat)
        sizes = torch.tensor([[part.n for part in fold] for fold in folds.parts], device=snapshot.probe_set.device)
        classes = sizes.shape[1]
        rows = subspace.stacked(found)
        if not rows.isfinite().all():
            raise NotApplicable("Got a gradient that is not finite; training has diverged.")
        sums = rows.reshape(len(sizes), classes, -1) * sizes[..., None]
        bases = [subspace.orthonormal(sums.sum(0))]
        bases += [subspace.orthonormal(sums.sum(0) - sums[fold]) for fold in range(len(sizes))]
        flat = sums.flatten(0, 1).double()
        gram = numbers(flat @ flat.mT).reshape(2 * sums.shape[:2])
        settings = {"route": "classes", "k": str(classes), "folds": str(self.folds)}
        if found.sketched:
            settings["sketched"] = "yes"
        return bases, subspace.cross_fitted(gram), settings

    def _hessian(self, snapshot: Snapshot, memory: Memory) -> tuple[list[Tensor], Draws, dict[str, str]]:
        parts = equal_deal(snapshot, self.folds)
        found = group_gradients(snapshot, [snapshot.probe_set.part(part) for part in parts])
        if found.sketched:
            raise NotApplicable(
                "Got too many parameters to hold the Hessian's eigenvectors beside gradients; use route='classes'."
            )
        certified(snapshot, memory)
        bases = [subspace.top_eigenvectors(snapshot, self.k, self.products).double()]
        bases += [b.double() for b in subspace.eigenvectors_without(snapshot, self.k, self.products, parts)]
        settings = {"route": "hessian", "k": str(len(bases[0])), "products": str(self.products)}
        settings |= settings_of(hessian_of(snapshot).route, memory)
        rows = subspace.stacked(found).double()
        inside = np.array([float((basis @ row).square().sum()) for basis, row in zip(bases[1:], rows, strict=True)])
        return bases, ratio_draws(inside, numbers(rows.square().sum(1))), settings

    def _overlap(self, bases: list[Tensor], memory: Memory, settings: dict[str, str]) -> Measurement:
        before: list[Tensor] | None = memory.get("bases")
        memory["bases"] = bases
        settings = settings | {"since": "the previous measurement"}
        if before is None or len(before) != len(bases):
            return Measurement(
                quantity=OVERLAP, estimate=Estimate.without_value(Outcome.NOT_APPLICABLE), settings=settings
            )
        whole = subspace.overlap(bases[0], before[0])
        without = np.array([subspace.overlap(b, a) for b, a in zip(bases[1:], before[1:], strict=True)])
        draws = jackknife_draws(whole, without)
        return Measurement(quantity=OVERLAP, estimate=mean_of(draws), draws=draws, settings=settings)
