"""One series, one machine: the door for scripts, notebooks and benchmarks that have no run."""

import math
from typing import Literal

import msgspec

from collector.phases.machine import MachineError
from collector.phases.machines import MACHINES
from collector.phases.track import Track
from collector.phases.transition import Transition


class Detection(msgspec.Struct, frozen=True):
    """A phase entered: its name, the step where that took place, and how far the claim has come.

    ``state`` is "detected": the evidence has reached 1/alpha.
    """

    kind: str
    step: int
    state: Literal["detected"]
    transition: Transition


class Detector:
    """Judges values as they come; ``stderr`` is the paired standard error of the value."""

    def __init__(self, track: Track) -> None:
        self.track = track

    def __call__(self, step: int, value: float, stderr: float | None = None) -> list[Detection]:
        """What this value made known; usually nothing."""
        found = self.track.update(step, value, math.nan if stderr is None else stderr)
        return [Detection(found.to_phase, found.happened_step, "detected", found)] if found else []


def detector(kind: str) -> Detector:
    """A detector that runs the shipped machine of that name on a single series.

    Raises:
        MachineError: no shipped machine has that name; the message lists those that do.
    """
    machines = {machine.name: machine for machine in MACHINES}
    if kind not in machines:
        raise MachineError(f"Got the machine {kind!r}; the shipped machines are {', '.join(machines)}.")
    return Detector(Track(machines[kind], {}))
