"""AgentKey: the file that lets an agent in, and tells it which collector to trust.

The collector makes it, a person carries it to the training machine, the agent reads it. Three Curve25519 keys in Z85
(ZeroMQ RFC 26 CURVE, RFC 32 Z85): the collector's public one, by which the agent knows it, and a pair of the agent's own, by
which the collector knows the agent.
"""

import os
import stat
from pathlib import Path
from typing import Annotated, Self

import msgspec
from msgspec import Meta

MAX_FILE_BYTES = 4096
Z85_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z"

Key = Annotated[str, Meta(min_length=40, max_length=40)]


class KeyFileError(Exception):
    """A key file cannot be used; the message says which, why, and what to do."""


class AgentKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one agent, or one team's agents, are known by. ``public`` and ``secret`` are a pair; keep the file private."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=KEY_NAME)]
    collector: Key
    """The collector's public key, Z85."""
    public: Key
    """The agent's public key, Z85."""
    secret: Key
    """The agent's secret key, Z85."""

    def __repr__(self) -> str:
        """Without the secret: a traceback or a log may show this."""
        return f"AgentKey(name={self.name!r}, public={self.public!r})"

    @classmethod
    def load(cls, path: Path) -> Self:
        """The key in a file.

        Raises:
            KeyFileError: it is missing, others may read it, or it is not a key.
        """
        try:
            key = msgspec.json.decode(read_private(path), type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise KeyFileError(
                f"Got the key file {path}, which is not a whole key: {error}. Copy it again from the collector, "
                "or make another there with: probe-collector keys create NAME --out FILE"
            ) from error
        for field in ("collector", "public", "secret"):
            if not is_z85_key(getattr(key, field)):
                raise KeyFileError(
                    f"Got the key file {path}, whose {field!r} is not a key in Z85. Copy it again from the collector."
                )
        return key

    def save(self, path: Path) -> None:
        """Write a new file that only its owner may read.

        Raises:
            KeyFileError: it exists already or cannot be written.
        """
        write_private(path, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def is_z85_key(text: str) -> bool:
    """40 digits of base 85, of which every five make a number of 32 bits."""
    if len(text) != 40 or not set(text) <= set(Z85_DIGITS):
        return False
    digits = [Z85_DIGITS.index(digit) for digit in text]
    groups = (digits[i : i + 5] for i in range(0, 40, 5))
    return all(sum(digit * 85 ** (4 - place) for place, digit in enumerate(group)) < 2**32 for group in groups)


def read_private(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """A file of at most ``limit`` bytes that holds a secret.

    As libpq does with ``sslkey``, a file that root owns may be readable by the group of another user's process: so are
    secrets mounted into a container.

    Raises:
        KeyFileError: it is missing, too large, or open to others than its owner.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            mounted = found.st_uid == 0 != os.geteuid()
            if not stat.S_ISREG(found.st_mode):
                raise KeyFileError(f"Got the key file {path}, which is not a file. Name the file that holds the key.")
            if found.st_mode & (0o037 if mounted else 0o077):
                raise KeyFileError(
                    f"Got the key file {path} with mode {stat.S_IMODE(found.st_mode):04o}, so that others may read the "
                    f"secret in it; need 0600. Do: chmod 600 {path}. If others could read it, make another key."
                )
            data = file.read(limit + 1)
    except OSError as error:
        raise KeyFileError(
            f"Got the key file {path}, which cannot be read: {error.strerror}. Make one where the collector runs: "
            "probe-collector keys create NAME --out FILE"
        ) from error
    if len(data) > limit:
        raise KeyFileError(f"Got the key file {path} of more than {limit:,} bytes, which is no key file.")
    return data


def write_private(path: Path, data: bytes) -> None:
    """A new file of mode 0600, whole on the disk or not there at all.

    Raises:
        KeyFileError: it exists already or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise KeyFileError(f"Got the file {path}, which exists already; name another or remove it.") from error
    except OSError as error:
        raise KeyFileError(f"Got the file {path}, which cannot be written: {error.strerror}.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyFileError(f"Got the file {path}, which cannot be written: {error.strerror}.") from error
