"""Acknowledgements: who is to be told what is durable, and when.

To tell an agent costs a message, its encryption and a system call, as a report does. Where few wait, each is told at once. Where
many do, all are told together once a second, and before that only those whom it keeps from something: who has just greeted, who has
said goodbye and wants to end, and who has sent so much that it would soon have to wait before it sends more.
"""

import time
from collections.abc import Callable

from collector.sessions import Peer, Session, Sessions
from probe_wire import Ack

FEW = 20
TOGETHER_SECONDS = 1.0
MOST_OPEN = 64
"""Reports of one agent, an eighth of what it may have on the way."""


class Acknowledgements:
    """See the module. What is owed was taken in; `tell` is called when it is committed.

    Args:
        sessions: who is there.
        send: sends a message to a peer that may be gone.
    """

    def __init__(self, sessions: Sessions, send: Callable[[Peer, Ack], bool]) -> None:
        self._sessions = sessions
        self._send = send
        self._owed: set[Peer] = set()
        self._kept_waiting: set[Peer] = set()
        self._told_all = time.monotonic()

    def owe(self, peer: Peer, session: Session) -> None:
        """Something of this peer was taken in."""
        self._owed.add(peer)
        if session.unacknowledged >= MOST_OPEN or session.stream.finished:
            self._kept_waiting.add(peer)

    def forget(self, peer: Peer) -> None:
        """It is told something else."""
        self._owed.discard(peer)

    def clear(self) -> None:
        """Nothing of what was taken in is kept."""
        self._owed.clear()
        self._kept_waiting.clear()

    def tell(self, *, all_of_them: bool = False) -> None:
        """Say what is committed to those whose turn it is."""
        now = time.monotonic()
        all_of_them |= len(self._owed) < FEW or now - self._told_all > TOGETHER_SECONDS
        if all_of_them:
            self._told_all = now
            whose_turn, self._owed = self._owed, set()
        else:
            whose_turn = self._owed & self._kept_waiting
            self._owed -= whose_turn
        self._kept_waiting.clear()
        for peer in whose_turn:
            if (session := self._sessions.get(peer)) is not None:
                session.acknowledged = session.stream.high
                self._send(peer, Ack(session.stream.high))
