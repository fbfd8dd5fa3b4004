"""Examination: every probe tried once on a job that has just begun, and what came of each, for ``probe-agent doctor``.

It is an outbox: the monitor measures as ever, and the first report of a job that has taken a few steps is
written down, and the job ended. It is asked for by ``$PHASEWATCH_DOCTOR``, which the command sets.
"""

import json
import os
import sys
from pathlib import Path
from typing import final

from probe_agent.draft import Draft
from probe_agent.needs import Need
from probe_agent.probes import PROBES
from probe_agent.schedule import Every, Watch
from probe_wire import Advice, Outcome

VARIABLE = "PHASEWATCH_DOCTOR"

AFTER_STEPS = 2
"""By then the optimizer has a state, and the agent has seen two of its steps."""


@final
class Examination:
    """Writes the first report after `AFTER_STEPS` steps to a file, as JSON, and ends the process."""

    watches = (Watch(Every(AFTER_STEPS), tuple(probe() for probe in PROBES)),)

    def __init__(self, file: Path) -> None:
        self._file = file
        self._first: int | None = None
        self._memory: dict[str, int] = {}

    def put(self, draft: Draft) -> None:
        """Take a report; the one that counts is the last thing this process does."""
        self._first = draft.step if self._first is None else self._first
        steps = draft.step - self._first
        if steps < AFTER_STEPS:  # the memory that was taken then is not taken again
            self._memory = {cost.probe: cost.memory_raised for cost in draft.costs}
            return
        found = {
            "step_seconds": draft.training_seconds / steps,
            "probes": [
                {
                    "probe": cost.probe,
                    "seconds": cost.seconds,
                    "memory_raised": cost.memory_raised + self._memory.get(cost.probe, 0),
                    "outcome": Outcome(cost.outcome).label,
                    "why": cost.detail,
                    "needs": _labels(cost.probe, "needs"),
                    "uses": _labels(cost.probe, "uses"),
                    "series": _series(draft, cost.probe),
                }
                for cost in draft.costs
            ],
        }
        self._file.write_text(json.dumps(found), encoding="utf-8")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)

    def advice(self) -> list[Advice]:
        """Nobody advises."""
        return []

    def close(self, reason: str) -> None:
        """Nothing is queued."""

    def abandon(self) -> None:
        """Nothing is queued."""


def _labels(probe: str, which: str) -> list[str]:
    """What the probe of that name needs, or uses."""
    return [need.label for each in PROBES if each.name == probe for need in Need if need in getattr(each, which)]


def _series(draft: Draft, probe: str) -> dict[str, int]:
    """How many of the probe's series came out how."""
    found: dict[str, int] = {}
    for _, column, estimate in draft.columns:
        if column.settings.get("probe") == probe:
            found[estimate.outcome.label] = found.get(estimate.outcome.label, 0) + 1
    return found


def asked_for() -> Examination | None:
    """The examination the environment asks for."""
    file = os.environ.get(VARIABLE)
    return Examination(Path(file)) if file else None
