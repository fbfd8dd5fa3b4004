"""The Hessian-spectrum probe: the smallest eigenvalue, the spectral gap, and how much of the curvature is negative."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from probe_agent.errors import NotApplicable
from probe_agent.estimators.curvature_draws import curvature_draws
from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.extremes import extreme
from probe_agent.estimators.hvp import hessian_of
from probe_agent.estimators.lanczos import Krylov, check_symmetry, krylov_of
from probe_agent.estimators.second_order import certified, settings_of
from probe_agent.estimators.spectrum import negative_share, second_eigenpair
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

LAMBDA_MIN = Quantity(
    "hessian_lambda_min",
    "1",
    "The smallest eigenvalue of the Hessian of the probe loss, in evaluation mode: the strongest negative curvature where "
    "it is below zero.",
    "Smallest Hessian eigenvalue",
)
GAP = Quantity(
    "hessian_spectral_gap",
    "1",
    "The largest eigenvalue of the Hessian of the probe loss less the second largest: where it closes, the sharpest "
    "direction changes places with another.",
    "Spectral gap",
    "log",
)
NEGATIVE = Quantity(
    "hessian_negative_share",
    "ratio",
    "The share of the Hessian's curvature, as the sum of absolute eigenvalues, that is negative: one half for a symmetric "
    "spectrum, zero in a convex bowl.",
    "Negative curvature",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HessianSpectrum(Probe):
    """What one Krylov space says of the Hessian beside its largest eigenvalue; it shares the space of the sharpness.

    λ_min and the gap have the solver's and the sampling error in quadrature, the latter from the
    groups' curvatures along the eigenvectors (`curvature_draws`). The negative share has the error of
    the random start and of the quadrature: it is a statement on this probe set's Hessian.

    Attributes:
        products: the dimension to grow the snapshot's Krylov space to.
        tolerance: the error of λ_min and of the gap, relative to the largest eigenvalue in magnitude,
            beyond which they are NOT_CONVERGED.
        groups: parts of the probe set whose spread is the sampling error.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "hessian_spectrum"
    quantities: ClassVar[tuple[Quantity, ...]] = (LAMBDA_MIN, GAP, NEGATIVE)
    needs: ClassVar = frozenset({Need.TRUE_GRADIENTS})

    products: int = 12
    tolerance: float = 0.1
    groups: int = 8

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.products < 2:
            raise ValueError(f"Got products={self.products}; need at least two for two eigenvalues.")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"Got tolerance={self.tolerance}; need a fraction of the largest eigenvalue, such as 0.1.")
        if self.groups < 2:
            raise ValueError(f"Got groups={self.groups}; need at least two to see a spread.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """Three measurements."""
        certified(snapshot, memory)
        krylov = krylov_of(snapshot)
        krylov.grow_to(self.products)
        check_symmetry(krylov)
        settings = {"products": str(krylov.products), "groups": str(self.groups)} | settings_of(
            hessian_of(snapshot).route, memory
        )
        rough = krylov.noise > self.tolerance * krylov.scale
        if rough or not krylov.finite:
            outcome = Outcome.NOT_CONVERGED if krylov.finite else Outcome.NON_FINITE
            for quantity in self.quantities:
                yield Measurement(quantity=quantity, estimate=Estimate.without_value(outcome), settings=settings)
            return
        if krylov.dimension < 2:
            raise NotApplicable(
                "Got a model with a single trainable parameter; its Hessian is one number, the sharpness."
            )
        yield self._lambda_min(snapshot, krylov, settings)
        yield self._gap(snapshot, krylov, settings)
        yield Measurement(quantity=NEGATIVE, estimate=negative_share(krylov), settings=settings)

    def _lambda_min(self, snapshot: Snapshot, krylov: Krylov, settings: dict[str, str]) -> Measurement:
        bottom = extreme(krylov, "bottom")
        vector = krylov.combination(bottom.weights)
        draws = curvature_draws(snapshot, vector, bottom.value, error=bottom.reach, groups=self.groups)
        estimate = self._estimate(krylov, bottom.value, bottom.error, draws)
        return Measurement(quantity=LAMBDA_MIN, estimate=estimate, draws=draws, settings=settings)

    def _gap(self, snapshot: Snapshot, krylov: Krylov, settings: dict[str, str]) -> Measurement:
        if krylov.products < 2:  # every eigenvalue is the same
            return Measurement(quantity=GAP, estimate=Estimate(0.0, krylov.tiny), settings=settings)
        top = extreme(krylov, "top")
        second, error, weights = second_eigenpair(krylov)
        ends = [
            curvature_draws(snapshot, krylov.combination(w), value, error=reach, groups=self.groups)
            for w, value, reach in ((top.weights, top.value, top.reach), (weights, second, top.reach))
        ]
        draws = ends[0] - ends[1] if ends[0] is not None and ends[1] is not None else None
        estimate = self._estimate(krylov, top.value - second, math.hypot(top.residual, error), draws)
        return Measurement(quantity=GAP, estimate=estimate, draws=draws, settings=settings)

    def _estimate(self, krylov: Krylov, value: float, error: float, draws: Draws | None) -> Estimate:
        sampling = Estimate(math.nan) if draws is None else mean_of(draws)
        within = error <= self.tolerance * krylov.scale or bool(np.isclose(error, krylov.tiny))
        outcome = Outcome.OK if within else Outcome.NOT_CONVERGED
        return Estimate(value, math.hypot(sampling.stderr, error), n=sampling.n, outcome=outcome).checked()
