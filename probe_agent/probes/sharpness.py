"""The sharpness probe: the largest eigenvalue of the Hessian of the probe loss, with its sampling error."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import Draws, mean_of, ratio_draws
from probe_agent.estimators.hvp import HessianProduct
from probe_agent.estimators.lanczos import TopEigenpair, top_eigenpair
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probe_set import ProbeSet
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

ASYMMETRY = 0.01
"""QᵀHQ of a Hessian departs from symmetry by rounding, some 1e-5 in float32; of anything else, by its size."""

DISCREPANCY = 0.1
"""How far the groups' mean curvature may be from the whole's, relative, for the loss to be a mean over inputs."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sharpness(Probe):
    """λ_max of ∂²L/∂w², L the mean loss over the probe set in evaluation mode, w the trainable parameters.

    It is the sharpness of Cohen et al. (2021, "Gradient descent on neural networks typically occurs
    at the edge of stability", section 2). The value is a Rayleigh quotient: the solver can only be
    low, by no more than its error with 95 % confidence.

    The standard error is that error and the sampling error, in quadrature. To first order λ moves
    by vᵀ(dH)v when the inputs change, so the curvatures vᵀH_g v of equal groups of the probe set,
    whose mean is λ, show by their spread how far another probe set would move it. Where
    the loss is no mean over inputs (a sum, a contrast) they do not, and the standard error is NaN.

    Two biases are known and not in the standard error. The largest eigenvalue of a sample lies above
    the population's on average, by a second-order term that is small once the eigenvalue stands
    clear of the bulk. And dropout and BatchNorm are taken as in evaluation, not as the optimizer
    meets them. Values the model detaches are held constant, as they are for the optimizer.

    Every snapshot starts the solver anew: see `probe_agent.estimators.lanczos` for why a warm start
    would not be cheaper. It costs 5 to 10 products, 20 at initialisation where the spectrum is
    crowded, of 1.5 to 2.3 training steps on the probe set each; the groups cost 3 more in a network
    that keeps the machine busy, 10 in a tiny one.

    Attributes:
        tolerance: the solver's error to reach, relative to the value.
        max_products: Hessian-vector products after which the solver gives up (NOT_CONVERGED).
        groups: parts of the probe set whose spread is the sampling error.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "sharpness"
    quantities: ClassVar[tuple[Quantity, ...]] = (SHARPNESS,)

    tolerance: float = 0.02
    max_products: int = 24
    groups: int = 8

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if not 0 < self.tolerance < 1:
            raise ValueError(f"Got tolerance={self.tolerance}; need a fraction of the value, such as 0.02.")
        if self.max_products < 1:
            raise ValueError(f"Got max_products={self.max_products}; need at least one product.")
        if self.groups < 2:
            raise ValueError(f"Got groups={self.groups}; need at least two to see a spread.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """One measurement; its draws are the curvatures of the groups along the top eigenvector."""
        pair = self._solve(snapshot)
        if pair.asymmetry > ASYMMETRY:
            raise NotApplicable(
                f"Got second derivatives that are not symmetric, by {pair.asymmetry:.0%}: an operation in the model or the "
                "loss has a backward pass that is not its derivative (a clipped or normalised gradient), so there is no "
                "Hessian behind the gradient. Watch a quantity of first derivatives."
            )
        draws = None if pair.outcome is Outcome.NON_FINITE else self._draws(snapshot, pair)
        sampling = Estimate(math.nan) if draws is None else mean_of(draws)
        yield Measurement(
            quantity=SHARPNESS,
            estimate=Estimate(
                pair.value, math.hypot(sampling.stderr, pair.error), n=sampling.n, outcome=pair.outcome
            ).checked(),
            draws=draws,
            settings={"tolerance": f"{self.tolerance:g}", "groups": str(self.groups), "start": "random"},
        )

    def _solve(self, snapshot: Snapshot) -> TopEigenpair:
        hessian = HessianProduct(snapshot)
        # New directions every step: a draw that is unlucky for a slowly turning eigenvector must not stay.
        generator = snapshot.generator(f"sharpness start {snapshot.step}")
        random = torch.randn(hessian.dimension, generator=generator, device=generator.device)
        return top_eigenpair(
            hessian,
            random.to(hessian.device, hessian.dtype),
            tolerance=self.tolerance,
            max_products=self.max_products,
        )

    def _draws(self, snapshot: Snapshot, pair: TopEigenpair) -> Draws | None:
        """The groups' curvatures, shape ``(groups,)``, or None where they do not make up the whole's."""
        parts = _parts(snapshot, self.groups)
        curvatures = np.array([HessianProduct(snapshot, part).curvature(pair.vector) for part in parts])
        sizes = np.array([part.n for part in parts], dtype=np.float64)
        discrepancy = abs(float(sizes @ curvatures) / sizes.sum() - pair.value)
        if not discrepancy <= DISCREPANCY * abs(pair.value) + pair.error:
            return None
        return ratio_draws(sizes * curvatures, sizes)


def _parts(snapshot: Snapshot, groups: int) -> list[ProbeSet]:
    """The probe set dealt at random into groups of equal size but for one input; the same deal at every step."""
    whole = snapshot.probe_set
    generator = snapshot.generator("sharpness groups")
    order = torch.randperm(whole.n, generator=generator, device=generator.device)
    deals = torch.tensor_split(order, min(groups, whole.n))
    return [whole.part(deal) for deal in deals]
