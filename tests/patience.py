"""How long a test waits for what should come: long enough for a machine that is busy with something else, and not for ever."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 3.0
"""So many times what it takes at the most where nothing else runs; it costs time only where a test fails."""


def eventually(question: Callable[[], T], *, seconds: float, what: str) -> T:
    """The first truthy answer; an error that says what was waited for, and the last answer, when time is up."""
    deadline = time.monotonic() + PATIENCE * seconds
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise AssertionError(f"Waited {PATIENCE * seconds:g} s for {what}; the last answer was {answer!r}.")
        time.sleep(0.05)
    return answer
