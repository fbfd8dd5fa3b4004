"""Collectors: the addresses reports may go to, and which of several a run has (rendezvous hashing; Thaler & Ravishankar 1998).

Every rank of a run comes to the same one without asking anybody. A collector that is added or taken away moves the runs it gains or
had, and no others; a run that has begun stays with the collector it began with.
"""

import hashlib
import re
from collections.abc import Sequence

from probe_agent.errors import AttachError

DEFAULT = "tcp://127.0.0.1:5757"
_ADDRESS = re.compile(r"(tcp://[^:/\s,]+:\d{1,5}|tcp://\[[0-9a-fA-F:]+\]:\d{1,5}|ipc://[^\s,]+)")


def addresses(text: str) -> list[str]:
    """One address, or several between commas.

    Raises:
        AttachError: one of them is none.
    """
    found = [address.strip() for address in text.split(",")]
    for address in found:
        if not _ADDRESS.fullmatch(address):
            raise AttachError(
                f"Got the collector address {address!r}; need tcp://HOST:PORT or ipc://PATH, such as {DEFAULT}, or several "
                "between commas."
            )
    return found


def collector_of(run_id: str, among: Sequence[str]) -> str:
    """The collector of a run: of every address the one whose hash with the run's id is highest."""
    return max(among, key=lambda address: hashlib.sha256(f"{address} {run_id}".encode()).digest())
