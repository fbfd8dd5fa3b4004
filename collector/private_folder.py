"""A folder for secrets: mode 0700, one writer at a time, files of mode 0600 that are replaced whole."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collector.errors import AccessError
from probe_wire.agent_key import KeyFileError, read_private, write_private

LOCK_SECONDS = 5.0


class PrivateFolder:
    """See the module. Made when something is first written to it.

    Raises:
        AccessError: by every method, where a file or the folder cannot be used or is open to others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str, limit: int = 4096) -> bytes:
        """What a file holds."""
        self._check()
        try:
            return read_private(self.path / name, limit)
        except KeyFileError as error:
            raise AccessError(str(error)) from error

    def replace(self, name: str, data: bytes) -> None:
        """Write a file anew, so that a reader finds the old or the new one and never a part. Within `locked`."""
        temporary = self.path / f"{name}.new"
        try:
            temporary.unlink(missing_ok=True)
            write_private(temporary, data)
            temporary.replace(self.path / name)
        except (KeyFileError, OSError) as error:
            raise AccessError(str(error)) from error

    def signature(self, name: str) -> tuple[int, ...] | None:
        """Changes when the file is replaced; None where there is none."""
        try:
            found = (self.path / name).stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AccessError(f"Got the file {self.path / name}, which cannot be read: {error.strerror}.") from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder to this process alone; it is made where there is none."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check()
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise AccessError(
                f"Got the folder of keys {self.path}, which cannot be used: {error.strerror}. Name another in security.keys."
            ) from error
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise AccessError(
                        f"Got the folder of keys {self.path}, which another process has held for {LOCK_SECONDS:.0f} seconds. End it."
                    ) from error
                time.sleep(0.02)
            else:
                return

    def _check(self) -> None:
        mode = stat.S_IMODE(self.path.stat().st_mode)
        mounted = (
            mode & stat.S_ISVTX and os.geteuid() != 0
        )  # as Kubernetes mounts secrets: files of others are not read
        if mode & 0o022 and not mounted:
            raise AccessError(
                f"Got the folder of keys {self.path} with mode {mode:04o}, so that others may change who is let in; "
                f"need 0700. Do: chmod 700 {self.path}"
            )
