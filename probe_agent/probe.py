"""What a probe is: one idea, measured from one Snapshot; or one that follows from sums over a model's parameters."""

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probe_agent.needs import Need
from probe_agent.snapshot import Snapshot
from probe_agent.update_rule import UpdateRule
from probe_wire import Estimate, Quantity

Sums = dict[str, dict[str, float]]
"""By what is summed, the sum over the elements of each parameter."""

Memory = dict[str, Any]
"""What a probe carries from one snapshot to the next: a warm start, nothing that could bias a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """An Estimate with its Quantity and labels.

    ``draws`` are the independent parts whose mean is the value (one a probe input, or one a group
    of inputs), shape ``(n,)``, in the same order at every snapshot. From two of them the monitor
    computes the paired standard error. None where the value is not a mean of such parts.
    ``settings`` travel with the series and are shown beside it.
    """

    quantity: Quantity
    estimate: Estimate
    labels: Mapping[str, str] = field(default_factory=dict)
    draws: NDArray[np.float64] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


class Probe(abc.ABC):
    """Measures one idea. Concrete probes are final frozen dataclasses without state of their own.

    A probe may not touch the live model, a global random stream or the clock: it sees the snapshot,
    draws from ``snapshot.generator(...)`` and keeps what may warm-start the next measurement in
    ``memory``. It raises `NotApplicable` where its quantity is not defined; whatever else it raises
    becomes outcome FAILED. The monitor times, guards and counts it.

    Where a job lacks one of its ``needs`` it measures nothing, and says so; where it lacks one of what it
    ``uses``, some of its quantities are not applicable. Where a value depends on how long ago the probe last measured it
    ``looks_back``, and is never measured out of its schedule. Of a model with complex parameters only those are measured whose
    ``takes_complex`` is true.
    """

    name: ClassVar[str]
    quantities: ClassVar[tuple[Quantity, ...]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    uses: ClassVar[frozenset[Need]] = frozenset()
    looks_back: ClassVar[bool] = False
    takes_complex: ClassVar[bool] = False

    @property
    def sees_updates(self) -> bool:
        """Whether ``snapshot.rule.updates`` must hold the optimizer's last two steps."""
        return Need.UPDATES in self.needs | self.uses

    def averages(self, n: int) -> int:  # noqa: ARG002 - for those that do
        """How many of n probe samples its values are means over, so that fewer give the same with a greater error; 0 if they are none."""
        return 0

    @abc.abstractmethod
    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """The measurements of this snapshot; the same columns every time."""


class Summed(Probe):
    """A probe of the parameters and the optimizer alone, whose values follow from sums over elements.

    Where each rank holds a part of the model it adds up that, and nothing is put together.
    """

    @abc.abstractmethod
    def sums(
        self, parameters: Mapping[str, Tensor], updates: tuple[Mapping[str, Tensor], ...], step: int, memory: Memory
    ) -> Sums:
        """The sums over these parameters or parts of them, and the optimizer's last steps; the same names every time."""

    @abc.abstractmethod
    def of(self, sums: Sums, rule: UpdateRule | None, trainable: int, memory: Memory) -> Iterator[Measurement]:
        """The measurements that follow from the sums over the whole model, of which so many numbers are trained."""

    @final
    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """The measurements of this snapshot; the same columns every time."""
        rule = snapshot.rule
        parameters = {name: p.detach() for name, p in snapshot.model.named_parameters()}
        sums = self.sums(parameters, () if rule is None else rule.updates, snapshot.step, memory)
        return self.of(sums, rule, sum(p.numel() for p in snapshot.params.values()), memory)
