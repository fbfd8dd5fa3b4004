"""What a stranger may send: two hundred thousand broken messages, each decoded or refused in our own words."""

import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import probe_wire as wire
from tests.mutants import LENGTHS, mutants

GOLDEN = Path(__file__).parents[2] / "wire" / "golden" / "v1"
SEEDS = [path.read_bytes() for path in sorted(GOLDEN.glob("*.msgpack"))]
REPORT = (GOLDEN / "report.msgpack").read_bytes()
SCHEMA = wire.decode_for_collector((GOLDEN / "schema.msgpack").read_bytes())
EVERY_KIND = {kind.__name__ for kind in (*get_args(wire.ToCollector), *get_args(wire.ToAgent))}


def read_by(decode: Callable[[bytes], wire.ToCollector | wire.ToAgent], data: bytes) -> str:
    """What one side makes of some bytes, by name; whatever is neither a message nor a WireError is a crash."""
    assert isinstance(SCHEMA, wire.Schema)
    try:
        message = decode(data)
        if isinstance(message, wire.Report):
            wire.unpack(message, SCHEMA)
        return type(message).__name__
    except wire.WireError as error:
        return type(error).__name__


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_two_hundred_thousand_mutants_are_decoded_or_refused_and_leave_no_memory_behind() -> None:
    for data in mutants(SEEDS, 5000, seed=1):
        read_by(wire.decode_for_collector, data)
    gc.collect()
    before = resident()
    found: Counter[str] = Counter()
    for data in mutants(SEEDS, 200_000):
        found[read_by(wire.decode_for_collector, data)] += 1
        found[read_by(wire.decode_for_agent, data)] += 1
    gc.collect()
    assert resident() - before < 16 * 2**20
    assert found.total() == 400_000
    assert set(found) - {"MessageTooLarge"} == EVERY_KIND | {"BadMessage", "UnknownVersion"}
    assert sum(found[kind] for kind in EVERY_KIND) > 10_000, "mutants that are still messages of the schema"


def test_no_mutant_says_that_it_is_larger_than_it_is_and_is_believed() -> None:
    tracemalloc.start()
    try:
        for length in LENGTHS:
            for place in (1, 2, 4, len(REPORT) // 2):
                read_by(wire.decode_for_collector, REPORT[:place] + length + REPORT[place:])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\x9f", b"\xdd\x00\x00\x00\x01"])
def test_a_message_nested_a_hundred_thousand_deep_is_refused(opening: bytes) -> None:
    assert read_by(wire.decode_for_collector, b"\x01" + opening * (300_000 // len(opening))) == "BadMessage"
    inside_a_greeting = b"\x01\x96\x01" + opening * (300_000 // len(opening))
    assert read_by(wire.decode_for_collector, inside_a_greeting) == "BadMessage"


@pytest.mark.parametrize("text", [b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_text_that_is_not_utf_8_is_refused_like_any_other_broken_message(text: bytes) -> None:
    goodbye = msgspec.msgpack.encode([4, 1, 1, 0.0, "reason"])
    broken = goodbye.replace(b"\xa6reason", bytes((0xA0 + len(text),)) + text)
    with pytest.raises(wire.BadMessage, match="breaks its schema"):
        wire.decode_for_collector(b"\x01" + broken)


def test_columns_of_no_whole_number_of_entries_are_refused_and_not_rounded() -> None:
    report = wire.decode_for_collector(REPORT)
    assert isinstance(report, wire.Report)
    assert isinstance(SCHEMA, wire.Schema)
    for name in ("values", "stderrs", "paired", "ns", "outcomes"):
        for change in (lambda b: b[:-1], lambda b: b + b"\0", lambda b: b * 2, lambda _: b""):
            broken = msgspec.structs.replace(report, **{name: change(getattr(report, name))})
            with pytest.raises(wire.BadMessage, match="schema 1 names 3 columns"):
                wire.unpack(broken, SCHEMA)


def test_a_refusal_is_short_whatever_the_message_held_since_it_goes_into_the_log() -> None:
    schema = wire.encode(wire.Schema(1, (wire.Quantity("loss", "1", "Help.", "Loss"),), ()))
    long = schema.replace(b"\xa6linear", b"\xdb" + (900_000).to_bytes(4, "big") + b"x" * 900_000)
    with pytest.raises(wire.BadMessage, match="breaks its schema: Invalid enum value 'xxx") as refusal:
        wire.decode_for_collector(long)
    assert len(str(refusal.value)) < 500
