"""The critical sharpness probe: curvature along the optimizer's own step, by forward passes alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from probe_agent.estimators.critical import Critical, critical_sharpness
from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.perturbation import gradient_here, scaled
from probe_agent.estimators.repetition import check_loss_repeats
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

CRITICAL = Quantity(
    "critical_sharpness",
    "1",
    "2 / η_c, where η_c is the learning rate at which a step along the gradient would stop lowering the loss (Kalra et "
    "al. 2026): the curvature the step meets, at most the sharpness. Needs no second derivative.",
    "Critical sharpness",
    "log",
)
MARGIN = Quantity(
    "critical_rate_ratio",
    "1",
    "How many times larger the optimizer's last step could have been before it stopped lowering the loss. Below 1 the "
    "step overshoots.",
    "Critical step over last step",
    "log",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalSharpness(Probe):
    """2/η_c along the gradient of the probe set, and η_c along the optimizer's last step in units of that step.

    Each takes 4 to 7 forward passes of the probe set, and the gradient one backward pass that other probes share.

    Attributes:
        tolerance: how narrow the bracket around η_c must be, relative.
        passes: forward passes after which the search gives up (NOT_CONVERGED).

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "critical_sharpness"
    quantities: ClassVar[tuple[Quantity, ...]] = (CRITICAL, MARGIN)
    uses: ClassVar = frozenset({Need.UPDATES})

    tolerance: float = 0.01
    passes: int = 16

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if not 0 < self.tolerance < 1:
            raise ValueError(f"Got tolerance={self.tolerance}; need a fraction, such as 0.01.")
        if self.passes < 4:
            raise ValueError(
                f"Got passes={self.passes}; need at least 4 forward passes to hold a root from both sides."
            )

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """The critical sharpness, searched from where it was last; then the margin of the last step."""
        check_loss_repeats(snapshot)
        rates = snapshot.rule.learning_rates.values() if snapshot.rule else ()
        guess = memory.get("rate", max(rates, default=0.0) or 0.1)
        found = critical_sharpness(
            snapshot, scaled(gradient_here(snapshot), -1), guess, tolerance=self.tolerance, most=self.passes
        )
        if found.converged:
            memory["rate"] = 2 / found.value
        yield self._measured(CRITICAL, found, found.value, found.draws)
        if not (snapshot.rule and snapshot.rule.updates):
            yield Measurement(quantity=MARGIN, estimate=Estimate.without_value(Outcome.NOT_APPLICABLE))
            return
        step = dict(snapshot.rule.updates[0])
        found = critical_sharpness(
            snapshot, step, 2.0, start=scaled(step, -1), tolerance=self.tolerance, most=self.passes
        )
        ratio = 2 / found.value
        # It moves by −2 / value² of what the value moves by.
        draws = None if found.draws is None else ratio - ratio**2 / 2 * (found.draws - found.value)
        yield self._measured(MARGIN, found, ratio, draws)

    def _measured(self, quantity: Quantity, found: Critical, value: float, draws: Draws | None) -> Measurement:
        samples = Estimate(math.nan) if draws is None else mean_of(draws)
        solver = self.tolerance * abs(value) / math.sqrt(12)  # the root lies anywhere in its bracket
        outcome = Outcome.OK if found.converged else Outcome.NOT_CONVERGED
        return Measurement(
            quantity=quantity,
            estimate=Estimate(value, math.hypot(samples.stderr, solver), n=samples.n, outcome=outcome).checked(),
            draws=draws,
            settings={"tolerance": f"{self.tolerance:g}"},
        )
