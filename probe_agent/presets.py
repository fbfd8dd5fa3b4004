"""Presets: which probes run, and when, if nobody says otherwise."""

from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.local_complexity import LocalComplexity
from probe_agent.probes.loss import Loss
from probe_agent.probes.sharpness import Sharpness
from probe_agent.schedule import LogSpaced, Watch


def standard() -> tuple[Watch, ...]:
    """Loss, Fisher trace, sharpness and local complexity, 25 times in every decade of steps."""
    return (Watch(LogSpaced(), (Loss(), FisherTrace(), Sharpness(), LocalComplexity())),)
