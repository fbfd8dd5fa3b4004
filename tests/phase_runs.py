"""Machines written in a line, and curves fed through them: what the tests of phases begin with."""

import math
from collections.abc import Iterable

import numpy as np

from collector.phases import Machine, Phase, PhaseEngine, Track, Transition, Turn
from probe_wire import Column, Estimate
from tests.curves import Curve

FISHER, COMPLEXITY = Column("fisher_trace"), Column("local_complexity")


def turn(from_phase: str, to_phase: str, when: str = "fall", **other: object) -> Turn:
    settings = {"min_effect": 0.05, **other}
    return Turn(from_phase=from_phase, to_phase=to_phase, when=when, **settings)  # type: ignore[arg-type]


def machine(names: str, *turns: Turn, **other: object) -> Machine:
    """A machine of the phases named, an optional one with a question mark behind it."""
    phases = tuple(Phase(name=name.strip("?"), meaning="", optional=name.endswith("?")) for name in names.split())
    settings = {"name": "m", "quantity": "q", **other}
    return Machine(phases=phases, turns=turns, **settings)  # type: ignore[arg-type]


def rows(curve: Curve) -> list[tuple[int, float, float]]:
    return list(zip(curve.steps.tolist(), curve.values.tolist(), curve.paired.tolist(), strict=True))


def plain(values: np.ndarray, every: int = 10) -> Curve:
    """Values at even steps whose errors nobody reports."""
    return Curve(np.arange(values.size) * every, values, np.full(values.size, math.nan))


def track(model: Machine, alpha: float = 0.01) -> Track:
    return Track(model, {}, alpha)


def passed(judge: Track, curve: Curve) -> list[Transition]:
    return [t for row in rows(curve) for t in judge.update(*row)]


def follow(curve: Curve, column: Column = FISHER, phases: PhaseEngine | None = None) -> list[Transition]:
    """All that a whole engine tells of one curve."""
    phases = phases or PhaseEngine()
    return [
        t
        for step, value, paired in rows(curve)
        for t in phases.update(step, [(column, Estimate(value, paired=paired))])
    ]


def of(name: str, transitions: Iterable[Transition]) -> list[Transition]:
    return [t for t in transitions if t.machine == name]


def entered(transitions: Iterable[Transition]) -> list[str]:
    """The phases that were detected, in order."""
    return [t.to_phase for t in transitions if t.state == "detected"]


def states(transitions: Iterable[Transition]) -> list[str]:
    return [t.state for t in transitions]
