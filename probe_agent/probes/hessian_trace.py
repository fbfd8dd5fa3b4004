"""The Hessian trace probe: the total curvature of the probe loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import mean_of
from probe_agent.estimators.hessian_trace import trace_draws
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

TRACE = Quantity(
    "hessian_trace",
    "1",
    "Trace of the Hessian of the probe loss: the sum of all curvatures.",
    "Hessian trace",
)
RESIDUAL = Quantity(
    "hessian_trace_residual",
    "1",
    "What the Hessian's trace has beside the Gauss-Newton matrix, whose trace is the Fisher trace: the part from the "
    "curvature of the network itself, which vanishes as the loss does.",
    "Hessian trace beside Gauss-Newton",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HessianTrace(Probe):
    """tr H as the Fisher trace plus a stochastic estimate of the residual, on equal groups of the probe set.

    Random signs are drawn anew at every step, so that one unlucky draw does not stay; the paired error
    therefore includes them.

    Attributes:
        groups: parts of the probe set with signs of their own, over which the standard error is taken.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "hessian_trace"
    quantities: ClassVar[tuple[Quantity, ...]] = (TRACE, RESIDUAL)

    groups: int = 8

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.groups < 2:
            raise ValueError(f"Got groups={self.groups}; need at least two to see a spread.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """The trace, then its residual, not applicable where no likelihood is known."""
        if snapshot.probe_set.n < 2:
            raise NotApplicable("Got a probe set of one sample; need two to see how much samples differ.")
        found = trace_draws(snapshot, self.groups)
        settings = {
            "groups": str(found.trace.size),
            "method": "Hutchinson" if found.residual is None else "Fisher + residual",
        }
        yield Measurement(quantity=TRACE, estimate=mean_of(found.trace), draws=found.trace, settings=settings)
        yield Measurement(
            quantity=RESIDUAL,
            estimate=Estimate.without_value(Outcome.NOT_APPLICABLE)
            if found.residual is None
            else mean_of(found.residual),
            draws=found.residual,
            settings=settings,
        )
