"""Detectors: all that is scored, behind one door: a curve goes in, the calls made while it passed come out."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
from curves.curve import Curve, Floats, Steps
from curves.score import Call

from against.change_points import CHANGE_POINTS, SLOW
from against.phase_rules import RULES, Rule
from collector.phases import Detector, MachineError, detector

Detect = Callable[[Curve], list[Call]]
Target = float | Callable[[int], float]
OURS = "ours"
MACHINES = {
    "ours, machine critical_period": ("critical_period", "after_critical_period"),
    "ours, machine local_complexity": ("local_complexity", "final_descent"),
}
"""Machines of the product and the phase of theirs that begins where a peak has passed."""


def ours(machine: str, kind: str) -> Detect:
    """The product's detector of that name; only its calls of that kind count.

    A call is made at the step at which it came, not at the one it is about.
    """

    def detect(curve: Curve) -> list[Call]:
        judged = judge(machine, target_of(curve), log_axis=curve.log_axis)
        stderr = [None] * curve.steps.size if curve.stderr is None else curve.stderr.tolist()
        probes = zip(curve.steps.tolist(), curve.values.tolist(), stderr, strict=True)
        return [Call(probe[0], found.state) for probe in probes for found in judged(*probe) if found.kind == kind]

    return detect


def target_of(curve: Curve) -> Target | None:
    """The target as a user would give it: a number where it stays, otherwise a function of the step."""
    if curve.target is None or np.ptp(curve.target) == 0.0:
        return None if curve.target is None else float(curve.target[0])
    return partial(_interpolated, curve.steps, curve.target)


def _interpolated(steps: Steps, target: Floats, step: int) -> float:
    return float(np.interp(step, steps, target))


def judge(machine: str, target: Target | None, *, log_axis: bool = False) -> Detector:
    """The product's detector of that name."""
    return detector(machine, target=target, step_scale="log" if log_axis else None)


def by_rule(rule: Rule) -> Detect:
    """A rule's alarms, each where it begins."""

    def detect(curve: Curve) -> list[Call]:
        flags = rule(curve)
        begins = np.flatnonzero(flags & ~np.concatenate([[False], flags[:-1]]))
        return [Call(int(curve.steps[i]), "detected") for i in begins]

    return detect


def available(asked: str) -> tuple[dict[str, Detect], dict[str, str]]:
    """Everything that looks for such a transition, by name, and why what should cannot be had."""
    found: dict[str, Detect] = {}
    refused: dict[str, str] = {}
    try:
        judge(asked, target=1.0 if asked == "eos_reached" else None)
        found[OURS] = ours(asked, asked)
    except MachineError as why:
        refused[OURS] = str(why)
    found |= {name: by_rule(rule) for name, rule in RULES.get(asked, {}).items()}
    if asked == "peak_passed":
        found |= {name: ours(machine, kind) for name, (machine, kind) in MACHINES.items()}
        for name, (package, rule) in CHANGE_POINTS.items():
            if find_spec(package):
                found[name] = by_rule(rule)
            else:
                refused[name] = f"{package} is not installed"
    return found, refused


FEW = ("peak SNR 10", "peak SNR 50", "null, constant", "null, saturating SNR 10", "null, heavy tails", "null, AR(.8)")
"""Families for what would take long on all."""


def applies(name: str, family: str) -> bool:
    """Whether a detector is run on a family: machines on the curves they are for, slow libraries on a few."""
    if name == "ours, machine local_complexity":
        return family.startswith("complexity")
    return family in FEW or name not in (*SLOW, *MACHINES)
