"""The wire: what travels arrives, what breaks the schema is refused, and released bytes read for ever."""

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import probe_wire as wire
from probe_wire.messages import MAX_COLUMNS

GOLDEN = Path(__file__).parents[2] / "wire" / "golden" / "v1"

RUN = wire.Run("run-1", "digits", "host", 42, 1_700_000_000.0, {"dataset": "digits"}, "abc", "0.1.0", 1)
QUANTITIES = (
    wire.Quantity("fisher_trace", "1", "Trace of the Fisher information.", "Fisher trace", "log"),
    wire.Quantity("probe_accuracy", "ratio", "Accuracy on the probe set.", "Accuracy"),
)
COLUMNS = (
    wire.Column("fisher_trace", {}, {"labels": "exact"}),
    wire.Column("fisher_trace", {"layer": "0"}),
    wire.Column("probe_accuracy"),
)
ESTIMATES = [
    wire.Estimate(12.5, 0.25, 0.125, 256, wire.Outcome.OK),
    wire.Estimate(math.nan, math.nan, math.nan, 0, wire.Outcome.FAILED),
    wire.Estimate(0.5, 0.03, math.nan, 256, wire.Outcome.OK),
]
MESSAGES: dict[str, wire.ToCollector | wire.ToAgent] = {
    "hello": wire.Hello(RUN, 0, "epoch-1", 1, 7, True, 1_700_000_000.5, 12, True),
    "schema": wire.Schema(1, QUANTITIES, COLUMNS),
    "report": wire.Report(
        1,
        7,
        1_700_000_001.5,
        1,
        *wire.pack(ESTIMATES),
        (wire.ProbeCost("fisher_trace", 0.01, 5, "why", 4096, apart=True),),
        3.0,
        0.5,
        wire.Losses(1, 2, 3),
    ),
    "goodbye": wire.Goodbye(2, 9, 1_700_000_002.0, "finished", wire.Losses(1, 2, 3)),
    "ack": wire.Ack(2),
    "nack": wire.Nack("gap", 1, "Got number 5; need 2 next."),
    "advice": wire.Advice("critical_period", "a", "b", 5, 9, 0.99, "warning", "do", "because", "undo"),
    "tighten": wire.Tighten("fisher_trace", 500, 8, 60.0, "it may have passed its peak"),
}
TO_AGENT = ("ack", "nack", "advice", "tighten")


def _decode(name: str, data: bytes) -> wire.ToCollector | wire.ToAgent:
    return wire.decode_for_agent(data) if name in TO_AGENT else wire.decode_for_collector(data)


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_arrives_as_it_was_sent(name: str) -> None:
    assert _decode(name, wire.encode(MESSAGES[name])) == MESSAGES[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_the_bytes_of_version_1_are_what_they_always_were(name: str) -> None:
    golden = (GOLDEN / f"{name}.msgpack").read_bytes()
    assert wire.encode(MESSAGES[name]) == golden
    assert _decode(name, golden) == MESSAGES[name]


def test_a_report_from_before_costs_had_memory_is_read_for_ever() -> None:
    found = _decode("report", (GOLDEN / "report_without_memory.msgpack").read_bytes())
    costs = (wire.ProbeCost("fisher_trace", 0.01, 5, "why"),)
    assert found == msgspec.structs.replace(MESSAGES["report"], costs=costs)


def test_a_greeting_from_before_agents_could_tighten_is_read_for_ever_and_says_that_they_cannot() -> None:
    found = _decode("hello", (GOLDEN / "hello_without_tightens.msgpack").read_bytes())
    assert found == msgspec.structs.replace(MESSAGES["hello"], tightens=False, time=0.0, waiting=0, ended=False)


def test_a_greeting_from_before_agents_told_the_time_is_read_for_ever() -> None:
    found = _decode("hello", (GOLDEN / "hello_without_time.msgpack").read_bytes())
    assert found == msgspec.structs.replace(MESSAGES["hello"], time=0.0, waiting=0, ended=False)


def test_a_greeting_from_before_what_is_left_was_told_from_what_lives_is_read_for_ever() -> None:
    found = _decode("hello", (GOLDEN / "hello_without_ended.msgpack").read_bytes())
    assert found == msgspec.structs.replace(MESSAGES["hello"], ended=False)


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        (wire.Tighten("fisher_trace", 500, times=17), "`int` <= 16"),
        (wire.Tighten("fisher_trace", 500, times=1), "`int` >= 2"),
        (wire.Tighten("fisher_trace", 500, seconds=1e9), "`float` <= 86400"),
        (wire.Tighten("fisher_trace", 500, seconds=math.nan), "`float`"),
        (wire.Tighten("fisher_trace", -1), "`int` >= 0"),
    ],
)
def test_a_wish_beyond_its_bounds_is_refused(wish: wire.Tighten, what: str) -> None:
    with pytest.raises(wire.BadMessage, match="breaks its schema") as refusal:
        wire.decode_for_agent(wire.encode(wish))
    assert what in str(refusal.value)


@pytest.mark.parametrize("moment", [math.nan, math.inf, -1e12, 1e300])
def test_a_time_that_is_none_is_refused(moment: float) -> None:
    for hello in (
        wire.Hello(msgspec.structs.replace(RUN, started_at=moment), 0, "epoch-1", 1),
        wire.Hello(RUN, 0, "epoch-1", 1, time=moment),
    ):
        with pytest.raises(wire.BadMessage, match="`float`"):
            wire.decode_for_collector(wire.encode(hello))


def test_estimates_survive_the_columns_with_their_nans_and_outcomes() -> None:
    report = MESSAGES["report"]
    schema = MESSAGES["schema"]
    assert isinstance(report, wire.Report)
    assert isinstance(schema, wire.Schema)
    unpacked = wire.unpack(report, schema)
    assert repr(unpacked) == repr(ESTIMATES)
    assert repr([wire.unpack_one(report, position) for position in range(len(ESTIMATES))]) == repr(ESTIMATES)


def test_a_report_of_the_wrong_length_is_refused_with_both_lengths() -> None:
    report = msgspec.structs.replace(MESSAGES["report"], values=b"12345678")
    with pytest.raises(wire.BadMessage, match=r"columns are \(8, 24, 24, 12, 3\) bytes long; schema 1 names 3 columns"):
        wire.unpack(report, MESSAGES["schema"])


def test_another_version_is_refused_by_number() -> None:
    with pytest.raises(wire.UnknownVersion, match=r"protocol 9; this side speaks 1\. Install the same release"):
        wire.decode_for_collector(b"\x09" + wire.encode(MESSAGES["hello"])[1:])
    with pytest.raises(wire.UnknownVersion, match="an empty message"):
        wire.decode_for_collector(b"")


def test_a_message_too_large_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(wire.MessageTooLarge, match="1,200,000 bytes; the limit is 1,048,576"):
        wire.decode_for_collector(b"\x01" * 1_200_000)


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (wire.Hello(msgspec.structs.replace(RUN, id="no spaces"), 0, "e", 1), "matching regex"),
        (wire.Hello(msgspec.structs.replace(RUN, name="x" * 201), 0, "e", 1), "length <= 200"),
        (wire.Hello(RUN, -1, "e", 1), "`int` >= 0"),
        (wire.Hello(RUN, 0, "e", 0), "`int` >= 1"),
        (wire.Schema(1, (), (wire.Column("Not_lower"),)), "matching regex"),
        (wire.Schema(1, (), (wire.Column("a_line_break\n"),)), "matching regex"),
    ],
)
def test_a_message_out_of_bounds_is_refused_with_the_place(message: wire.ToCollector, what: str) -> None:
    with pytest.raises(wire.BadMessage, match="breaks its schema") as refusal:
        wire.decode_for_collector(wire.encode(message))
    assert what in str(refusal.value)


def test_a_schema_that_every_rank_sends_is_decoded_once_and_shared_unless_it_is_large() -> None:
    small, large = (wire.Schema(1, (), tuple(COLUMNS[:1] * n)) for n in (3, MAX_COLUMNS))
    heard = [[wire.decode_for_collector(wire.encode(schema)) for _ in range(2)] for schema in (small, large)]
    assert heard == [[small, small], [large, large]]
    assert heard[0][0] is heard[0][1]
    assert heard[1][0] is not heard[1][1]  # a stranger could send many of them


def test_an_outcome_of_a_newer_release_reads_as_failed() -> None:
    assert wire.Outcome(200) is wire.Outcome.FAILED


def test_every_outcome_has_a_sentence() -> None:
    assert all(outcome.sentence.endswith(".") for outcome in wire.Outcome)


def test_a_field_appended_by_a_newer_release_is_ignored() -> None:
    longer = msgspec.msgpack.encode([16, 5, "a field of the future"])
    assert wire.decode_for_agent(b"\x01" + longer) == wire.Ack(5)


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from([m for n, m in MESSAGES.items() if n not in TO_AGENT]), st.data())
def test_a_mutated_message_is_decoded_or_refused_but_never_crashes(
    message: wire.ToCollector, data: st.DataObject
) -> None:
    mutant = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(1, len(mutant) - 1))
        mutant[place] = data.draw(st.integers(0, 255))
    try:
        decoded = wire.decode_for_collector(bytes(mutant))
        if isinstance(decoded, wire.Report):
            wire.unpack(decoded, MESSAGES["schema"])
    except wire.WireError:
        pass


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_never_crash_the_decoder(noise: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_for_collector(b"\x01\xff" + noise)
