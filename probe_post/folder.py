"""A spool's folder: who holds it, and what its disk has for good."""

import fcntl
import os
from pathlib import Path


def locked(folder: Path) -> int | None:
    """The lock of a spool, as a descriptor; None where somebody has it, or the spool is just gone.

    Raises:
        OSError: it cannot be opened, or its file system has no locks.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:  # else who had it has just deleted it
            return lock
    except BlockingIOError:
        pass
    except OSError:
        os.close(lock)
        raise
    os.close(lock)
    return None


def sync(folder: Path) -> None:
    """Have the names of its files survive a power cut.

    Raises:
        OSError: the disk could not say that they do.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
