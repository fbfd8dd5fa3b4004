"""A store written to report by report, which remembers what it was given."""

import math
from pathlib import Path
from typing import Any

from collector.store.sqlite import Store
from collector.store.streams import Stream
from probe_wire import (
    Column,
    Estimate,
    Goodbye,
    Hello,
    Losses,
    Outcome,
    ProbeCost,
    Quantity,
    Report,
    Run,
    Schema,
    encode,
    pack,
)
from tests.stored_truth import Put

RUN = Run("run-1", "digits", "host", 1, 10.0, {"dataset": "digits"})
QUANTITIES = (Quantity("loss", "1", "Loss.", "Loss"), Quantity("fisher_trace", "1", "Fisher.", "Fisher", "log"))
WHOLE = Schema(1, QUANTITIES, (Column("loss"), Column("fisher_trace", {"layer": "fc1"}), Column("fisher_trace")))
SMALL = Schema(2, QUANTITIES, (Column("fisher_trace"),))
SCHEMAS = {1: WHOLE, 2: SMALL}


class Writer:
    """One stream of a store, with what was put and what of it was committed."""

    def __init__(self, path: Path, *, rank: int = 0, epoch: str = "a", run: Run = RUN, **settings: Any) -> None:
        self.path = path
        self.run = run
        self.settings = settings
        self.place = (rank, epoch)
        self.committed: list[Put] = []
        self.put: list[Put] = []
        self.open()

    def open(self) -> None:
        """Open the store, and the stream as it was left."""
        self.store = Store(self.path, **self.settings)
        self.greet()
        self.commit()

    def greet(self) -> None:
        """Say hello."""
        rank, epoch = self.place
        self.stream: Stream = self.store.put_hello(Hello(self.run, rank, epoch, 1), 50.0)
        for schema in SCHEMAS.values():
            self.store.put_schema(self.stream, schema, encode(schema))

    def report(
        self, estimates: list[Estimate], *, schema: Schema = WHOLE, step: int | None = None, body: bytes | None = None
    ) -> int:
        """Put one report."""
        seq = self.stream.high + 1
        costs = (ProbeCost("loss", 0.01 * seq, int(Outcome.FAILED), "no loss"),) * (seq % 3)
        at = seq * 10 if step is None else step
        report = Report(seq, at, 0.1 * seq, schema.id, *pack(estimates), costs, 0.5 * seq, 0.01 * seq, Losses(seq))
        body = body or encode(report)
        return self._keep(self.store.put_report(self.stream, report, body, 100.0 + 0.1 * seq), 100.0 + 0.1 * seq, body)

    def goodbye(self) -> int:
        """Put the end of the stream."""
        seq = self.stream.high + 1
        goodbye = Goodbye(seq, seq * 10, 0.0, "finished")
        return self._keep(self.store.put_goodbye(self.stream, goodbye, encode(goodbye), 200.0), 200.0, encode(goodbye))

    def _keep(self, frame: int, received_at: float, body: bytes) -> int:
        self.put.append(Put(frame, self.place[0], received_at, body, SCHEMAS))
        return frame

    def commit(self) -> None:
        """Make it durable, and put it in its place where it is time."""
        self.store.commit()
        self.committed += self.put
        self.put = []
        for _ in range(2):  # the first may move the write-ahead log
            if self.store._arrivals.due:
                self.store.tidy(0.0)

    def rollback(self) -> None:
        """Undo what was not committed; the agent greets again."""
        self.store.rollback()
        self.put = []
        self.greet()
        self.commit()

    def restart(self) -> None:
        """Close the store without a commit, and open it again."""
        self.store.close()
        self.put = []
        self.open()

    def fill(self, count: int, *, schema: Schema = WHOLE) -> None:
        """Report so often a noisy-looking curve, and commit."""
        for _ in range(count):
            x = self.stream.high + 1
            self.report(
                [Estimate(math.sin(0.1 * x + i), 0.1 + 0.01 * i, 0.01, 64) for i in range(len(schema.columns))],
                schema=schema,
            )
        self.commit()
