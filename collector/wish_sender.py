"""WishSender: wishes on their way to agents, and what became of each."""

from collections import deque
from collections.abc import Callable

from msgspec import structs

from collector.health import Health
from collector.log import event
from collector.sessions import Peer, Sessions
from probe_wire import Tighten

MOST_WAITING = 100
"""Wishes that may wait to be sent."""


class WishSender:
    """See the module. Any thread may put a wish; the inlet's sends them.

    Args:
        sessions: who is there.
        send: sends a message to a peer that may be gone; whether it left.
        health: counts what became of each.
    """

    def __init__(self, sessions: Sessions, send: Callable[[Peer, Tighten], bool], health: Health) -> None:
        self._sessions = sessions
        self._send = send
        self._health = health
        self._unsent: deque[tuple[str, int, Tighten]] = deque()

    def put(self, run_id: str, rank: int, wish: Tighten) -> None:
        """Have a wish sent."""
        if len(self._unsent) >= MOST_WAITING:
            self._account("too many", run_id, rank, wish)
        else:
            self._unsent.append((run_id, rank, structs.replace(wish, reason=wish.reason[:2000])))

    def send(self) -> None:
        """Send each to the newest session of its rank that is alive."""
        for _ in range(len(self._unsent)):
            run_id, rank, wish = self._unsent.popleft()
            living = (
                (peer, session.tightens)
                for peer, session in self._sessions.heard(run_id)  # an agent that comes back is another session
                if session.stream.rank == rank and not session.stream.finished
            )
            peer, tightens = next(living, ((), False))
            if not peer:
                self._account("no stream", run_id, rank, wish)
            elif not tightens:
                self._account("not understood", run_id, rank, wish)
            else:
                self._account("sent" if self._send(peer, wish) else "undelivered", run_id, rank, wish)

    def _account(self, answer: str, run_id: str, rank: int, wish: Tighten) -> None:
        self._health.wishes.labels(answer).inc()
        event("wish." + answer.replace(" ", "_"), run=run_id, rank=rank, quantity=wish.quantity, times=wish.times)
