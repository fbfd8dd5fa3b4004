"""Draft: a Report before it is numbered and packed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from probe_wire import Column, Estimate, Losses, ProbeCost, Quantity


@dataclass(frozen=True, slots=True)
class Draft:
    """What one step measured, as the monitor hands it to the outbox."""

    step: int
    time: float
    columns: Sequence[tuple[Quantity, Column, Estimate]]
    costs: tuple[ProbeCost, ...] = ()
    training_seconds: float = 0.0
    probe_seconds: float = 0.0
    losses: Losses = field(default_factory=Losses)
