"""Gangs in one process: a thread for each rank, and a real store between them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch.distributed as dist

from probe_agent.gang import Dissolved, Gang


def each(size: int, does: Callable[[Gang], Any], store: Any = None) -> list[Any]:
    """What every rank's call gave; an exception is what it gave, too."""
    store = store or dist.HashStore()

    def one(rank: int) -> Any:
        try:
            return does(Gang(rank, size, store))
        except Dissolved as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))
