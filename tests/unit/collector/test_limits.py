"""What one job may ask of a collector: beyond it, it is told so, counted, and costs the others nothing."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import bounds
from collector import inlet as inlet_module
from collector.allowance import Allowance
from collector.health import Health
from collector.live import Live, SeriesKey
from collector.pipeline import Pipeline
from collector.refusals import UnknownStream
from collector.store.sqlite import Store
from probe_wire import Ack, Column, Hello, Nack, Quantity, Run, Schema, encode
from tests.inlets import RUN, SCHEMA, Setup, report


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    setup = Setup(tmp_path)
    yield setup
    setup.close()


def run(name: str) -> Run:
    return Run(name, name, "host", 1, 0.0)


@given(st.lists(st.floats(0, 3), max_size=60), st.floats(0.5, 20), st.integers(1, 30))
def test_an_allowance_never_gives_more_than_its_burst_and_rate(waits: list[float], rate: float, burst: int) -> None:
    now, given_out = 0.0, 0
    allowance = Allowance(rate, burst, lambda: now)
    for wait in waits:
        now += wait
        given_out += allowance.take("key")
        assert given_out <= burst + rate * now + 1e-6
    now += (burst + 1) / rate
    assert [allowance.take("key") for _ in range(burst + 1)] == [True] * burst + [False]


def test_one_keys_flood_takes_nothing_from_another() -> None:
    allowance = Allowance(1, 5, lambda: 0.0)
    assert sum(allowance.take("flood") for _ in range(100)) == 5
    assert all(allowance.take("other") for _ in range(5))


def test_reports_beyond_the_rate_are_put_off_and_can_be_sent_again(setup: Setup) -> None:
    allowed = Allowance(0.001, 20)
    setup.inlet._allowances = setup.inlet._allowances._replace(reports=allowed)
    agent = setup.agent()
    agent.open()
    agent.say(*(report(seq) for seq in range(1, 22)))
    told = agent.hear()
    while not isinstance(told, Nack):
        told = agent.hear()
    assert (told.reason, told.seq, "limits.reports_per_second" in told.detail) == ("store", 20, True)
    assert setup.count("rejected_messages", reason="busy") == 1
    allowed._buckets.clear()
    agent.say(Hello(run("run-1"), 0, "a", 21), SCHEMA, report(21))
    agent.hear_ack(21)


def test_a_flood_of_new_schemas_is_put_off_and_known_ones_are_not(setup: Setup) -> None:
    allowed = Allowance(0.001, 8)
    setup.inlet._allowances = setup.inlet._allowances._replace(new_columns=allowed)
    agent = setup.agent()
    agent.open()
    left = allowed._buckets.popitem()[1].left
    assert left < 8, "the first schema of a stream counts"
    many = Schema(2, SCHEMA.quantities, tuple(Column("probe_loss", {"layer": str(i)}) for i in range(9)))
    agent.say(*[SCHEMA] * 100, many)
    refused = agent.hear()
    assert isinstance(refused, Nack)
    assert (refused.reason, "more columns of new schemas" in refused.detail) == ("store", True)
    assert allowed._buckets.popitem()[1].left == pytest.approx(8, abs=0.1), (
        "what is known, and what is refused, costs nothing"
    )


def test_while_all_runs_report_no_other_is_taken_in_and_a_silent_one_makes_room(setup: Setup) -> None:
    setup.live.capacity = 3
    agent = setup.agent()
    for name in ("a", "b", "c"):
        agent.say(Hello(run(name), 0, "e", 1))
        assert agent.hear() == Ack(0)
    agent.say(Hello(run("d"), 0, "e", 1))
    refused = agent.hear()
    assert isinstance(refused, Nack)
    assert (refused.reason, "limits.runs" in refused.detail) == ("store", True)
    assert sorted(setup.live.runs) == ["a", "b", "c"]
    with setup.live.lock:
        setup.live.runs["b"].ranks[0].last_heard -= 3600
    agent.say(Hello(run("d"), 0, "e", 1))
    assert agent.hear() == Ack(0)
    assert sorted(setup.live.runs) == ["a", "c", "d"]


def test_a_run_has_so_many_series_and_the_agent_is_told_which_setting_says_so(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.pipeline._run_series = 5
    agent = setup.agent()
    agent.open()
    quantity = Quantity("q", "1", "Help.", "Title")
    agent.say(Schema(2, (quantity,), tuple(Column("q", {"layer": str(i)}) for i in range(4))))
    agent.say(Schema(3, (quantity,), (Column("q", {"layer": "0"}),)))
    agent.say(Schema(4, (quantity,), (Column("q", {"layer": "9"}),)))
    refused = agent.hear()
    assert isinstance(refused, Nack)
    assert refused.reason == "bad_message"
    assert "would have 6 series over all its ranks; 5 are taken. Measure fewer layers" in refused.detail
    assert "or raise limits.run_series" in refused.detail


def test_all_runs_together_have_so_many_series_and_those_that_are_over_make_room(setup: Setup) -> None:
    setup.live.most_series = 5
    agents = {name: setup.agent() for name in ("a", "b")}
    quantity = Quantity("q", "1", "Help.", "Title")
    three = Schema(1, (quantity,), tuple(Column("q", {"layer": str(i)}) for i in range(3)))
    for name in ("a", "b"):
        agents[name].say(Hello(run(name), 0, "e", 1))
        assert agents[name].hear() == Ack(0)
        agents[name].say(three)
    refused = agents["b"].hear()
    assert isinstance(refused, Nack)
    assert (refused.reason, "limits.series" in refused.detail) == ("store", True), "it waits and gives nothing up"
    assert setup.count("rejected_messages", reason="busy") == 1
    agents["a"].say(report(1, columns=3))
    agents["a"].hear_ack(1)
    with setup.live.lock:
        setup.live.runs["a"].ranks[0].last_heard -= 3600
    agents["b"].say(Hello(run("b"), 0, "e", 1), three, report(1, columns=3))
    agents["b"].hear_ack(1)
    assert list(setup.live.runs) == ["b"]
    agents["a"].say(report(2, columns=3))
    silent = agents["a"].hear()
    assert isinstance(silent, Nack)
    assert silent.reason == "unknown_stream", "so that it greets again and is told to wait"


def test_nobody_makes_room_in_vain_and_who_brings_nothing_new_is_taken_when_all_is_full() -> None:
    live = Live(most_series=5)
    for name, series, heard in (("old", 2, 0.0), ("busy", 3, 1000.0), ("new", 0, 1000.0)):
        live.open(run(name), heard).series = {SeriesKey(0, f"q{i}", ()) for i in range(series)}
    assert not live.has_room(3, live.runs["new"], 1000.0)
    assert set(live.runs) == {"old", "busy", "new"}, "it would not have been enough"
    assert live.has_room(2, live.runs["new"], 1000.0)
    assert set(live.runs) == {"busy", "new"}
    live.most_series = 2  # as where runs were recalled that had more
    assert live.has_room(0, live.runs["busy"], 1000.0)
    assert not live.has_room(1, live.runs["busy"], 1000.0)


def test_a_rank_whose_run_made_room_and_is_back_greets_again_and_is_shown(tmp_path: Path) -> None:
    store, live = Store(tmp_path / "s.db"), Live()
    now = [1000.0]
    pipeline = Pipeline(store, live, Health(), (), tick=lambda *_: None, clock=lambda: now[0])
    live.capacity = 1
    for rank in (0, 1):
        stream = pipeline.hello(Hello(RUN, rank, "a", 1))
        pipeline.schema(stream, SCHEMA, encode(SCHEMA))
    first = report(1)
    pipeline.report(stream, first, encode(first))
    pipeline.commit()
    for there in (run("another"), RUN):
        now[0] += 1000.0
        pipeline.hello(Hello(there, 0, "a", 1))
        pipeline.commit()
    second = report(2)
    with pytest.raises(UnknownStream):
        pipeline.report(stream, second, encode(second))
    back = pipeline.hello(Hello(RUN, 1, "a", 1))
    pipeline.report(back, second, encode(second))
    pipeline.commit()
    assert live.runs[RUN.id].ranks[1].step == second.step
    store.close()


def test_a_run_of_many_ranks_that_each_measure_a_hundred_series_is_taken_as_it_comes(tmp_path: Path) -> None:
    store, live = Store(tmp_path / "s.db"), Live()
    pipeline = Pipeline(store, live, Health(), (), tick=lambda *_: None)
    columns = tuple(Column("q", {"layer": f"{i}"}) for i in range(100))
    schema = Schema(1, (Quantity("q", "1", "Help.", "Title"),), columns)
    for rank in range(128):
        pipeline.schema(pipeline.hello(Hello(RUN, rank, "e", 1)), schema, encode(schema))
    assert len(live.runs["run-1"].series) == 12_800
    store.close()


def test_the_series_of_a_run_are_counted_across_restarts(tmp_path: Path) -> None:
    first = Setup(tmp_path)
    agent = first.agent()
    agent.open()
    agent.say(report(1))
    agent.hear_ack(1)
    first.close()
    second = Setup(tmp_path)
    try:
        second.pipeline._run_series = 1
        agent = second.agent()
        agent.open(first=2)
        agent.say(Schema(2, (Quantity("q", "1", "Help.", "Title"),), (Column("q"),)))
        refused = agent.hear()
        assert isinstance(refused, Nack)
        assert "would have 2 series over all its ranks; 1 are taken" in refused.detail
    finally:
        second.close()


def test_a_stream_has_so_many_schemas(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_SCHEMAS", 3)
    agent = setup.agent()
    agent.open()
    agent.say(*(Schema(i, SCHEMA.quantities, SCHEMA.columns) for i in (1, 2, 3, 3, 4)))
    refused = agent.hear()
    assert isinstance(refused, Nack)
    assert "Got one schema more than the 3 that a stream may have" in refused.detail


def test_the_schemas_of_a_stream_name_so_many_columns_together(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_COLUMNS", 3)
    agent = setup.agent()
    agent.open()
    agent.say(*(Schema(i, SCHEMA.quantities, SCHEMA.columns) for i in (1, 2, 3, 3, 4)))
    refused = agent.hear()
    assert isinstance(refused, Nack)
    assert "would have named 4 columns; 3 are taken" in refused.detail


def test_the_schemas_of_a_stream_take_so_many_bytes_together(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(encode(SCHEMA))
    monkeypatch.setattr(bounds, "MOST_BYTES", 3 * size)
    agent = setup.agent()
    agent.open()
    agent.say(*(Schema(i, SCHEMA.quantities, SCHEMA.columns) for i in (1, 2, 3, 3, 4)))
    refused = agent.hear()
    assert isinstance(refused, Nack)
    assert f"would take {4 * size:,} bytes; {3 * size:,} are taken" in refused.detail


def test_a_key_opens_so_many_new_streams_at_once_and_known_ones_at_any_time(setup: Setup) -> None:
    setup.inlet._allowances = setup.inlet._allowances._replace(new_streams=Allowance(0.001, 2))
    agent = setup.agent()
    for epoch in ("a", "b", "a", "b"):
        agent.say(Hello(run("run-1"), 0, epoch, 1))
        assert agent.hear() == Ack(0)
    agent.say(Hello(run("run-1"), 0, "c", 1))
    refused = agent.hear()
    assert isinstance(refused, Nack)
    assert refused.reason == "store"


def test_a_flood_of_refused_messages_is_counted_and_logged_once_a_reason(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="collector")
    logging.getLogger("collector").propagate = True
    agent = setup.agent()
    for _ in range(200):
        agent.socket.send(b"garbage")
    for _ in range(200):
        agent.hear()
    assert setup.count("rejected_messages", reason="version") == 200
    assert sum(record.getMessage() == "message.rejected" for record in caplog.records) == 1
    assert inlet_module._ANSWERS["busy"] == "store", "what agents of every release know and wait after"
