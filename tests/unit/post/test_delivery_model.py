"""The protocol as a state machine: any order of reports, deaths, cuts, refusals and full disks, on a simulated network and clock.

The agent's side is the real one (Courier, Ledger, Spool on a real folder whose writes can be made to fail); the collector is a model
of forty lines that commits, forgets what it had not committed, and falls back to an old backup. What must hold is counted from what
the model has kept, never from anybody's counters.
"""

import os
import shutil
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from probe_post import spools
from probe_post.courier import Courier
from probe_post.ledger import Ledger
from probe_post.spool import Message, Spool
from probe_wire import Ack, Hello, Nack, Report, Run, Schema, decode_for_collector, encode

RUN = Run("run-1", "model", "host", 1, 0.0)
COLLECTOR = "tcp://127.0.0.1:1"


def report(seq: int) -> Message:
    """A report whose step tells it from every other, against one of three schemas."""
    schema = 1 + seq % 3
    data = encode(Report(seq, 1000 + seq, 0.0, schema, b"", b"", b"", b"", b""))
    return Message(seq, (schema, encode(Schema(schema, (), ()))), data)


class Wire:
    """A connection of the simulated network, from the agent's end. In order, until it is cut; then nothing arrives."""

    def __init__(self) -> None:
        self.up = True
        self.to_collector: deque[bytes] = deque()
        self.to_agent: deque[bytes] = deque()

    def put(self, data: bytes) -> bool:
        if not self.up or len(self.to_collector) >= 600:
            return False
        self.to_collector.append(data)
        return True


class Collector:
    """What the collector promises: it takes the next number only, acknowledges what it has committed, and counts holes as lost."""

    def __init__(self) -> None:
        self.kept: dict[int, int] = {}  # number → step
        self.lost: set[int] = set()
        self.high = 0
        self.backup: tuple[dict[int, int], set[int], int] = ({}, set(), 0)
        self.uncommitted: list[tuple[int, int]] = []
        self.session: set[int] | None = None  # the schemas it was sent since the greeting; None without one
        self.due = False

    def hear(self, wire: Wire, data: bytes) -> None:
        message = decode_for_collector(data)
        high = self.high + len(self.uncommitted)
        if isinstance(message, Hello):
            self.commit(wire)
            if message.first > self.high + 1:
                self.lost |= set(range(self.high + 1, message.first))
                self.high = message.first - 1
            self.session = set() if self.session is None else self.session
            self.due = True
        elif self.session is None:
            self.refuse(wire, "unknown_stream")
        elif isinstance(message, Schema):
            self.session.add(message.id)
        elif isinstance(message, Report) and message.seq <= high:
            self.due = True
        elif isinstance(message, Report) and message.seq > high + 1:
            self.refuse(wire, "gap")
        elif isinstance(message, Report) and message.schema not in self.session:
            self.refuse(wire, "unknown_schema")
        elif isinstance(message, Report):
            self.uncommitted.append((message.seq, message.step))
            self.due = True

    def refuse(self, wire: Wire, reason: str) -> None:
        wire.to_agent.append(encode(Nack(reason, self.high)))  # type: ignore[arg-type]
        self.session = None

    def commit(self, wire: Wire) -> None:
        for seq, step in self.uncommitted:
            assert seq not in self.kept, f"number {seq} was kept twice"
            self.kept[seq] = step
            self.high = seq
        self.uncommitted.clear()
        if self.due and self.session is not None:
            wire.to_agent.append(encode(Ack(self.high)))
        self.due = False

    def die(self) -> None:
        self.uncommitted.clear()
        self.session, self.due = None, False


class Delivery(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.now = 1000.0
        self.disk = "takes all"
        self.write = os.write
        self.patches = [
            mock.patch.object(time, "monotonic", side_effect=lambda: self.now),
            mock.patch.object(os, "write", self.write_or_not),
            mock.patch("probe_post.spool.SEGMENT_BYTES", 2000),
        ]
        for patch in self.patches:
            patch.start()
        self.collector = Collector()
        self.last = 0
        self.may_lose = False
        self.hello = Hello(RUN, 0, "epoch", 1)
        self.take_up(spools.create(Path(self.folder.name) / "root", COLLECTOR, self.hello, encode(self.hello)))

    def take_up(self, spool: Spool) -> None:
        self.spool = spool
        self.ledger = Ledger(50, lambda *_: None)
        self.ledger.use(spool)
        self.wire = Wire()
        self.courier = Courier(self.wire.put, lambda first: Hello(RUN, 0, "epoch", first), self.ledger, lambda *_: None)
        self.last = self.ledger.last

    def write_or_not(self, descriptor: int, data: bytes) -> int:
        if self.disk == "takes nothing":
            raise OSError(28, "No space left on device")
        return self.write(descriptor, data[: len(data) // 2] if self.disk == "takes half" else data)

    def turn(self) -> None:
        self.courier.send()
        while self.wire.to_agent:
            self.courier.hear(self.wire.to_agent.popleft())

    # -- what happens -----------------------------------------------------------------------------

    @rule(count=st.integers(1, 30))
    def training_reports(self, count: int) -> None:
        for _ in range(count):
            self.last += 1
            self.ledger.append(report(self.last))
        if self.ledger.in_memory >= 50:
            self.may_lose = True  # the cap on what memory holds

    @rule()
    def the_agents_thread_goes_round(self) -> None:
        self.turn()

    @rule(count=st.integers(1, 50))
    def the_network_delivers(self, count: int) -> None:
        for _ in range(min(count, len(self.wire.to_collector))):
            self.collector.hear(self.wire, self.wire.to_collector.popleft())

    @rule()
    def the_collector_commits(self) -> None:
        self.collector.commit(self.wire)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def the_connection_is_cut_and_made_again(self) -> None:
        self.wire.to_collector.clear()
        self.wire.to_agent.clear()
        self.collector.session = None  # a new connection is a new identity

    @rule()
    def the_peer_is_not_there(self) -> None:
        self.wire.up = not self.wire.up

    @rule()
    def the_collector_is_killed(self) -> None:
        self.collector.die()
        self.the_connection_is_cut_and_made_again()

    @rule()
    def a_commit_fails(self) -> None:
        self.collector.die()
        self.wire.to_agent.append(encode(Nack("store", 0)))

    @rule()
    def a_backup_is_made(self) -> None:
        self.collector.backup = (dict(self.collector.kept), set(self.collector.lost), self.collector.high)

    @precondition(lambda self: self.collector.high > self.collector.backup[2])
    @rule()
    def the_old_backup_is_put_back(self) -> None:
        self.the_collector_is_killed()
        kept, lost, self.collector.high = self.collector.backup
        self.collector.kept, self.collector.lost = dict(kept), set(lost)
        self.may_lose = True

    @rule(disk=st.sampled_from(["takes all", "takes nothing", "takes half"]))
    def the_disk(self, disk: str) -> None:
        self.disk = disk

    @rule()
    def the_job_is_killed_and_its_spool_adopted(self) -> None:
        self.may_lose |= self.ledger.in_memory > 0
        self.spool.forsake()
        self.the_connection_is_cut_and_made_again()
        adopted = Spool.adopt(self.spool.folder)
        if adopted is None:  # nothing was ever written, or nobody knows any more whose it was: another stream begins
            shutil.rmtree(self.spool.folder, ignore_errors=True)
            self.collector = Collector()
            adopted = spools.create(Path(self.folder.name) / "root", COLLECTOR, self.hello, encode(self.hello))
        self.take_up(adopted)
        if (
            self.last < self.collector.high
        ):  # sent from memory alone: whoever adopts would go on after what is committed
            self.last = self.ledger.last = self.collector.high

    @rule(bit=st.integers(0, 10**6))
    def a_bit_on_the_disk_flips(self, bit: int) -> None:
        segments = sorted(self.spool.folder.glob("*.segment"))
        data = bytearray(segments[0].read_bytes()) if segments else bytearray()
        if len(segments) > 1 and data:
            data[bit // 8 % len(data)] ^= 1 << bit % 8
            segments[0].write_bytes(data)
            self.may_lose = True

    # -- what must hold ---------------------------------------------------------------------------

    @invariant()
    def what_is_kept_is_what_was_reported_once_and_in_its_place(self) -> None:
        if hasattr(self, "collector"):
            assert all(step == 1000 + seq for seq, step in self.collector.kept.items())
            assert not self.collector.lost & self.collector.kept.keys()
            assert self.collector.kept.keys() | self.collector.lost == set(range(1, self.collector.high + 1))

    def teardown(self) -> None:
        if not hasattr(self, "collector"):
            return
        try:
            self.disk, self.wire.up = "takes all", True
            for _ in range(400):
                self.now += 0.7
                self.turn()
                while self.wire.to_collector:
                    self.collector.hear(self.wire, self.wire.to_collector.popleft())
                self.collector.commit(self.wire)
                self.turn()
                if not len(self.ledger):
                    break
            assert not len(self.ledger), f"{len(self.ledger)} messages never arrive"
            self.what_is_kept_is_what_was_reported_once_and_in_its_place()
            if not self.may_lose:
                assert Counter(self.collector.kept.keys()) == Counter(range(1, self.last + 1))
                assert self.ledger.lost == 0
            self.ledger.close()
            assert not self.spool.folder.exists(), "a spool of which all is committed is gone"
        finally:
            for patch in self.patches:
                patch.stop()
            self.folder.cleanup()


Delivery.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
test_whatever_happens_every_report_is_kept_once_or_counted_as_lost = Delivery.TestCase
