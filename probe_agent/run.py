"""Who am I: the identity of a Run, read from the process and its surroundings without starting anything."""

import os
import socket
import time
import uuid
import zlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from probe_wire import Run


def identify(name: str, labels: Mapping[str, str]) -> Run:
    """The Run of this process. Ranks of one job share it through ``PHASEWATCH_RUN_ID``, and so do jobs that resume one another."""
    given = os.environ.get("PHASEWATCH_RUN_ID")
    return Run(
        id=_id_of(given, name) if given else uuid.uuid4().hex[:12],
        name=name,
        host=socket.gethostname()[:200],
        pid=os.getpid(),
        started_at=time.time(),
        labels=dict(labels),
        git_revision=_own_revision(),
        agent_version=_own_version(),
        world_size=_number("WORLD_SIZE", 1),
    )


_first: dict[str, str] = {}
"""The name that was attached first in this process, by the id that its environment gives."""


def attached(name: str) -> None:
    """What has this name is watched: if it is the first, the id that the environment gives is its own from here on."""
    if given := os.environ.get("PHASEWATCH_RUN_ID"):
        _first.setdefault(given, name)


def _id_of(given: str, name: str) -> str:
    """The id that was given, and for what has another name in the same process (two networks of one job) one that follows from it."""
    if _first.get(given, name) == name:
        return given
    # Of both: two jobs may differ only in what is cut off of their ids.
    both = f"{given} {name}".encode(errors="backslashreplace")
    return f"{given[:55]}-{zlib.crc32(both):08x}"


def rank() -> int:
    """The rank of this process in its job: what ``torchrun`` put into ``RANK``, else 0."""
    return _number("RANK", 0)


def _number(variable: str, default: int) -> int:
    """A launcher's variable as a number; the default where it is not one."""
    try:
        return int(os.environ.get(variable, ""))
    except ValueError:
        return default


def _own_revision() -> str:
    try:
        return git_revision(Path.cwd())
    except (OSError, ValueError):  # the folder is gone, or git's files are not text
        return ""


def git_revision(start: Path) -> str:
    """The commit checked out in the repository around ``start``, or an empty string.

    Reads git's files: starting a program inside somebody's training process is not ours to do.
    """
    for folder in (start, *start.parents):
        git = folder / ".git"
        try:
            if not git.is_dir():
                continue
            head = (git / "HEAD").read_text(encoding="utf-8").strip()
            if not head.startswith("ref: "):
                return head[:64]
            ref = head.removeprefix("ref: ")
            if (git / ref).is_file():
                return (git / ref).read_text(encoding="utf-8").strip()[:64]
            packed = (git / "packed-refs").read_text(encoding="utf-8")
            return next((line.split()[0] for line in packed.splitlines() if line.endswith(f" {ref}")), "")
        except OSError:
            return ""
    return ""


def _own_version() -> str:
    try:
        return version("phasewatch")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return ""
