"""The outbox against a real ROUTER socket: numbered, resent, bounded, and never in training's way."""

import logging
import math
import os
import random
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from collector.keys import Keys
from probe_agent.complaints import Complaints
from probe_agent.draft import Draft
from probe_agent.outbox import QUEUE, ZmqOutbox
from probe_agent.stream import SCHEMAS, Stream
from probe_post.courier import Courier
from probe_post.ledger import Ledger
from probe_post.line import Line, Reach
from probe_post.spool import Message
from probe_wire import (
    Ack,
    Advice,
    Column,
    Estimate,
    Goodbye,
    Hello,
    Nack,
    Quantity,
    Report,
    Run,
    Schema,
    Tighten,
    ToAgent,
    ToCollector,
    decode_for_collector,
    encode,
    unpack,
)
from tests import warm
from tests.inlets import Setup

RUN = Run("run-1", "test", "host", 1, 0.0)
LOSS = Quantity("probe_loss", "1", "Loss.", "Loss")
SOON = 2.0 + 1.0
"""Two seconds are promised; one more is for a machine that is busy."""


def draft(step: int, quantity: Quantity = LOSS) -> Draft:
    return Draft(step, 0.0, [(quantity, Column(quantity.name), Estimate(float(step), 0.1))])


class Peer:
    """The collector's end of the socket, driven by hand."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str = "tcp://127.0.0.1:*") -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        for _ in range(500):  # libzmq lets go of an address a moment after its socket was closed
            with suppress(zmq.ZMQError):
                self.socket.bind(address)
                break
            time.sleep(0.01)
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.identity = b""

    def receive(self, seconds: float = 5.0) -> ToCollector:
        assert self.socket.poll(int(seconds * 1000)), f"nothing arrived within {seconds} s"
        self.identity, data = self.socket.recv_multipart()
        return decode_for_collector(data)

    def receive_until(self, wanted: Callable[[ToCollector], bool], seconds: float = 30.0) -> ToCollector:
        """The first message that is wanted: one who is not answered greets again and again."""
        until = time.monotonic() + seconds
        while not wanted(message := self.receive()):
            assert time.monotonic() < until, f"not what was waited for within {seconds} s, the last being {message}"
        return message

    def receive_numbered(self, count: int) -> list[int]:
        found = (self.receive_until(lambda message: isinstance(message, Report | Goodbye)) for _ in range(count))
        return [message.seq for message in found if isinstance(message, Report | Goodbye)]

    def answer(self, message: ToAgent) -> None:
        self.socket.send_multipart([self.identity, encode(message)])


@pytest.fixture
def peer() -> Iterator[Peer]:
    with zmq.Context() as context:
        peer = Peer(context)
        yield peer
        peer.socket.close(linger=0)


def open_outbox(address: str, **kwargs: Any) -> ZmqOutbox:
    return ZmqOutbox(address, RUN, 0, lambda: 42, **kwargs)


def courier_of(*messages: Message) -> tuple[Courier, Ledger]:
    """A courier whose messages cannot leave."""
    complain = Complaints()
    ledger = Ledger(100, complain)
    for message in messages:
        ledger.append(message)
    return Courier(lambda _: False, Stream(RUN, 0, lambda: 0, tightens=False).hello, ledger, complain), ledger


def test_a_stream_is_greeting_schema_numbered_reports_and_goodbye(peer: Peer) -> None:
    outbox = open_outbox(peer.address)
    outbox.put(draft(1))
    hello = peer.receive()
    assert isinstance(hello, Hello)
    assert (hello.run, hello.first, hello.step) == (RUN, 1, 42)
    peer.answer(Ack(0))
    schema = peer.receive()
    assert isinstance(schema, Schema)
    assert schema.columns == (Column("probe_loss"),)
    first = peer.receive()
    assert isinstance(first, Report)
    assert (first.seq, first.step, first.schema) == (1, 1, schema.id)
    outbox.put(draft(2))
    second = peer.receive()
    assert isinstance(second, Report)
    assert (second.seq, second.step) == (2, 2), "a schema is sent once"
    peer.answer(Ack(2))
    outbox.abandon()
    goodbye = peer.receive()
    assert isinstance(goodbye, Goodbye)
    assert goodbye.seq == 3
    peer.answer(Ack(3))


def test_what_was_not_acknowledged_is_sent_again_after_a_nack(peer: Peer) -> None:
    outbox = open_outbox(peer.address)
    for step in range(1, 4):
        outbox.put(draft(step))
    peer.receive()
    peer.answer(Ack(0))
    assert peer.receive_numbered(3) == [1, 2, 3]
    peer.answer(Nack("unknown_stream", 0))
    hello = peer.receive()
    assert isinstance(hello, Hello)
    peer.answer(Ack(1))
    assert isinstance(peer.receive(), Schema), "schemas are sent again after every greeting"
    assert peer.receive_numbered(2) == [2, 3]
    outbox.abandon()


def test_silence_makes_the_agent_greet_again(peer: Peer) -> None:
    outbox = open_outbox(peer.address)
    outbox.put(draft(1))
    peer.receive()
    peer.answer(Ack(0))
    assert peer.receive_numbered(1) == [1]
    began = time.monotonic()
    assert isinstance(peer.receive(10), Hello)
    assert time.monotonic() - began > 1.0
    outbox.abandon()


def test_whoever_answers_on_a_new_connection_is_greeted_before_anything_else(peer: Peer) -> None:
    outbox = open_outbox(peer.address)
    outbox.put(draft(1))
    peer.receive()
    peer.answer(Ack(0))
    assert peer.receive_numbered(1) == [1]
    peer.answer(Ack(1))
    for step in range(2, 5):
        outbox.put(draft(step))
    assert peer.receive_numbered(3) == [2, 3, 4]
    peer.socket.close(linger=0)
    again = Peer(peer.socket.context, peer.address)
    for step in range(5, 8):
        outbox.put(draft(step))
    assert isinstance(again.receive(), Hello), "not reports that nobody there could place"
    again.answer(Ack(1))
    assert again.receive_numbered(6) == [2, 3, 4, 5, 6, 7]
    again.socket.close(linger=0)
    outbox.abandon()


def test_without_a_disk_the_oldest_reports_beyond_its_capacity_go_and_are_counted(
    peer: Peer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEWATCH_SPOOL", "off")
    outbox = open_outbox(peer.address, capacity=10)
    for step in range(25):
        outbox.put(draft(step))
    peer.receive_until(lambda message: isinstance(message, Hello) and message.first == 16)
    peer.answer(Ack(15))
    assert peer.receive_numbered(10) == list(range(16, 26))
    peer.answer(Ack(25))
    outbox.put(draft(99))
    message = peer.receive_until(lambda message: isinstance(message, Report) and message.seq > 25)
    assert isinstance(message, Report)
    assert message.losses.reports_dropped == 15
    assert "are given up, the oldest first, and counted" in caplog.text
    outbox.abandon()


def test_a_message_that_is_refused_again_and_again_is_given_up_and_counted() -> None:
    courier, ledger = courier_of(Message(1, None, b"poison"), Message(2, None, b"good"))
    for _ in range(3):
        courier.take_nack(Nack("bad_message", 0, "no"))
    assert (len(ledger), ledger.lost, ledger.first) == (1, 1, 2)


def test_refusals_of_different_messages_do_not_add_up() -> None:
    courier, ledger = courier_of(Message(1, None, b"a"), Message(2, None, b"b"))
    for _ in range(2):
        courier.take_nack(Nack("bad_message", 0, "no"))
    courier.take_ack(1)
    for _ in range(2):
        courier.take_nack(Nack("bad_message", 1, "no"))
    assert (len(ledger), ledger.lost) == (1, 0)


def test_a_report_too_large_to_travel_is_dropped_counted_and_named(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(peer.address)
    peer.receive()
    peer.answer(Ack(0))
    outbox.put(
        Draft(5, 0.0, [(LOSS, Column("probe_loss", {"layer": f"{i}" * 20}), Estimate(1.0)) for i in range(20_000)])
    )
    outbox.put(draft(6))
    assert isinstance(peer.receive(), Schema)
    report = peer.receive()
    assert isinstance(report, Report)
    assert (report.seq, report.step, report.losses.reports_dropped) == (1, 6, 1)
    assert "a report of step 5 cannot be sent and is dropped" in caplog.text
    outbox.abandon()


def test_advice_reaches_the_training_thread(peer: Peer) -> None:
    outbox = open_outbox(peer.address)
    peer.receive()
    peer.answer(Ack(0))
    advice = Advice("critical_period", "a", "b", 5, 9, 0.99, "warning", "do", "because")
    peer.answer(advice)
    deadline = time.monotonic() + 5
    taken: list[Advice] = []
    while not taken and time.monotonic() < deadline:
        taken = outbox.advice()
        time.sleep(0.01)
    assert taken == [advice]
    outbox.abandon()


def test_wishes_go_to_who_asked_for_them_and_the_greeting_says_that_somebody_did(peer: Peer) -> None:
    wishes: deque[Tighten] = deque()
    outbox = open_outbox(peer.address, wish=wishes.append)
    hello = peer.receive()
    assert isinstance(hello, Hello)
    assert hello.tightens
    peer.answer(Tighten("probe_loss", 500))
    deadline = time.monotonic() + 5
    while not wishes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(wishes) == [Tighten("probe_loss", 500)]
    outbox.abandon()


def test_who_wants_no_wishes_says_so_and_what_is_sent_all_the_same_goes_nowhere(peer: Peer) -> None:
    outbox = open_outbox(peer.address)
    hello = peer.receive()
    assert isinstance(hello, Hello)
    assert not hello.tightens
    peer.answer(Tighten("probe_loss", 500))
    peer.answer(Ack(0))
    outbox.put(draft(1))
    assert isinstance(peer.receive(), Schema)
    assert outbox.advice() == []
    outbox.abandon()


def test_a_message_that_only_a_newer_release_knows_is_ignored(peer: Peer) -> None:
    outbox = open_outbox(peer.address)
    peer.receive()
    peer.socket.send_multipart([peer.identity, b"\x01" + msgspec.msgpack.encode([99, "what a later release says"])])
    peer.answer(Ack(0))
    outbox.put(draft(1))
    assert peer.receive_numbered(1) == [1]
    outbox.abandon()


def test_putting_costs_microseconds_and_never_raises_while_nobody_listens() -> None:
    outbox = open_outbox("tcp://127.0.0.1:9")
    for step in range(5000):
        outbox.put(draft(step))
        assert len(outbox._queue) <= QUEUE
    deadline = time.monotonic() + 10
    while outbox._ledger.last + outbox.dropped < 5000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert outbox._ledger.last + outbox.dropped == 5000, "each is on disk or counted"
    outbox.abandon()


def test_close_is_bounded_when_nobody_listens_and_says_where_the_reports_wait(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.WARNING)
    outbox = open_outbox("tcp://127.0.0.1:9")
    outbox.put(draft(1))
    began = time.monotonic()
    outbox.close("finished")
    assert time.monotonic() - began < SOON
    assert not outbox._thread.is_alive()
    assert "the collector at tcp://127.0.0.1:9 has not acknowledged 2 messages" in caplog.text
    assert "No connection came about: nobody listens there." in caplog.text
    assert f"They wait in {tmp_path / 'spool'}" in caplog.text


STRANGERS = {
    "no key": (True, None, "hung up: it asks for a key and none was given (PHASEWATCH_KEY), or is no collector"),
    "unlisted key": (True, "here", "The collector does not let in the key that was given (PHASEWATCH_KEY)"),
    "another collector's key": (True, "there", "hung up: it asks for another key or none (PHASEWATCH_KEY)"),
    "key for nothing": (False, "here", "hung up: it asks for another key or none (PHASEWATCH_KEY)"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_close_says_why_a_collector_that_is_there_does_not_answer(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, case: str
) -> None:
    guarded, whose, words = STRANGERS[case]
    keys = Keys(tmp_path / "keys")
    key = keys.create("former")
    keys.revoke("former")
    if whose == "there":
        key = Keys(tmp_path / "elsewhere").create("stranger")
    setup = Setup(tmp_path, keys if guarded else None)
    outbox = open_outbox(setup.gate.address, key=key if whose else None)
    outbox.put(draft(1))
    until = time.monotonic() + 10
    while outbox._line.reach in (Reach.NOBODY, Reach.CONNECTED):
        assert time.monotonic() < until, "nothing became of the connection"
        time.sleep(0.01)
    outbox.close("finished")
    setup.close()
    assert words in caplog.text


def test_close_says_what_is_lost_where_no_disk_keeps_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEWATCH_SPOOL", "off")
    caplog.set_level(logging.WARNING)
    outbox = open_outbox("tcp://127.0.0.1:9")
    outbox.put(draft(1))
    began = time.monotonic()
    outbox.close("finished")
    assert time.monotonic() - began < SOON
    assert not outbox._thread.is_alive()
    assert "2 messages were not acknowledged by the collector at tcp://127.0.0.1:9 and are lost" in caplog.text


def test_close_is_bounded_when_the_collector_stops_answering(peer: Peer) -> None:
    outbox = open_outbox(peer.address)
    outbox.put(draft(1))
    peer.receive()
    peer.answer(Ack(0))
    peer.receive_numbered(1)
    began = time.monotonic()
    outbox.close("finished")
    assert time.monotonic() - began < SOON
    assert not outbox._thread.is_alive()


SCRIPT = """
import os, sys, time
from probe_agent.outbox import QUEUE, ZmqOutbox
from probe_agent.draft import Draft
from probe_wire import Column, Estimate, Quantity, Run
outbox = ZmqOutbox("tcp://127.0.0.1:9", Run("r", "n", "h", 1, 0.0), 0, lambda: 0)
q = Quantity("probe_loss", "1", "h", "t")
outbox.put(Draft(1, 0.0, [(q, Column("probe_loss"), Estimate(1.0))]))
"""


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "raise SystemExit(0)",
        "os._exit(0)",
        "import multiprocessing as m\nc = m.get_context('fork')\np = c.Process(target=outbox.close, args=('x',))\np.start(); p.join(5); assert p.exitcode == 0",
        "pid = os.fork()\nif pid == 0:\n    outbox.put(None); outbox.close('child'); sys.exit(0)\nassert os.waitpid(pid, 0)[1] == 0",
    ],
    ids=["falls off the end", "SystemExit", "os._exit", "multiprocessing fork", "os.fork"],
)
def test_the_interpreter_ends_promptly_with_its_own_status(ending: str) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [*warm.command(warm.AGENT), "-c", SCRIPT + ending],
        timeout=30,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (
        time.monotonic() - began < 20
    )  # the start of an interpreter with torch on a busy machine, plus our two seconds


def test_the_socket_options_that_keep_training_safe_are_set() -> None:
    with zmq.Context() as context:
        line = Line("tcp://127.0.0.1:9")
        line.connect(context)
        wanted = {
            zmq.LINGER: 0,
            zmq.IMMEDIATE: 1,
            zmq.SNDHWM: 512,
            zmq.RCVHWM: 512,
            zmq.MAXMSGSIZE: 64 * 1024,
            zmq.RECONNECT_IVL: 100,
            zmq.RECONNECT_IVL_MAX: 5000,
            zmq.HEARTBEAT_IVL: 5000,
            zmq.HEARTBEAT_TIMEOUT: 15_000,
            zmq.HEARTBEAT_TTL: 15_000,
            zmq.HANDSHAKE_IVL: 30_000,
        }
        assert {option: line.socket.getsockopt(option) for option in wanted} == wanted
        line.disconnect()


def test_a_probe_that_names_new_series_at_every_step_does_not_fill_the_memory() -> None:
    stream = Stream(RUN, 0, lambda: 0, tightens=False)
    numbers = set()
    for step in range(300):
        labelled = [(LOSS, Column("probe_loss", {"layer": str(step)}), Estimate(1.0))]
        message = stream.report(Draft(step, 0.0, labelled), step + 1, 0)
        assert message.schema is not None
        numbers.add(message.schema[0])
    assert len(stream._schemas) <= SCHEMAS
    assert len(numbers) == 300, "no number stands for two sets of columns"


def test_standard_errors_travel_to_one_part_in_eight_thousand_and_values_to_the_last_bit() -> None:
    stream = Stream(RUN, 0, lambda: 0, tightens=False)
    noise = random.Random(0)
    given = [Estimate(noise.gauss(0, 1), 10 ** noise.uniform(-300, 300), noise.random()) for _ in range(500)]
    given += [Estimate(1.0, error, error) for error in (0.0, math.inf, math.nan, 5e-324, 1.5)]
    columns = [(LOSS, Column("probe_loss", {"i": str(i)}), estimate) for i, estimate in enumerate(given)]
    message = stream.report(Draft(1, 0.0, columns), 1, 0)
    assert message.schema is not None
    report, schema = decode_for_collector(message.data), decode_for_collector(message.schema[1])
    assert isinstance(report, Report)
    assert isinstance(schema, Schema)
    sent = unpack(report, schema)
    assert [estimate.value for estimate in sent] == [estimate.value for estimate in given]
    for was, now in zip(given[:500], sent[:500], strict=True):
        assert math.isclose(now.stderr, was.stderr, rel_tol=2**-13)
        assert math.isclose(now.paired, was.paired, rel_tol=2**-13)
    assert [repr(estimate.stderr) for estimate in sent[500:]] == ["0.0", "inf", "nan", "0.0", "1.5"]
