"""What the agent raises, and only at the door: `attach` and the command line.

AgentError
├── AttachError     the model, optimizer, loss or probe batch cannot be watched
│   └── LikelihoodError  the likelihood that was named cannot be; without one the rest can be watched
└── NotApplicable   a probe's quantity is not defined here (becomes an Outcome, never reaches training)
    └── Indivisible the loss cannot be computed on a part of the probe batch

OverBudget stands apart: a BaseException, so that no estimator's fallback mistakes it for a property of the model.
"""

import torch


class AgentError(Exception):
    """Something the person who attaches the agent can mend."""


class AttachError(AgentError):
    """`attach` was given something it cannot watch; the message says what we got, need, and what to do."""


class LikelihoodError(AttachError):
    """`attach` was given a likelihood that does not exist or cannot be the outputs'; without one everything else is measured."""


class NotApplicable(AgentError):
    """Raised by a probe whose quantity is not defined for this snapshot; the monitor turns it into an Outcome."""


class Indivisible(NotApplicable):
    """Raised where a quantity needs the loss of some of the samples, and the loss refuses to be without the others."""


class OverBudget(BaseException):
    """Raised through a probe whose time is up; the monitor turns it into an Outcome."""


def is_refused_memory(error: BaseException) -> bool:
    """Whether a device or the machine refused memory; on the CPU torch says so in words only."""
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - a stranger's class
        words = ""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in words
