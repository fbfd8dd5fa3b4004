"""The Gauss-Newton probe: the largest eigenvalue of the Gauss-Newton matrix, with its sampling error."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from probe_agent.estimators.draws import mean_of
from probe_agent.estimators.extremes import top_eigenpair
from probe_agent.estimators.gauss_newton import GaussNewtonProduct
from probe_agent.estimators.hvp import DOUBLE_BACKWARD
from probe_agent.estimators.lanczos import Krylov, random_start
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

LAMBDA_MAX = Quantity(
    "gauss_newton_lambda_max",
    "1",
    "The largest eigenvalue of the Gauss-Newton matrix of the likelihood, per prediction, in evaluation mode: the "
    "sharpness without the curvature of the model itself. It needs no labels and is never negative.",
    "Gauss–Newton sharpness",
    "log",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GaussNewton(Probe):
    """λ_max of G = (1/T) Σ_i J_iᵀ Λ_i J_i over the probe set; for the likelihoods known here, of the true Fisher information.

    Beside the sharpness it says how much of it is the network's outputs being sensitive (G), and how
    much the loss not being at a minimum of the model's own curvature (H − G). The value is a Rayleigh
    quotient: the solver can only be low.

    The standard error is the solver's and the sampling error, in quadrature: to first order λ moves
    by vᵀ(dG)v when the inputs change, and the samples' curvatures vᵀG_i v have λ as their mean.

    Attributes:
        tolerance: the solver's error to reach, relative to the value.
        max_products: products after which the solver gives up (NOT_CONVERGED).

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "gauss_newton"
    quantities: ClassVar[tuple[Quantity, ...]] = (LAMBDA_MAX,)
    needs: ClassVar = frozenset({Need.LIKELIHOOD})

    tolerance: float = 0.01
    max_products: int = 24

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if not 0 < self.tolerance < 1:
            raise ValueError(f"Got tolerance={self.tolerance}; need a fraction of the value, such as 0.01.")
        if self.max_products < 1:
            raise ValueError(f"Got max_products={self.max_products}; need at least one product.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """One measurement; its draws are the samples' curvatures along the top eigenvector."""
        product = GaussNewtonProduct(snapshot)
        start = random_start(snapshot, "gauss-newton")
        krylov = Krylov(product, start, lambda: product.error)
        pair = top_eigenpair(krylov, tolerance=self.tolerance, max_products=self.max_products)
        draws = None if pair.outcome is Outcome.NON_FINITE else product.draws(pair.vector)
        sampling = Estimate(math.nan) if draws is None else mean_of(draws)
        yield Measurement(
            quantity=LAMBDA_MAX,
            estimate=Estimate(
                pair.value, math.hypot(sampling.stderr, pair.error), n=sampling.n, outcome=pair.outcome
            ).checked(),
            draws=draws,
            settings={"tolerance": f"{self.tolerance:g}"}
            | ({"likelihood": snapshot.likelihood.name} if snapshot.likelihood else {})
            | ({} if product.route == DOUBLE_BACKWARD else {"product": product.route}),
        )
