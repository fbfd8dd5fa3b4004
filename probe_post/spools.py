"""Spools: where the reports of this user's jobs wait on this machine, and which of them nobody delivers any more.

    ROOT/COLLECTOR/STREAM/…       one spool for each stream; COLLECTOR stands for an address

A job that was killed leaves its spool behind. The next job here that reports to the same collector delivers it, and so does
``probe-agent spool deliver``. What dead jobs may keep has a cap of its own: beyond it their oldest reports go; the collector
still counts them as lost when what is left arrives.

Whoever reads here also deletes. So nothing is looked at in a folder that others may prepare, by a name that is none of ours, or through
a link.
"""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from probe_post.errors import SpoolError
from probe_post.spool import CAP_BYTES, Spool, greeting_in
from probe_wire import Hello

CAP_OF_THE_DEAD = 4 * CAP_BYTES


def root() -> Path | None:
    """``$PHASEWATCH_SPOOL``, else a folder of this user's that outlives a reboot; None where it says ``off``."""
    asked = os.environ.get("PHASEWATCH_SPOOL", "")
    if asked.lower() in ("off", "no", "0", "false"):
        return None
    kept = Path("/var/tmp")  # noqa: S108 - `_own` looks at who made what is in it
    parent = kept if os.access(kept, os.W_OK) else Path(tempfile.gettempdir())
    return Path(asked) if asked else parent / f"phasewatch-{os.getuid()}"


def create(root: Path, collector: str, hello: Hello, greeting: bytes, *, cap: int = CAP_BYTES) -> Spool:
    """A new spool for the stream that ``greeting``, the encoded ``hello``, opens at the collector of this address.

    Raises:
        SpoolError: the folder belongs to somebody else, or cannot be written.
    """
    home = _home(root, collector)
    try:
        _own(root)
        home.mkdir(mode=0o700, exist_ok=True)  # whatever the umask leaves to others
        spool = Spool.create(home / stream_name(hello), greeting, last=hello.first - 1, cap=cap)
        with suppress(OSError):
            (home / _ADDRESS).write_text(collector, encoding="utf-8")  # the folder's name does not tell it
    except OSError as error:
        raise SpoolError(f"Got the folder {root}, which cannot be written: {error}. {_INSTEAD}") from error
    return spool


def left_behind(root: Path, collector: str) -> Iterator[Spool]:
    """One by one, the spools for this collector whose process is gone, the oldest first; each is the caller's from here on."""
    if is_own(root):
        yield from _adopted(_folders(_home(root, collector)))


def everything(root: Path) -> Iterator[Path]:
    """The folder of every spool, whoever holds it and whichever collector it is for; the oldest first."""
    if is_own(root):
        homes = (home for home in _inside(root) if _HOME.fullmatch(home.name))
        yield from sorted((folder for home in homes for folder in _folders(home)), key=_age)


def collector_of(folder: Path) -> str:
    """The address of the collector a spool is for; empty where that is not known."""
    try:
        return (folder.parent / _ADDRESS).read_text(encoding="utf-8")[:1000]
    except (OSError, UnicodeDecodeError):
        return ""


class Waiting(NamedTuple):
    """One spool, looked at from outside. ``run`` is empty where its greeting cannot be read."""

    stream: str
    run: str
    rank: int
    collector: str
    bytes: int
    written: float
    """When last, Unix seconds."""
    messages: int | None
    """How many may wait in it at most; None while its job is alive."""


def survey(root: Path) -> list[Waiting]:
    """What waits on this machine, the oldest first."""
    found = []
    for folder in everything(root):
        segments = sorted(folder.glob("*.segment"))
        with suppress(OSError):  # delivered while we look
            said = greeting_in(segments[0].read_bytes()) if segments else None
            size = sum(path.stat().st_size for path in segments)
            messages = None
            if (spool := Spool.adopt(folder)) is not None:
                messages = spool.last - spool.first + 1
                spool.close(delete=False)
            if size:
                run, rank = ("", 0) if said is None else (said.run.name, said.rank)
                found.append(Waiting(folder.name, run, rank, collector_of(folder), size, _age(folder), messages))
    return found


def trim(root: Path, *, cap: int = CAP_OF_THE_DEAD) -> int:
    """Have what dead jobs left take no more than ``cap`` bytes, the oldest first. Returns how many bytes were given up."""
    folders = list(everything(root))
    sizes = [_size(folder) for folder in folders]
    over = given_up = sum(sizes) - cap
    for spool in _adopted(folders) if over > 0 else ():
        while over > 0 and len(spool) > 1:
            before = spool.size
            spool.drop_oldest()
            over -= before - spool.size
        spool.close(delete=False)
    return max(0, given_up - max(0, over))


def _adopted(folders: list[Path]) -> Iterator[Spool]:
    for folder in folders:
        with suppress(OSError):
            spool = Spool.adopt(folder)
            if spool is not None:
                yield spool


def _folders(home: Path) -> list[Path]:
    return sorted((path for path in _inside(home) if _SPOOL.fullmatch(path.name)), key=_age)


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder, links left out."""
    try:
        if folder.is_symlink():
            return []
        with os.scandir(folder) as entries:
            return [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _size(folder: Path) -> int:
    """Bytes of its segments; 0 where it goes while we look, as what is delivered does."""
    try:
        return sum(path.stat().st_size for path in folder.glob("*.segment"))
    except OSError:
        return 0


def _age(folder: Path) -> float:
    """When it was last written to, Unix seconds."""
    try:
        return max((path.stat().st_mtime for path in folder.glob("*.segment")), default=0.0)
    except OSError:
        return 0.0


def stream_name(hello: Hello) -> str:
    """The folder of a stream: a digest, as what a stranger calls a stream must not choose where it is written."""
    return hashlib.sha256(f"{hello.run.id} {hello.rank} {hello.epoch}".encode()).hexdigest()[:16]


def _home(root: Path, collector: str) -> Path:
    return root / hashlib.sha256(collector.encode()).hexdigest()[:16]


def _own(folder: Path) -> None:
    """Make sure that nobody else can prepare what lies here.

    Raises:
        SpoolError: somebody can.
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    if not is_own(folder):
        raise SpoolError(
            f"Got the folder {folder}; need one that belongs to you and that only you can write to. {_INSTEAD}"
        )


def is_own(folder: Path) -> bool:
    """Whether it is a folder of this user's, to which nobody else can write."""
    try:
        there = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid() and not there.st_mode & 0o022


_HOME = re.compile(r"[0-9a-f]{16}")
_SPOOL = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{8})?")
"""A `stream_name`, and what `Spool.create` puts behind one that is taken."""
_ADDRESS = "collector"
_INSTEAD = "Name another by PHASEWATCH_SPOOL, or set it to off."
