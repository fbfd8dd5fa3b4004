"""The local learning coefficient probe: in how many directions the loss confines the weights, each counted as it weighs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import mean_of
from probe_agent.estimators.sgld import langevin_chains, mixing
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

COEFFICIENT = Quantity(
    "local_learning_coefficient",
    "1",
    "Local learning coefficient: nβ times the mean excess loss of weights drawn around the present ones. Half the number "
    "of parameters where each counts, less where the minimum is degenerate (Lau et al. 2023).",
    "Local learning coefficient",
)
ACCEPTANCE = Quantity(
    "local_learning_coefficient_acceptance",
    "ratio",
    "Share of the Langevin steps behind the local learning coefficient that were accepted. Far from 0.57 the chains move slowly.",
    "Acceptance of Langevin steps",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLearningCoefficient(Probe):
    """λ̂ = nβ (E[L(w)] − L(w*)), nβ = n / log n, under exp(−nβ L(w) − γ |w − w*|² / 2) (Lau et al. 2023).

    L is the mean loss over the probe set in evaluation mode, w the trainable parameters and w* their
    present values. At a minimum with Hessian eigenvalues h, λ̂ is ½ Σ h nβ / (h nβ + γ) as far as the loss
    is quadratic. Away from a minimum it may be negative. Values compare at equal n and γ.

    The standard error is the chains' alone: λ̂ is a statement about the given probe set. The estimate's n
    is the number of independent draws that would be as good.

    Attributes:
        n_train: n in nβ, two or more; None for the size of the probe set.
        localisation: γ, positive: without it the distribution need not exist.
        chains: how many, at least two.
        burn_in: steps before the first draw, in which the step size is found.
        draws: steps after it, at least four.
        max_rhat: the split R̂ above which the chains have not mixed (NOT_CONVERGED).
        min_effective: independent draws below which they have not either.
        max_unfilled: the share of the weights' directions that the chains may seem not to have filled, by the virial theorem.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "local_learning_coefficient"
    quantities: ClassVar[tuple[Quantity, ...]] = (COEFFICIENT, ACCEPTANCE)

    n_train: int | None = None
    localisation: float = 100.0
    chains: int = 8
    burn_in: int = 200
    draws: int = 300
    max_rhat: float = 1.1
    min_effective: float = 40.0
    max_unfilled: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.n_train is not None and self.n_train < 2:
            raise ValueError(f"Got n_train={self.n_train}; need at least 2 training samples, or log n is zero.")
        if not 0 < self.localisation < math.inf:
            raise ValueError(f"Got localisation={self.localisation}; need a positive number, such as 100.")
        if self.chains < 2:
            raise ValueError(f"Got chains={self.chains}; need at least two to see whether they agree.")
        if self.burn_in < 1 or self.draws < 4:
            raise ValueError(f"Got burn_in={self.burn_in} and draws={self.draws}; need at least 1 and at least 4.")
        if not self.max_rhat > 1:
            raise ValueError(f"Got max_rhat={self.max_rhat}; need more than one, such as 1.1.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """The coefficient, its draws the means of the chains, and the acceptance."""
        if not snapshot.params:
            raise NotApplicable("Got a model whose parameters are all frozen; there is nothing to sample.")
        n = snapshot.probe_set.n if self.n_train is None else self.n_train
        if n < 2:
            raise NotApplicable(f"Got a probe set of {n} sample; need n_train, or at least 2 samples, for n / log n.")
        inverse_temperature = n / math.log(n)
        found = langevin_chains(
            snapshot,
            inverse_temperature=inverse_temperature,
            localisation=self.localisation,
            chains=self.chains,
            burn_in=self.burn_in,
            draws=self.draws,
        )
        weights = sum(p.numel() for p in snapshot.params.values())
        unfilled = abs(1 - float(found.virial.mean()) / weights)
        settings = {
            "n_train": str(n),
            "localisation": f"{self.localisation:g}",
            "chains": f"{self.chains} of {self.draws} after {self.burn_in}",
            "error": "of the chains, not of the probe set",
            "unfilled": f"{unfilled:.2g}",
        }
        coefficients = inverse_temperature * found.excess
        mixed = mixing(coefficients)
        outcome = Outcome.OK
        if not np.isfinite(coefficients).all():
            outcome = Outcome.NON_FINITE
        elif not (
            mixed.rhat <= self.max_rhat and mixed.effective >= self.min_effective and unfilled <= self.max_unfilled
        ):
            outcome = Outcome.NOT_CONVERGED
        yield Measurement(
            quantity=COEFFICIENT,
            estimate=Estimate(mixed.mean, mixed.stderr, n=int(mixed.effective), outcome=outcome),
            draws=coefficients.mean(1),
            settings=settings,
        )
        accepted = mean_of(found.acceptance)
        if outcome is Outcome.NON_FINITE:
            accepted = Estimate.without_value(outcome)
        yield Measurement(quantity=ACCEPTANCE, estimate=accepted, draws=found.acceptance, settings=settings)
