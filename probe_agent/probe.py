"""What a probe is: one idea, measured from one Snapshot."""

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from probe_agent.needs import Need
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Quantity

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
    ``looks_back``, and is never measured out of its schedule.
    """

    name: ClassVar[str]
    quantities: ClassVar[tuple[Quantity, ...]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    uses: ClassVar[frozenset[Need]] = frozenset()
    looks_back: ClassVar[bool] = False

    @property
    def sees_updates(self) -> bool:
        """Whether ``snapshot.rule.updates`` must hold the optimizer's last two steps."""
        return Need.UPDATES in self.needs | self.uses

    @abc.abstractmethod
    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """The measurements of this snapshot; the same columns every time."""
