"""The edge-of-stability probe: the sharpness as the optimizer meets it, in units of what it can bear."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from probe_agent.estimators.curvature_draws import curvature_draws
from probe_agent.estimators.draws import mean_of
from probe_agent.estimators.extremes import top_eigenpair
from probe_agent.estimators.hvp import hessian_of
from probe_agent.estimators.lanczos import Krylov, check_symmetry, krylov_of, random_start
from probe_agent.estimators.second_order import certified, settings_of
from probe_agent.estimators.stability import bound, known_rule, step_sizes
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

EDGE = Quantity(
    "edge_of_stability",
    "1",
    "The largest curvature as the optimizer's step sees it (learning rates, momentum and preconditioner included), divided "
    "by the largest that is stable on a quadratic: 1 is the edge of stability (Cohen et al. 2021, 2022).",
    "Edge of stability",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeOfStability(Probe):
    """λ_max(D^½ H D^½) over its stable bound; H the Hessian of the probe loss in evaluation mode, D the optimizer's step sizes.

    ηλ_max/2 for plain gradient descent with learning rate η; see `probe_agent.estimators.stability`
    for the others. Where one learning rate holds for all parameters it takes the snapshot's
    Krylov space and costs nothing beside the sharpness; else it needs one of its own. Errors are
    those of the sharpness.

    Attributes:
        tolerance: the solver's error to reach, relative to the value.
        max_products: Hessian-vector products after which the solver gives up (NOT_CONVERGED).
        groups: parts of the probe set whose spread is the sampling error.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "edge_of_stability"
    quantities: ClassVar[tuple[Quantity, ...]] = (EDGE,)
    needs: ClassVar = frozenset({Need.TRUE_GRADIENTS, Need.OPTIMIZER})

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
        """One measurement; its draws are the groups' curvatures along the direction in which the step is least stable."""
        rule = known_rule(snapshot)
        sizes = step_sizes(snapshot, rule)
        certified(snapshot, memory)
        krylov = krylov_of(snapshot) if isinstance(sizes, float) else _scaled(snapshot, sizes)
        pair = top_eigenpair(krylov, tolerance=self.tolerance, max_products=self.max_products)
        check_symmetry(krylov)
        scale = (sizes if isinstance(sizes, float) else 1.0) / bound(rule)
        draws = None
        if pair.outcome is not Outcome.NON_FINITE:
            direction = pair.vector if isinstance(sizes, float) else pair.vector * sizes.sqrt()
            draws = curvature_draws(snapshot, direction, pair.value, error=pair.reach, groups=self.groups)
        draws = None if draws is None else scale * draws
        sampling = Estimate(math.nan) if draws is None else mean_of(draws)
        yield Measurement(
            quantity=EDGE,
            estimate=Estimate(
                scale * pair.value, math.hypot(sampling.stderr, scale * pair.error), n=sampling.n, outcome=pair.outcome
            ).checked(),
            draws=draws,
            settings={"optimizer": rule.optimizer, "tolerance": f"{self.tolerance:g}", "groups": str(self.groups)}
            | settings_of(hessian_of(snapshot).route, memory),
        )


def _scaled(snapshot: Snapshot, sizes: Tensor) -> Krylov:
    hessian, root = hessian_of(snapshot), sizes.sqrt().to(hessian_of(snapshot).dtype)
    return Krylov(
        lambda v: root * hessian(root * v),
        random_start(snapshot, "stability"),
        lambda: float(root.max()) * hessian.error,
    )
