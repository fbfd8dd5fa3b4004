"""Space: how much the store takes of its disk, and how much is left."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

FULL_AT = 0.9
"""Share of the disk from which on a person should act: when nothing is left, nothing more is acknowledged."""


class Space(NamedTuple):
    """Bytes: taken by what is stored, free within the file for what comes, and of the disk in all and free."""

    stored: int
    spare: int
    disk: int
    disk_free: int

    @property
    def disk_used_ratio(self) -> float:
        """Share of the disk that is taken, by whatever."""
        return 1 - self.disk_free / self.disk

    @property
    def nearly_full(self) -> bool:
        """Whether the disk is taken to `FULL_AT`."""
        return self.disk_used_ratio >= FULL_AT


def space_of(path: Path) -> Space:
    """What a store takes, and what its disk has.

    Raises:
        OSError, sqlite3.Error: the store or its disk cannot be asked.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
        stored, spare = bytes_of(db)
    usage = shutil.disk_usage(path.absolute().parent)
    return Space(stored, spare, usage.used + usage.free, usage.free)  # without what is kept for root


def bytes_of(db: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the file that are taken, and those that are free for what comes."""
    size, pages, spare = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_size", "page_count", "freelist_count")
    )
    return (pages - spare) * size, spare * size


def wal_bytes_of(path: Path) -> int:
    """Bytes of a store's write-ahead log; none where nobody writes."""
    try:
        return Path(f"{path.resolve()}-wal").stat().st_size
    except FileNotFoundError:
        return 0
