"""Every probe there is, on one screen. To add one: a file of this folder, and a line here."""

from probe_agent.probe import Probe
from probe_agent.probes.calibration import Calibration
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.local_complexity import LocalComplexity
from probe_agent.probes.loss import Loss
from probe_agent.probes.sharpness import Sharpness
from probe_agent.probes.weights import Weights

PROBES: tuple[type[Probe], ...] = (Loss, Calibration, Weights, FisherTrace, Sharpness, LocalComplexity)
