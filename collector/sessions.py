"""Sessions: which connection speaks for which stream, and by whose key."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from collector.store.streams import Stream

Peer = tuple[bytes, ...]
"""What comes before a message: the identity of its connection and, where a relay speaks for several streams, its name for one."""

MOST_SESSIONS = 20_000
HEARD_SECONDS = 60.0
"""Four of an agent's heartbeats: one that is silent for longer may be gone, and its place another's, so it is told nothing."""


@dataclass(slots=True)
class Session:
    """The stream an agent greeted for, the key it came with, whether it takes wishes, when it was heard last, and what it was told is kept."""

    stream: Stream
    user: str
    tightens: bool
    heard: float = field(default_factory=time.monotonic)
    acknowledged: float = -math.inf  # it has greeted and waits for the answer

    @property
    def unacknowledged(self) -> float:
        """Reports that are kept and it has not been told so."""
        return self.stream.high - self.acknowledged


class Sessions:
    """Sessions by who speaks, the longest unchanged first."""

    def __init__(self) -> None:
        self._sessions: dict[Peer, Session] = {}

    def open(self, peer: Peer, session: Session) -> None:
        """Begin, or begin anew. Where there are too many the longest unchanged goes: if it lives, it will greet again."""
        self._sessions.pop(peer, None)
        if len(self._sessions) >= MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        self._sessions[peer] = session

    def speaking(self, peer: Peer, user: str) -> Session | None:
        """The session a message belongs to, which is heard by it.

        None before a greeting, and for another key than greeted: a connection's identity is free once it is gone.
        """
        session = self._sessions.get(peer)
        if session is None or session.user != user:
            return None
        session.heard = time.monotonic()
        return session

    def get(self, peer: Peer) -> Session | None:
        """The session of a connection."""
        return self._sessions.get(peer)

    def end(self, peer: Peer) -> Session | None:
        """Forget a session; what follows on its connection is refused until the agent greets again."""
        return self._sessions.pop(peer, None)

    def clear(self) -> None:
        """Forget all."""
        self._sessions.clear()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._sessions)

    def __iter__(self) -> Iterator[tuple[Peer, Session]]:
        return iter(list(self._sessions.items()))

    def heard(self, run_id: str) -> list[tuple[Peer, Session]]:
        """The sessions of a run that are alive, the latest opened first: what is meant for its owner goes to no other."""
        since = time.monotonic() - HEARD_SECONDS
        return [
            (peer, session)
            for peer, session in reversed(self._sessions.items())
            if session.stream.run_id == run_id and session.heard >= since
        ]
