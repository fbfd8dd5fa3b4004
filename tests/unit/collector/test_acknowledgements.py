"""Acknowledgements: few are told at once, many together, and nobody waits whom it keeps from something."""

import pytest

from collector import acknowledgements
from collector.acknowledgements import FEW, MOST_OPEN, Acknowledgements
from collector.sessions import Peer, Session, Sessions
from collector.store.streams import Stream
from probe_wire import Ack


class Crowd:
    """Agents that have greeted and were answered, and what each was told since."""

    def __init__(self, count: int) -> None:
        self.sessions = Sessions()
        self.told: dict[Peer, int] = {}
        self.owed = Acknowledgements(self.sessions, self._send)
        self.peers = [(b"%d" % i,) for i in range(count)]
        for i, peer in enumerate(self.peers):
            session = Session(Stream(i, "run-1", i, "a", 0, 0, finished=False), "", tightens=False)
            self.sessions.open(peer, session)
            self.owed.owe(peer, session)
        self.owed.tell()
        self.answered, self.told = self.told, {}

    def _send(self, peer: Peer, message: Ack) -> bool:
        self.told[peer] = message.seq
        return True

    def report(self, peer: Peer, reports: int = 1, *, finished: bool = False) -> None:
        session = self.sessions.get(peer)
        assert session is not None
        session.stream.high += reports
        session.stream.finished = finished
        self.owed.owe(peer, session)

    def all_report(self) -> None:
        for peer in self.peers:
            self.report(peer)


def test_few_are_told_at_once() -> None:
    crowd = Crowd(FEW - 1)
    crowd.all_report()
    crowd.owed.tell()
    assert crowd.told == dict.fromkeys(crowd.peers, 1)


def test_a_greeting_is_answered_at_once_however_many_greet() -> None:
    crowd = Crowd(5 * FEW)
    assert crowd.answered == dict.fromkeys(crowd.peers, 0)


def test_many_are_told_together_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(FEW)
    crowd.all_report()
    crowd.owed.tell()
    assert crowd.told == {}
    monkeypatch.setattr(acknowledgements, "TOGETHER_SECONDS", 0.0)
    crowd.owed.tell()
    assert crowd.told == dict.fromkeys(crowd.peers, 1)


def test_who_has_sent_much_or_said_goodbye_is_told_at_once() -> None:
    crowd = Crowd(FEW + 5)
    crowd.all_report()
    crowd.report(crowd.peers[3], MOST_OPEN - 1)
    crowd.report(crowd.peers[5], finished=True)
    crowd.owed.tell()
    assert crowd.told == {crowd.peers[3]: MOST_OPEN, crowd.peers[5]: 2}
    crowd.owed.tell()
    assert len(crowd.told) == 2, "once is enough"


def test_who_is_gone_or_refused_is_told_nothing() -> None:
    crowd = Crowd(FEW + 1)
    crowd.all_report()
    crowd.sessions.end(crowd.peers[0])
    crowd.owed.forget(crowd.peers[1])
    crowd.owed.tell(all_of_them=True)
    assert set(crowd.told) == set(crowd.peers[2:])


def test_what_was_undone_is_acknowledged_to_nobody() -> None:
    crowd = Crowd(3)
    crowd.all_report()
    crowd.owed.clear()
    crowd.owed.tell(all_of_them=True)
    assert crowd.told == {}
