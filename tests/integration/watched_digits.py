"""``examples/digits.py``, measured whenever the schedule says so: by its budget, a slow machine would leave out most of it."""

import functools
import runpy
from pathlib import Path

import probe_agent
from probe_agent import Budget, Watch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.loss import Loss
from probe_agent.schedule import LogSpaced

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"
MEASURED = {"watches": [Watch(LogSpaced(), (Loss(), FisherTrace()))], "budget": Budget(share=1000)}
"""What the critical period is judged by, at whatever cost."""

if __name__ == "__main__":
    probe_agent.attach = functools.partial(probe_agent.attach, **MEASURED)  # type: ignore[arg-type]
    runpy.run_path(str(EXAMPLE), run_name="__main__")
