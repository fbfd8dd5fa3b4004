"""SameFile: SQLite goes on writing to a file that was deleted, and what is acknowledged then would be gone."""

import sqlite3
from pathlib import Path


class SameFile:
    """The file that is at a path now.

    Raises:
        OSError: there is none.
    """

    def __init__(self, path: Path) -> None:
        found = path.stat()
        self._path = path
        self._file = (found.st_dev, found.st_ino)

    def check(self) -> None:
        """See that it still is the one at that path.

        Raises:
            sqlite3.OperationalError: it is gone, or another.
        """
        try:
            found = self._path.stat()
        except OSError as error:
            raise sqlite3.OperationalError(
                f"the store {self._path} is gone: {error.strerror}; restart the collector"
            ) from error
        if (found.st_dev, found.st_ino) != self._file:
            raise sqlite3.OperationalError(
                f"the store {self._path} was replaced by another file; restart the collector"
            )
