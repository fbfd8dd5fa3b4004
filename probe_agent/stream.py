"""Stream: what one rank reports in one life of its process; numbers its messages and encodes them."""

import time
import uuid
from collections.abc import Callable
from typing import Protocol, final

import numpy as np
from msgspec import structs

from probe_agent.draft import Draft
from probe_agent.steps import Count
from probe_post.spool import Message
from probe_wire import Column, Goodbye, Hello, Losses, Quantity, Report, Run, Schema, encode, pack

ERROR_BITS = 12
"""What a standard error keeps of its mantissa, 1 part in 8000: noise to the last bit would be two thirds of every file."""
SCHEMAS = 64
"""So many sets of columns are remembered: a probe may name new series at every step."""


class _Scalars(Protocol):
    """What counts the scalars that were not kept."""

    dropped: int


@final
class Tally:
    """How far a run has come and what it gave up, as it stands; the last message tells, be whoever counts there still or not.

    Attributes:
        snapshots_skipped: measurements that were due and not made.
        reports: that were queued.
    """

    def __init__(self, count: Count, scalars: "_Scalars") -> None:
        self.reports = 0
        self.snapshots_skipped = 0
        self._count = count
        self._scalars = scalars

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self._count.step

    def losses(self, reports_dropped: int = 0) -> Losses:
        """What was given up so far."""
        return Losses(reports_dropped, self.snapshots_skipped, self._scalars.dropped)


@final
class Stream:
    """See the module. Not thread-safe.

    Args:
        run: who is reporting.
        rank: which process of the run.
        step: gives the current step, as long as there is somebody to ask.
        tightens: whether wishes to measure more often are taken.

    Attributes:
        said_goodbye: nothing follows.
        tally: what the goodbye says of the whole run; without one it knows no more than the last report did.
    """

    def __init__(self, run: Run, rank: int, step: Callable[[], int], *, tightens: bool) -> None:
        self.said_goodbye = False
        self.tally: Tally | None = None
        self._run = run
        self._rank = rank
        self._step = step
        self._tightens = tightens
        self._epoch = uuid.uuid4().hex[:16]
        self._schemas: dict[tuple[tuple[Quantity, ...], str], tuple[int, bytes]] = {}
        self._next_schema = 1
        self._last_losses = Losses()
        self._last_step = 0

    def hello(self, first: int, waiting: int = 0) -> Hello:
        """The greeting of a stream whose lowest number still to be had is ``first``, with so many messages to deliver."""
        return Hello(
            self._run, self._rank, self._epoch, first, max(self._here(), 0), self._tightens, time.time(), waiting
        )

    def report(self, draft: Draft, seq: int, lost: int) -> Message:
        """The report of this number, with what was lost on the way so far beside the losses it brings.

        Raises:
            Exception: it cannot travel; the number is still free.
        """
        self._last_step, self._last_losses = draft.step, draft.losses
        schema = self._schema_of(tuple(q for q, _, _ in draft.columns), tuple(c for _, c, _ in draft.columns))
        values, stderrs, paired, ns, outcomes = pack([estimate for _, _, estimate in draft.columns])
        report = Report(
            seq=seq,
            step=draft.step,
            time=draft.time,
            schema=schema[0],
            values=values,
            stderrs=_rounded(stderrs),
            paired=_rounded(paired),
            ns=ns,
            outcomes=outcomes,
            costs=draft.costs,
            training_seconds=draft.training_seconds,
            probe_seconds=draft.probe_seconds,
            losses=structs.replace(draft.losses, reports_dropped=lost),
        )
        return Message(seq, schema, encode(report))

    def goodbye(self, reason: str, seq: int, lost: int) -> Message:
        """The last message."""
        self.said_goodbye = True
        text = reason[:200].encode(errors="replace").decode() or "finished"
        losses = (
            structs.replace(self._last_losses, reports_dropped=lost) if self.tally is None else self.tally.losses(lost)
        )
        return Message(seq, None, encode(Goodbye(seq, max(self._here(), self._last_step), time.time(), text, losses)))

    def _here(self) -> int:
        """The current step, also of a run whose monitor is gone."""
        return self._step() if self.tally is None else max(self._step(), self.tally.step)

    def _schema_of(self, quantities: tuple[Quantity, ...], columns: tuple[Column, ...]) -> tuple[int, bytes]:
        distinct = tuple(dict.fromkeys(quantities))
        key = (distinct, repr(columns))
        known = self._schemas.get(key)
        if known is None:
            known = self._schemas[key] = (self._next_schema, encode(Schema(self._next_schema, distinct, columns)))
            self._next_schema += 1
            if len(self._schemas) > SCHEMAS:
                self._schemas.pop(next(iter(self._schemas)))  # should it come again, it gets another number
        return known


def _rounded(errors: bytes) -> bytes:
    """Packed float64, each to the nearest with ``ERROR_BITS`` bits of mantissa; NaN, infinity and zero as they are."""
    dropped = np.uint64(52 - ERROR_BITS)
    half, kept = np.uint64(1) << (dropped - np.uint64(1)), ~((np.uint64(1) << dropped) - np.uint64(1))
    return ((np.frombuffer(errors, "<u8") + half) & kept).astype("<u8").tobytes()
