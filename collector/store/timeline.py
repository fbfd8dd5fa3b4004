"""Timeline: which store this is, and of two copies how far they are the same.

A life begins when the file is made, and with the first that is written whenever it was opened; each has a random mark. A copy,
however it was made, and what it was copied from have the lives before in common and none after, as the timelines of PostgreSQL
have (its manual, "Continuous Archiving").
"""

import sqlite3
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple
from uuid import uuid4


class Life(NamedTuple):
    """One life of the file: its mark, and the last frame before it."""

    mark: str
    since: int


Timeline = tuple[Life, ...]

FIRST_LIFE = "INSERT INTO timeline (mark, since) VALUES (lower(hex(randomblob(16))), 0)"


def begin_life(db: sqlite3.Connection, frame: int) -> None:
    """Begin a life after a frame, in place of the last where nothing was committed in that. Works within the caller's transaction."""
    db.execute("DELETE FROM timeline WHERE since >= ?", (frame,))
    db.execute("INSERT INTO timeline (mark, since) VALUES (?, ?)", (uuid4().hex, frame))


def timeline(db: sqlite3.Connection) -> tuple[Timeline, int]:
    """Every life of the file, in order, and the last frame of all."""
    lives = db.execute("SELECT mark, since, (SELECT number FROM last_frame) FROM timeline ORDER BY number").fetchall()
    return tuple(Life(mark, since) for mark, since, _ in lives), lives[-1][-1]


def in_common(one: Sequence[Life], its_last: int, other: Sequence[Life], others_last: int) -> int | None:
    """Up to which frame two stores are the same, of which the last frames are known; None where they never were one."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    if not shared:
        return None
    return min(_end(one, shared, its_last), _end(other, shared, others_last))


def _end(lives: Sequence[Life], shared: int, last: int) -> int:
    return min(lives[shared].since, last) if shared < len(lives) else last
