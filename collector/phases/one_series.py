"""One series, one machine: the door for scripts, notebooks and benchmarks that have no run."""

import math
from collections.abc import Callable

import msgspec

from collector.phases.axis import Scale
from collector.phases.engine import ALPHA
from collector.phases.machine import Machine, MachineError, Phase, Turn, When
from collector.phases.machines import MACHINES
from collector.phases.track import Track
from collector.phases.transition import State, Transition


class Detection(msgspec.Struct, frozen=True):
    """What a value made known: the phase, the step of that value, and how far the claim has come.

    ``state`` is "suspected", "detected" (the evidence has reached 1/alpha), "confirmed" or "retracted".
    ``transition`` has the rest: the step where it took place, the interval around it, and the evidence.
    """

    kind: str
    step: int
    state: State
    transition: Transition


class Detector:
    """Judges values as they come; ``stderr`` is the paired standard error of the value."""

    def __init__(self, machine: Machine, alpha: float, target: float | Callable[[int], float] | None) -> None:
        self.track = Track(machine, {}, alpha)
        self._target = target

    def __call__(self, step: int, value: float, stderr: float | None = None) -> list[Detection]:
        """What this value made known; usually nothing."""
        # Of NumPy's numbers a float32 overflows where it is squared, and an int64 is no JSON.
        value, error = float(value), math.nan if stderr is None else float(stderr)
        if int(step) == step:
            step = int(step)
        if self._target is not None:
            target = float(self._target(step) if callable(self._target) else self._target)
            value, error = (value / target, error / target) if target > 0.0 else (math.nan, error)
        return [
            Detection(found.to_phase, found.known_step, found.state, found)
            for found in self.track.update(step, value, error)
        ]


def _kind(name: str, *turns: tuple[str, str, When, float, float], slope: float = 0.25, flat: bool = False) -> Machine:
    """A machine of one idea; a turn is its phases, when it is taken, its share and its least effect."""
    phases = dict.fromkeys(phase for turn in turns for phase in turn[:2])
    return Machine(
        name=name,
        quantity="value",
        phases=tuple(Phase(name=phase, meaning="") for phase in phases),
        turns=tuple(
            Turn(
                from_phase=from_phase,
                to_phase=to_phase,
                when=when,
                share=share,
                min_effect=effect,
                slope=slope,
                flat=flat,
            )
            for from_phase, to_phase, when, share, effect in turns
        ),
    )


KINDS = {
    kind.name: kind
    for kind in (
        _kind("peak_passed", ("before", "rising", "rise", 0.3, 0.10), ("rising", "peak_passed", "fall", 0.7, 0.05)),
        _kind(
            "valley_passed", ("before", "falling", "fall", 0.3, 0.10), ("falling", "valley_passed", "rise", 0.7, 0.05)
        ),
        _kind("onset_up", ("flat", "onset_up", "rise", 1.0, 0.05), flat=True),
        _kind("onset_down", ("flat", "onset_down", "fall", 1.0, 0.05), flat=True),
        _kind("stabilised", ("moving", "stabilised", "settle", 1.0, 0.0)),
        _kind("eos_reached", ("approaching", "eos_reached", "hover", 1.0, 0.0), slope=0.5),
        _kind("spike", ("calm", "spike", "spike", 1.0, 0.05), ("spike", "calm", "calm", 1.0, 0.05)),
    )
}
"""The single ideas that machines are made of, for a series of one's own."""


def detector(
    kind: str,
    *,
    target: float | Callable[[int], float] | None = None,
    value_scale: Scale | None = None,
    step_scale: Scale | None = None,
    alpha: float = ALPHA,
) -> Detector:
    """A detector for a single series.

    Args:
        kind: the name of a machine that ships ("critical_period", …), or one idea: "peak_passed", "valley_passed",
            "onset_up", "onset_down", "stabilised", "eos_reached", "spike".
        target: the level to hover at, for "eos_reached", or that level at each step; values are divided by it, and
            those without a positive one are skipped.
        value_scale: the axis of the values, where it is not the machine's own ("linear" for an idea).
        step_scale: the axis of the steps.
        alpha: the probability of a false claim allowed, over the whole series.

    Raises:
        MachineError: there is no such kind; the message lists those that there are.
    """
    machines = {machine.name: machine for machine in MACHINES} | KINDS
    if kind not in machines:
        raise MachineError(f"Got the kind {kind!r}; there are {', '.join(machines)}.")
    machine = machines[kind]
    changes = {"value_scale": value_scale, "step_scale": step_scale}
    machine = msgspec.structs.replace(machine, **{name: scale for name, scale in changes.items() if scale is not None})
    return Detector(machine, alpha, target)
