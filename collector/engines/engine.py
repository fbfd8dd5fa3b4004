"""Engine: what a database must do to be filled from a collector's store, each point once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

from collector.store.queries import Points, RunRow, StoredTransition
from probe_wire import Quantity


class Curve(NamedTuple):
    """One series of a run, named as it is in every store."""

    run_id: str
    rank: int
    quantity: str
    labels: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, run_id: str, rank: int, quantity: str, labels: Mapping[str, str]) -> Self:
        """The curve with these labels, in sorted order."""
        return cls(run_id, rank, quantity, tuple(sorted(labels.items())))


class Unfit(Exception):
    """The engine can never take this, whoever asks: it holds what no name may hold there."""


class Engine(Protocol):
    """Where points go. Whatever it says is there survives its own death and ours. What it can never take it answers with `Unfit`."""

    def put_run(self, run: RunRow, quantities: Sequence[Quantity], transitions: Sequence[StoredTransition]) -> None:
        """Keep a run as it stands now, in place of how it stood before."""

    def cursors(self, run_id: str) -> dict[Curve, int]:
        """For each series of a run that it has: the frame up to which it has it."""

    def put_points(self, curve: Curve, points: Points) -> None:
        """Take the points that follow a series' cursor, and move the cursor behind them, both or neither."""

    def close(self) -> None:
        """Let go of the connection."""
