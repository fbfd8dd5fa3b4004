"""What ``torch.func.vmap`` over a model needs around it."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from probe_agent.estimators.written_out import WrittenOut

_NO_NEWS: Final[Any] = ("ignore", re.compile("There is a performance drop"), Warning, None, 0)
"""That vmap must loop over an operation; as an entry of the filters of warnings."""


@contextmanager
def mappable() -> Iterator[None]:
    """Attention written out, since fused attention has no batching rule; where vmap must loop, that is no news to a user.

    Not by `warnings.catch_warnings`, which at its end undoes what other threads have done to the filters, and has warnings that were
    shown shown again.
    """
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    if _NO_NEWS not in filters:
        filters.insert(0, _NO_NEWS)
    try:
        with WrittenOut():
            yield
    finally:
        with suppress(ValueError):  # another thread has put its own filters back
            filters = warnings.filters  # type: ignore[assignment]
            filters.remove(_NO_NEWS)
