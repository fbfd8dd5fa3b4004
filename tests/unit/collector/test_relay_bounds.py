"""What one agent may have a relay hold in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import relay as relay_module
from collector.gate import Gate
from collector.health import Health
from collector.relay import Relay
from probe_wire import Column, Hello, Quantity, Run, Schema, encode


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    gate = Gate(f"ipc://{tmp_path}/inlet", None, Health())
    relay = Relay(gate, "tcp://127.0.0.1:9", None, tmp_path / "spool")
    yield relay
    for stream in relay._streams.values():
        stream.ledger.close()
    gate.close()


def schema(number: int, words: int = 1000) -> bytes:
    return encode(Schema(number, (Quantity("loss", "1", "x" * words, "Loss"),), (Column("loss"),)))


def greet(relay: Relay, agent: bytes) -> None:
    relay._take(agent, encode(Hello(Run("run-1", "run", "host", 1, 0.0), 0, agent.decode(), 1)))


def held(relay: Relay) -> list[int]:
    return [len(stream.schemas) for stream in relay._streams.values()]


def test_the_schemas_of_a_stream_are_bounded_and_those_of_others_are_not_touched(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "STREAM_SCHEMA_BYTES", 5000)
    greet(relay, b"honest")
    greet(relay, b"flood")
    relay._take(b"honest", schema(1))
    for number in range(1000):
        relay._take(b"flood", schema(number))
    assert held(relay) == [1, 4]
    greet(relay, b"flood")
    for _ in range(1000):
        relay._take(b"flood", schema(1))  # the same again costs nothing more
    assert held(relay) == [1, 1]
    assert b"flood" in relay._agents


def test_the_schemas_of_all_streams_are_bounded_together(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "ALL_SCHEMA_BYTES", 5000)
    for i in range(8):
        greet(relay, b"agent-%d" % i)
        relay._take(b"agent-%d" % i, schema(1))
    assert sum(held(relay)) == 4
