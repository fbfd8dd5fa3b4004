"""Sinks: who is told when a run changes phase. Views are asked; sinks are told; the two never mix."""

from typing import Protocol

from collector.phases.transition import Transition
from probe_wire import Run


class Sink(Protocol):
    """Told about transitions after they are committed. Must not block and must not raise."""

    def handle(self, run: Run, transition: Transition) -> None:
        """Take note of one transition of a run."""
