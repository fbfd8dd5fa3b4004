"""The batch Fisher probe: the Fisher trace by the squared norms of a few batch gradients, for any architecture."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.fisher_batch import batch_draws
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Quantity

BATCH = Quantity(
    "fisher_trace_batch",
    "1",
    "Fisher trace as B ‖g‖², g the mean gradient of B predictions with labels drawn from the model: the same on average as "
    "the Fisher trace, noisier, and defined for every architecture.",
    "Fisher trace from batches",
    "log",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FisherBatch(Probe):
    """tr F from the gradients of equal groups of the probe set, whole and by layer.

    The labels are drawn by the same uniforms at every snapshot. Each group is one draw with a relative
    spread of some 0.1 to 0.5; the standard error is over the groups.

    Attributes:
        groups: how many.
        training: whether BatchNorm uses each group's own statistics, as in training (setting ``batchnorm``).
        per_layer: whether each layer's trace is reported too.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "fisher_batch"
    quantities: ClassVar[tuple[Quantity, ...]] = (BATCH,)
    needs: ClassVar = frozenset({Need.LIKELIHOOD})

    groups: int = 16
    training: bool = False
    per_layer: bool = True

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.groups < 2:
            raise ValueError(f"Got groups={self.groups}; need at least two to see a spread.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """Whole first, then the layers in the order of the model."""
        layers = batch_draws(snapshot, self.groups, training=self.training)
        whole: Draws = np.sum(list(layers.values()), axis=0)
        settings = {
            "groups": str(whole.size),
            "batchnorm": "batch statistics" if self.training else "running statistics",
        }
        yield Measurement(quantity=BATCH, estimate=mean_of(whole), draws=whole, settings=settings)
        for layer, draws in layers.items() if self.per_layer else ():
            yield Measurement(
                quantity=BATCH, estimate=mean_of(draws), labels={"layer": layer}, draws=draws, settings=settings
            )
