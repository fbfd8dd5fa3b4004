"""Engine: what a database must do to be filled from the stores of collectors, each point once.

Frames are numbered in each store anew, so what an engine has is kept apart by the store that it is from. A store that was put back from
a copy and written to goes on as another one behind the last frame that it has in common with what was there.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

from collector.store.queries import Points, RunRow, StoredTransition
from collector.store.timeline import Timeline, in_common
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


class Source(NamedTuple):
    """A store that an engine was filled from: its number there, its lives as they were known, and the last frame that came of it."""

    number: int
    timeline: Timeline
    last_frame: int


class Joined(NamedTuple):
    """Where a store goes on: as the source it was, or as a new one behind the frame up to which it is the same as another, or at 0."""

    number: int
    new: bool
    same_until: int
    like: int | None = None
    """The source that a new one is the same as up to there."""


def joined(sources: Sequence[Source], timeline: Timeline, last_frame: int) -> Joined:
    """Which of an engine's sources a store is, by its lives, if it is one.

    A source without lives is one of an older release, which did not keep them: as long as it is no further than the store it is taken
    to be that, as was done then. One of the same lives is that store even where it is further: another forwarder has handed over what
    came since the store was asked, or it is a copy to which nobody has written, which begins a life when somebody does.
    """
    found: list[tuple[bool, int, Source]] = []
    for source in sources:
        same = in_common(source.timeline, source.last_frame, timeline, last_frame)
        if not source.timeline and source.last_frame <= last_frame:
            same = 0
        if same is not None:
            whole = same >= source.last_frame or source.timeline in {timeline, ()}
            found.append((whole, same, source))
    if not found:
        return Joined(len(sources), new=True, same_until=0)
    whole, same, source = max(found, key=lambda each: (each[0], bool(each[2].timeline), each[1]))
    if whole:
        return Joined(source.number, new=False, same_until=source.last_frame)
    return Joined(len(sources), new=True, same_until=same, like=source.number)


class Unfit(Exception):
    """The engine can never take this, whoever asks: it holds what no name may hold there."""


class Engine(Protocol):
    """Where points go. Whatever it says is there survives its own death and ours. What it can never take it answers with `Unfit`."""

    def join(self, timeline: Timeline, last_frame: int) -> Joined:
        """Be filled from this store from now on, see `joined`."""

    def put_run(self, run: RunRow, quantities: Sequence[Quantity], transitions: Sequence[StoredTransition]) -> None:
        """Keep a run as it stands now, in place of how it stood before."""

    def cursors(self, run_id: str) -> dict[Curve, int]:
        """For each series of a run that it has of this store: the frame up to which it has it."""

    def put_points(self, curve: Curve, points: Points) -> None:
        """Take the points that follow a series' cursor, and move the cursor behind them, both or neither.

        A point that another store brought, the same in everything but its frame, is not taken again.
        """

    def close(self) -> None:
        """Let go of the connection."""
