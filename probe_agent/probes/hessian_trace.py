"""The Hessian trace probe: the total curvature of the probe loss, and how much of it is the network's own."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.hessian_trace import TraceDraws, trace_draws
from probe_agent.estimators.second_order import certified, settings_of
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

TRACE = Quantity(
    "hessian_trace",
    "1",
    "Trace of the Hessian of the probe loss, in evaluation mode: the sum of all curvatures.",
    "Hessian trace",
)
RESIDUAL = Quantity(
    "hessian_residual_ratio",
    "1",
    "What the Hessian's trace has beside the Gauss-Newton matrix, whose trace is the Fisher trace, relative to that trace: "
    "the curvature of the network itself. Zero for a network that is piecewise linear in each layer.",
    "Curvature beside Gauss–Newton",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HessianTrace(Probe):
    """tr H as the Fisher trace plus an estimate of the residual by random signs, on groups of the probe set.

    The standard error is the spread over groups, which holds the error of the samples, of sampled labels
    and of the signs. Signs are new at every step, so that the paired error holds theirs too.

    Attributes:
        groups: parts of the probe set with signs of their own.
        per_layer: whether the traces of the layers' blocks are reported too, at no further cost.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "hessian_trace"
    quantities: ClassVar[tuple[Quantity, ...]] = (TRACE, RESIDUAL)
    uses: ClassVar = frozenset({Need.LIKELIHOOD, Need.TRUE_GRADIENTS, Need.INDEPENDENT_OUTPUTS})

    groups: int = 8
    per_layer: bool = True

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.groups < 2:
            raise ValueError(f"Got groups={self.groups}; need at least two to see a spread.")

    def averages(self, n: int) -> int:
        """All of them, in groups."""
        return n

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """The trace, the layers' traces, then the residual, not applicable where the loss is not a known likelihood."""
        if snapshot.probe_set.n < 2:
            raise NotApplicable("Got a probe set of one sample; need two to see how much samples differ.")
        certified(snapshot, memory)
        found = trace_draws(snapshot, self.groups)
        settings = {
            "groups": str(found.trace.size),
            "method": "Hutchinson" if found.residual is None else "Fisher + residual",
        } | settings_of(found.route, memory)
        if not found.by_samples:
            settings["stderr"] = "unknown: the loss is no mean over samples"
        for layer, draws in {"": found.trace, **(found.layers if self.per_layer else {})}.items():
            yield self._trace(draws, {"layer": layer} if layer else {}, settings, found)
        ratio = found.residual_ratio
        yield Measurement(
            quantity=RESIDUAL,
            estimate=Estimate.without_value(Outcome.NOT_APPLICABLE) if ratio is None else mean_of(ratio),
            draws=ratio,
            settings=settings,
        )

    def _trace(self, draws: Draws, labels: dict[str, str], settings: dict[str, str], found: TraceDraws) -> Measurement:
        sampling = mean_of(draws) if found.by_samples else Estimate(float(draws.mean()), math.nan, n=draws.size)
        rough = found.error > max(abs(sampling.value), sampling.stderr)
        estimate = Estimate(
            sampling.value,
            math.hypot(sampling.stderr, found.error),
            n=sampling.n,
            outcome=Outcome.NOT_CONVERGED if rough else Outcome.OK,
        ).checked()
        return Measurement(
            quantity=TRACE,
            estimate=estimate,
            labels=labels,
            draws=draws if found.by_samples else None,
            settings=settings,
        )
