"""Deadline: when a probe that has begun must stop."""

import math
import time
from dataclasses import dataclass

from probe_agent.errors import OverBudget


@dataclass(slots=True)
class Deadline:
    """A moment by `time.perf_counter`. A snapshot looks at it wherever a probe asks for a pass through the model."""

    at: float = math.inf

    def check(self) -> None:
        """Raise OverBudget when the moment has passed."""
        if time.perf_counter() > self.at:
            raise OverBudget
