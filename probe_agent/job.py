"""Job: the distributed job this process is a rank of, and how its ranks find out who watches."""

import hashlib
import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import cast, final

import torch.distributed as dist
from msgspec.structs import replace

from probe_agent.gang import Gang, Store
from probe_wire import Run

logger = logging.getLogger("probe_agent")

MEETING_SECONDS = 5.0
"""How long an `attach` waits for the other ranks to come to theirs."""

_attached: Counter[str] = Counter()
"""How often this process attached under each name: the same count means the same call on every rank."""


@final
@dataclass(frozen=True, slots=True)
class Job:
    """This process among the ranks of its job, for one call of `attach`.

    ``store`` is a connection of our own to the key-value store the ranks were started with. Whatever
    goes wrong on it leaves the training's own connection alone.
    """

    rank: int
    size: int
    store: Store

    @classmethod
    def here(cls, name: str) -> "Job | None":
        """The job around this process; None where `torch.distributed` was not initialised, or has no store to meet in."""
        if not (dist.is_available() and dist.is_initialized()):
            return None
        _attached[name] += 1
        place = hashlib.sha256(f"{_attached[name]} {name}".encode()).hexdigest()[:16]
        try:
            own = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]  # noqa: SLF001 - torch has no public way to it
            store = dist.PrefixStore(f"phasewatch/{place}", own)  # type: ignore[attr-defined]
            return cls(dist.get_rank(), dist.get_world_size(), cast("Store", store))
        except Exception as error:  # noqa: BLE001 - started by MPI, say: each rank watches alone
            logger.debug("phasewatch: the ranks have no store in common: %r", error)
            return None

    def identity(self, own: Run) -> Run:
        """The identity as a rank of the one Run that all ranks of the job are: with the id that was proposed first."""
        with suppress(Exception):
            own = replace(own, id=bytes(self.store.compare_set("run_id", "", own.id)).decode())
        return replace(own, world_size=self.size)

    def meet(self) -> Gang | None:
        """All ranks, if all of them are in this call within `MEETING_SECONDS`; else None, on every rank.

        Many scripts attach on rank 0 alone, so no rank may count on another before it is there. The last
        to come says "together", the first to lose patience "alone"; the store takes one of the two.
        """
        try:
            if self.store.add("arrived", 1) == self.size:
                self.store.compare_set("verdict", "", "together")
            deadline, pause = time.monotonic() + MEETING_SECONDS, 0.001
            while not self.store.check(["verdict"]) and time.monotonic() < deadline:
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
            verdict = bytes(self.store.compare_set("verdict", "", "alone"))
        except Exception as error:  # noqa: BLE001 - a store that fails is no reason not to watch
            logger.debug("phasewatch: the ranks could not meet: %r", error)
            verdict = b"alone"
        return Gang(self.rank, self.size, self.store) if verdict == b"together" else None
