"""A job that only reports: numbered steps at a given rate, each said on standard output once the outbox has it."""

import os
import sys
import time

from probe_agent.draft import Draft
from probe_agent.outbox import ZmqOutbox
from probe_wire import Column, Estimate, Quantity, Run

LOSS = Quantity("probe_loss", "nats", "Loss.", "Loss")


def draft(step: int) -> Draft:
    """A report whose value is its step, so that a mixed-up one is seen."""
    return Draft(step, time.time(), [(LOSS, Column("probe_loss"), Estimate(float(step), 0.125))])


def main() -> None:
    """``reporter.py ADDRESS RUN RANK RATE COUNT``; says 0 when all is numbered, then waits to be ended."""
    address, run = sys.argv[1:3]
    rank, rate, count = map(int, sys.argv[3:6])
    outbox = ZmqOutbox(address, Run(run, run, "host", os.getpid(), time.time()), rank, lambda: 0)
    for step in range(1, count + 1):
        outbox.put(draft(step))
        os.write(1, b"%d\n" % step)
        time.sleep(1 / rate)
    while outbox._ledger.last < count:
        time.sleep(0.01)
    os.write(1, b"0\n")
    time.sleep(60)


if __name__ == "__main__":
    main()
