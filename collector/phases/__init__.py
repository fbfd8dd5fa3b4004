"""Phases: reports in, transitions out, each with the evidence that decided it.

Read ``machine`` for what a phase machine is, ``reflection`` for why a transition may be believed,
and ``track`` for how the two meet.
"""

from collector.phases.engine import PhaseEngine, Unused
from collector.phases.machine import Machine, MachineError, Phase, Turn
from collector.phases.machines import MACHINES
from collector.phases.one_series import Detection, Detector, detector
from collector.phases.track import Span
from collector.phases.transition import Evidence, Transition, Window

__all__ = [
    "MACHINES",
    "Detection",
    "Detector",
    "Evidence",
    "Machine",
    "MachineError",
    "Phase",
    "PhaseEngine",
    "Span",
    "Transition",
    "Turn",
    "Unused",
    "Window",
    "detector",
]
