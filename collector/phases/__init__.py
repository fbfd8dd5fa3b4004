"""Phases: reports in, transitions out, each with the evidence that decided it.

Read ``machine`` for what a phase machine is, ``reflection`` for why a transition may be believed,
and ``track`` for how the two meet.
"""

from collector.phases.engine import ALPHA, Judged, PhaseEngine, Unused
from collector.phases.machine import Machine, MachineError, Phase, Turn
from collector.phases.machine_file import load
from collector.phases.machines import MACHINES
from collector.phases.one_series import KINDS, Detection, Detector, detector
from collector.phases.spans import Span
from collector.phases.track import Track
from collector.phases.transition import Evidence, NoiseCard, Transition, Window

__all__ = [
    "ALPHA",
    "KINDS",
    "MACHINES",
    "Detection",
    "Detector",
    "Evidence",
    "Judged",
    "Machine",
    "MachineError",
    "NoiseCard",
    "Phase",
    "PhaseEngine",
    "Span",
    "Track",
    "Transition",
    "Turn",
    "Unused",
    "Window",
    "detector",
    "load",
]
