"""The left wing: a light agent inside somebody else's training run.

monitor = probe_agent.attach(model, optimizer, loss_fn=loss_fn, probe_batch=(x, y), run="my run")
"""

from probe_agent.attach import attach
from probe_agent.budget import Budget
from probe_agent.errors import AgentError, AttachError, NotApplicable
from probe_agent.monitor import Monitor
from probe_agent.outbox import ListOutbox, ZmqOutbox
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probe_set import ProbeSet
from probe_agent.process import Process
from probe_agent.schedule import Every, LogSpaced, Watch
from probe_agent.snapshot import Snapshot

__all__ = [
    "AgentError",
    "AttachError",
    "Budget",
    "Every",
    "ListOutbox",
    "LogSpaced",
    "Measurement",
    "Memory",
    "Monitor",
    "NotApplicable",
    "Probe",
    "ProbeSet",
    "Process",
    "Snapshot",
    "Watch",
    "ZmqOutbox",
    "attach",
]
