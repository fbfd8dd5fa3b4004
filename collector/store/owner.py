"""Owner: of all processes one writes to a store. Two collectors would each acknowledge what the other does not know of.

The lock lies in a file beside the store, not on it: a process that closes any descriptor of an SQLite file loses the locks that
SQLite holds there (sqlite.org/howtocorrupt.html, 2.2). The system lets go of it when the process ends, however it ends. It lies beside
the file itself, by whatever link the store is named.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from collector.errors import StoreError


class Owner:
    """Holds the right to write to the store at a path until it is closed.

    Raises:
        StoreError: another process has it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = -1
        with suppress(OSError):  # no such folder, or a file system without locks: opening the store says what is wrong
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = Path(f"{os.path.realpath(path)}-owner")  # which, unlike `resolve`, takes links that lead in a circle
            if lock.is_symlink():  # what it leads to would be written over
                raise StoreError(f"Got the store {path}, beside which lies {lock.name}, a link. Remove it.")
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(self._lock, 20, 0).decode(errors="replace").strip() or "unknown"
                self.close()
                raise StoreError(
                    f"Got the store {path}, to which process {pid} writes already. Stop that one, or choose another file with --store."
                ) from None
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let others write."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
