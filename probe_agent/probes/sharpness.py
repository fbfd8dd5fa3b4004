"""The sharpness probe: the largest eigenvalue of the Hessian of the probe loss, with its sampling error."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from probe_agent.estimators.curvature_draws import curvature_draws
from probe_agent.estimators.draws import mean_of
from probe_agent.estimators.extremes import top_eigenpair
from probe_agent.estimators.hvp import hessian_of
from probe_agent.estimators.lanczos import check_symmetry, krylov_of
from probe_agent.estimators.second_order import certified, settings_of
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

SHARPNESS = Quantity(
    "hessian_lambda_max",
    "1",
    "Sharpness: the largest eigenvalue of the Hessian of the probe loss, in evaluation mode. Gradient descent with "
    "learning rate η is stable where it stays below 2/η (Cohen et al. 2021).",
    "Sharpness",
    "log",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sharpness(Probe):
    """λ_max of ∂²L/∂w², L the mean loss over the probe set in evaluation mode, w the trainable parameters.

    It is the sharpness of Cohen et al. (2021, "Gradient descent on neural networks typically occurs
    at the edge of stability", section 2). The value is a Rayleigh quotient: the solver can only be
    low. It grows the snapshot's Krylov space (`krylov_of`) as far as the tolerance needs.

    The standard error is the solver's and the sampling error, in quadrature (`curvature_draws`). Where
    the loss is no mean over inputs (a sum, a contrast) the latter is unknown, and the standard error
    is NaN.

    Two biases are known and not in the standard error. The largest eigenvalue of a sample lies above
    the population's on average, by a second-order term that is small once the eigenvalue stands
    clear of the bulk. And dropout and BatchNorm are taken as in evaluation, not as the optimizer
    meets them. Values the model detaches are held constant, as they are for the optimizer.

    Attributes:
        tolerance: the solver's error to reach, relative to the value.
        max_products: Hessian-vector products after which the solver gives up (NOT_CONVERGED).
        groups: parts of the probe set whose spread is the sampling error.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "sharpness"
    quantities: ClassVar[tuple[Quantity, ...]] = (SHARPNESS,)
    needs: ClassVar = frozenset({Need.TRUE_GRADIENTS})

    tolerance: float = 0.01
    max_products: int = 24
    groups: int = 8

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if not 0 < self.tolerance < 1:
            raise ValueError(f"Got tolerance={self.tolerance}; need a fraction of the value, such as 0.01.")
        if self.max_products < 1:
            raise ValueError(f"Got max_products={self.max_products}; need at least one product.")
        if self.groups < 2:
            raise ValueError(f"Got groups={self.groups}; need at least two to see a spread.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """One measurement; its draws are the curvatures of the groups along the top eigenvector."""
        certified(snapshot, memory)
        krylov = krylov_of(snapshot)
        pair = top_eigenpair(krylov, tolerance=self.tolerance, max_products=self.max_products)
        check_symmetry(krylov)
        draws = None
        if pair.outcome is not Outcome.NON_FINITE:
            draws = curvature_draws(snapshot, pair.vector, pair.value, error=pair.reach, groups=self.groups)
        sampling = Estimate(math.nan) if draws is None else mean_of(draws)
        yield Measurement(
            quantity=SHARPNESS,
            estimate=Estimate(
                pair.value, math.hypot(sampling.stderr, pair.error), n=sampling.n, outcome=pair.outcome
            ).checked(),
            draws=draws,
            settings={"tolerance": f"{self.tolerance:g}", "groups": str(self.groups), "start": "random"}
            | settings_of(hessian_of(snapshot).route, memory),
        )
