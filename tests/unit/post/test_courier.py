"""Courier: how long it waits for an answer before it sends everything again."""

from types import SimpleNamespace

import pytest

from probe_post import courier as courier_module
from probe_post.courier import MOST_SILENCE_SECONDS, SILENCE_SECONDS, Courier
from probe_post.ledger import Ledger
from probe_post.spool import Message
from probe_wire import Ack, Hello, Report, Run, decode_for_collector, encode

RUN = Run("run-1", "test", "host", 1, 0.0)


class Exchange:
    """A courier, what it sends, and a clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.sent: list[Hello | Report] = []
        self.ledger = Ledger(50, lambda *_: None)
        monkeypatch.setattr(courier_module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.courier = Courier(self._put, lambda first: Hello(RUN, 0, "a", first), self.ledger, lambda *_: None)
        self.courier.send()
        self.courier.take_ack(0)

    def _put(self, data: bytes) -> bool:
        self.sent.append(decode_for_collector(data))  # type: ignore[arg-type]  # nothing else is sent here
        return True

    def report(self, seq: int) -> None:
        self.ledger.append(Message(seq, None, encode(Report(seq, seq, 0.0, 1, b"", b"", b"", b"", b""))))
        self.courier.send()

    def goes_back_after(self) -> int:
        """Seconds of silence until it greets again and sends all again; in between it only says that it lives."""
        began = self.now
        while self.courier.greeted and self.now < began + 1000:
            self.now += 1.0
            self.courier.send()
        return int(self.now - began)


def test_a_missing_answer_is_waited_for_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange(monkeypatch)
    exchange.report(1)
    waited = []
    for _ in range(6):
        waited.append(exchange.goes_back_after())
        exchange.courier.take_ack(0)
        exchange.courier.send()
    assert waited == [
        SILENCE_SECONDS + 1,
        2 * SILENCE_SECONDS + 1,
        4 * SILENCE_SECONDS + 1,
        8 * SILENCE_SECONDS + 1,
        61,
        61,
    ]
    assert MOST_SILENCE_SECONDS == 60


def test_slow_answers_are_waited_for_three_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Exchange(monkeypatch)
    exchange.report(1)
    exchange.now += 3.0
    exchange.courier.hear(encode(Ack(1)))
    exchange.report(2)
    assert exchange.goes_back_after() == 10
    exchange.courier.take_ack(1)
    exchange.courier.send()
    exchange.now += 0.5
    exchange.courier.hear(encode(Ack(2)))
    exchange.report(3)
    assert exchange.goes_back_after() > SILENCE_SECONDS, "what was sent twice does not tell how long answers take"


def test_what_was_lost_is_sent_again_though_the_collector_answers_that_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange = Exchange(monkeypatch)
    exchange.report(1)
    exchange.now += 12.0
    exchange.courier.hear(encode(Ack(1)))  # slow: from now on 36 s are waited for, and it is greeted after 15
    exchange.report(2)
    began = exchange.now
    while exchange.courier.greeted and exchange.now < began + 120:
        exchange.now += 1.0
        exchange.courier.send()
        if isinstance(exchange.sent[-1], Hello) and exchange.courier.greeted:
            exchange.courier.hear(encode(Ack(1)))
    assert exchange.now - began == 37
