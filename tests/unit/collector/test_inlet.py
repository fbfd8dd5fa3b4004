"""The inlet with a real socket and a real store: what is taken, refused, undone, and told."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from msgspec import structs

from collector import inlet as inlet_module
from collector import orders
from collector.errors import BindError
from collector.gate import Gate
from collector.health import WISH_ANSWERS
from collector.orders import NotKept
from collector.phases import PhaseEngine, Transition
from collector.store import arrivals, sealing
from collector.store.orders import OrderRow
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.wish_sender import MOST_WAITING
from probe_wire import (
    MAX_MESSAGE_BYTES,
    Ack,
    Advice,
    Column,
    Goodbye,
    Hello,
    Nack,
    Report,
    Run,
    Schema,
    Tighten,
    ToAgent,
    ToCollector,
    encode,
)
from tests.inlets import RUN, SCHEMA, Setup, report
from tests.patience import eventually


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.close()


def test_reports_are_acknowledged_after_they_can_be_read_from_the_store(setup: Setup) -> None:
    agent = setup.agent()
    agent.open()
    agent.say(report(1), report(2))
    agent.hear_ack(2)
    assert [f.message.seq for f in Reader(setup.path).frames("run-1")] == [1, 2]
    assert setup.count("reports") == 2
    assert setup.ticks[-1][:2] == ("run-1", 20)


def test_a_report_heard_twice_is_acknowledged_again_counted_and_stored_once(setup: Setup) -> None:
    agent = setup.agent()
    agent.open()
    agent.say(report(1))
    agent.hear_ack(1)
    agent.say(report(1))
    agent.hear_ack(1)
    assert setup.count("duplicate_reports") == 1
    assert Reader(setup.path).runs()[0].reports == 1


def test_a_gap_is_refused_and_the_agent_told_where_to_go_on(setup: Setup) -> None:
    agent = setup.agent()
    agent.open()
    agent.say(report(1))
    agent.hear_ack(1)
    agent.say(report(5))
    answer = agent.hear()
    assert isinstance(answer, Nack)
    assert (answer.reason, answer.seq, answer.detail) == ("gap", 1, "Got number 5; need 2 next.")
    assert setup.count("rejected_messages", reason="gap") == 1


def test_numbers_given_up_are_counted_as_lost_and_shown(setup: Setup) -> None:
    agent = setup.agent()
    agent.open()
    agent.say(report(1))
    agent.hear_ack(1)
    agent.say(Hello(RUN, 0, "a", 4))
    agent.hear_ack(3)
    assert setup.count("lost_reports") == 2
    assert setup.live.runs["run-1"].ranks[0].lost == 2


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ((report(1),), "unknown_stream"),
        ((Hello(RUN, 0, "a", 1), report(1)), "unknown_schema"),
        ((Hello(RUN, 0, "a", 1), SCHEMA, report(1, columns=3)), "bad_message"),
        ((Hello(RUN, 0, "a", 1), Schema(1, SCHEMA.quantities, SCHEMA.columns * 2)), "bad_message"),
    ],
)
def test_a_report_out_of_place_is_refused_with_the_reason(
    setup: Setup, messages: tuple[ToCollector, ...], reason: str
) -> None:
    agent = setup.agent()
    agent.say(*messages)
    answers = [agent.hear()]
    while setup.inlet._socket and isinstance(answers[-1], Ack):
        answers.append(agent.hear())
    last = answers[-1]
    assert isinstance(last, Nack)
    assert last.reason == reason
    assert setup.count("rejected_messages", reason=reason) == 1


def test_a_message_beyond_the_size_limit_never_arrives_and_others_are_served(setup: Setup) -> None:
    giant, agent = setup.agent(), setup.agent()
    giant.socket.send(b"\x01" * (MAX_MESSAGE_BYTES + 1))
    agent.open()
    agent.say(report(1))
    agent.hear_ack(1)
    assert not giant.socket.poll(300)


def test_a_full_disk_loses_nothing_and_heals_without_a_restart(setup: Setup) -> None:
    agent = setup.agent()
    agent.open()
    agent.say(report(1))
    agent.hear_ack(1)
    pages = setup.store._db.execute("PRAGMA page_count").fetchone()[0]
    setup.store._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite itself now says the disk is full
    heavy = tuple(Column("fisher_trace", {"layer": f"{i:03}" * 30}) for i in range(900))
    wide = Schema(2, SCHEMA.quantities, heavy)
    agent.say(wide)
    answer = agent.hear()
    assert isinstance(answer, Nack)
    assert answer.reason == "store"
    assert "full" in answer.detail
    assert setup.count("store_errors") == 1
    setup.store._db.execute("PRAGMA max_page_count = 1073741823")
    agent.open()
    agent.say(report(2))
    agent.hear_ack(2)
    assert [f.message.seq for f in Reader(setup.path).frames("run-1")] == [1, 2]


def test_a_collector_is_ready_while_it_could_keep_something_also_when_nothing_comes(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inlet_module, "CHECK_SECONDS", 0.05)
    assert setup.inlet.ready
    moved = setup.path.rename(setup.path.with_name("moved.db"))
    eventually(lambda: not setup.inlet.ready, seconds=5, what="the collector to notice that its file is gone")
    assert setup.inlet.alive, "a restart is not what helps"
    moved.rename(setup.path)
    eventually(lambda: setup.inlet.ready, seconds=5, what="the collector to notice that it is back")


def test_a_full_disk_makes_a_collector_not_ready_until_something_can_be_kept_again(setup: Setup) -> None:
    agent = setup.agent()
    agent.open()
    pages = setup.store._db.execute("PRAGMA page_count").fetchone()[0]
    setup.store._db.execute(f"PRAGMA max_page_count = {pages}")
    agent.say(
        Schema(2, SCHEMA.quantities, tuple(Column("fisher_trace", {"layer": f"{i:03}" * 30}) for i in range(900)))
    )
    assert isinstance(agent.hear(), Nack)
    assert not setup.inlet.ready
    setup.store._db.execute("PRAGMA max_page_count = 1073741823")
    agent.open()
    assert setup.inlet.ready


def test_a_phase_engine_that_fails_stops_judging_and_reports_go_on_being_kept(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[Transition]:
        raise ZeroDivisionError

    monkeypatch.setattr(PhaseEngine, "update", fail)
    agent = setup.agent()
    agent.open()
    agent.say(report(1), report(2))
    agent.hear_ack(2)
    assert setup.count("phase_failures") >= 1
    assert Reader(setup.path).runs()[0].reports == 2


def test_a_message_the_collector_cannot_survive_costs_itself_only(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Store.put_report

    def fail(self: Store, stream: object, message: Report, *rest: object) -> int:
        if message.step == 20:
            raise ZeroDivisionError
        return original(self, stream, message, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "put_report", fail)
    other, agent = setup.agent(), setup.agent()
    agent.open()
    agent.say(report(1), report(2))
    answers = [agent.hear()]
    while not isinstance(answers[-1], Nack):
        answers.append(agent.hear())
    assert answers[-1].reason == "bad_message", "so that the agent gives it up instead of sending it for ever"
    other.say(Hello(Run("run-2", "other", "h", 1, 0.0), 0, "b", 1), SCHEMA)
    assert isinstance(other.hear(), Ack)


def test_upkeep_waits_while_there_is_more_than_is_taken_at_once_but_not_for_ever(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_up: list[bool] = []
    monkeypatch.setattr(inlet_module, "DRAIN", 1)
    monkeypatch.setattr(setup.pipeline, "upkeep", lambda: kept_up.append(bool(setup.gate.socket.poll(0))))
    agent = setup.agent()
    agent.open()
    kept_up.clear()
    agent.say(*map(report, range(1, 41)))
    agent.hear_ack(40)
    assert kept_up == []
    monkeypatch.setattr(inlet_module, "BEHIND_SECONDS", 0.0)
    agent.say(*map(report, range(41, 81)))
    agent.hear_ack(80)
    assert any(kept_up)


def test_a_message_the_store_will_not_take_is_found_among_many_and_costs_itself_only(setup: Setup) -> None:
    agents = [setup.agent() for _ in range(3)]
    for rank, agent in enumerate(agents):
        agent.say(Hello(RUN, rank, "a", 1), SCHEMA)
        assert isinstance(agent.hear(), Ack)
    setup.store._db.execute(
        f"CREATE TRIGGER refuse BEFORE INSERT ON arrived WHEN INSTR(NEW.bodies, X'{encode(report(2)).hex()}') "
        "BEGIN SELECT RAISE(ABORT, 'never'); END"
    )
    given_up = None
    deadline = time.monotonic() + 20
    kept = dict.fromkeys(range(3), 0)
    while (given_up is None or kept != {0: 3, 1: 1, 2: 3}) and time.monotonic() < deadline:
        for rank, agent in enumerate(agents):
            first = kept[rank] + 1
            last = 1 if rank == given_up else 3 if rank != 1 else 2
            steps = [report(seq) for seq in range(first, last + 1)]
            if rank != 1:
                steps = [structs.replace(each, step=each.seq * 1000) for each in steps]
            agent.say(Hello(RUN, rank, "a", 1), SCHEMA, *steps)
        for rank, agent in enumerate(agents):
            while agent.socket.poll(300):
                said = agent.hear()
                if isinstance(said, Ack):
                    kept[rank] = said.seq
                elif isinstance(said, Nack) and said.reason == "bad_message":
                    given_up = rank
    assert given_up == 1
    assert kept == {0: 3, 1: 1, 2: 3}


def test_a_message_of_very_many_parts_is_refused_and_not_gathered(setup: Setup) -> None:
    hostile, agent = setup.agent(), setup.agent()
    agent.open()
    for _ in range(20_000):
        hostile.socket.send(b"part", zmq.SNDMORE)
    hostile.socket.send(encode(SCHEMA))
    refused = hostile.hear()
    assert isinstance(refused, Nack)
    assert (refused.reason, "too many parts" in refused.detail) == ("bad_message", True)
    assert setup.count("rejected_messages", reason="bad_message") == 1
    agent.say(report(1))
    agent.hear_ack(1)


def test_transitions_reach_sinks_and_the_agent_after_the_commit(setup: Setup) -> None:
    agent = setup.agent()
    agent.open()
    rise_and_fall = [2.0 ** min(i / 6, (60 - i) / 6) for i in range(90)]
    heard: list[ToAgent] = []
    for seq, value in enumerate(rise_and_fall, start=1):
        agent.say(report(seq, value))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and Ack(90) not in heard:
        heard.append(agent.hear())
    while agent.socket.poll(300):
        heard.append(agent.hear())
    advice = [m for m in heard if isinstance(m, Advice) and m.machine == "critical_period"]
    assert [a.to_phase for a in advice] == ["critical_period", "after_critical_period"]
    told = [t for t in setup.told if t.machine == "critical_period"]
    assert [(t.to_phase, t.state) for t in told if t.act] == [
        ("critical_period", "detected"),
        ("after_critical_period", "confirmed"),
    ]
    assert advice[1].known_step == told[-1].known_step > told[-2].known_step, "to end a protection is for good"
    assert [s.transition for s in Reader(setup.path).transitions("run-1")] == setup.told
    assert setup.live.runs["run-1"].transition_counts["critical_period", "after_critical_period"] == 1


def wishes(setup: Setup) -> dict[str, float]:
    counted = {a: setup.count("wishes", answer=a) for a in WISH_ANSWERS}
    return {answer: count for answer, count in counted.items() if count}


WISH = Tighten("fisher_trace", 500, reason="a peak is suspected")


def test_a_wish_goes_once_to_the_latest_session_of_the_stream_it_is_about(setup: Setup) -> None:
    before, agent, other = setup.agent(), setup.agent(), setup.agent()
    before.open(tightens=True)
    agent.open(tightens=True)  # the same stream, after its connection was lost
    other.say(Hello(RUN, 1, "b", 1, tightens=True))
    assert isinstance(other.hear(), Ack)
    setup.inlet.wish("run-1", 0, WISH)
    assert agent.hear() == WISH
    assert not any(each.socket.poll(300) for each in (before, agent, other))
    assert wishes(setup) == {"sent": 1}


LOOK = OrderRow("look-1", "run-1", "fisher_trace", 4, 600.0, 5000, [0], 1.0, "127.0.0.1")


def test_an_order_is_written_down_and_its_agent_asked_once_also_after_a_restart(tmp_path: Path) -> None:
    first = Setup(tmp_path)
    agent = first.agent()
    agent.open(tightens=True)
    assert first.inlet.orders.carry_out(LOOK) is True
    assert Reader(first.path).order("look-1") == LOOK
    assert agent.hear() == Tighten("fisher_trace", 5000, 4, 600.0, "asked for by order look-1")
    first.close()
    second = Setup(tmp_path)
    agent = second.agent()
    agent.open(tightens=True)
    assert second.inlet.orders.carry_out(LOOK) is False
    assert not agent.socket.poll(300)
    second.close()


def test_an_order_that_nobody_takes_or_that_cannot_be_written_down_is_not_carried_out(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(setup.path) as db:
        db.execute("ALTER TABLE orders RENAME TO others")
    db.close()
    agent = setup.agent()
    agent.open(tightens=True)
    with pytest.raises(NotKept, match="no such table: orders"):
        setup.inlet.orders.carry_out(LOOK)
    agent.say(report(1))
    agent.hear_ack(1)
    setup.inlet.stop()
    monkeypatch.setattr(orders, "ANSWER_SECONDS", 0.05)
    with pytest.raises(NotKept, match="nobody took it within 0 s"):
        setup.inlet.orders.carry_out(LOOK)
    monkeypatch.setattr(orders, "MOST_WAITING", 1)
    with pytest.raises(NotKept, match="1 others wait"):
        setup.inlet.orders.carry_out(LOOK)


def test_an_agent_of_a_former_release_is_sent_no_wish(setup: Setup) -> None:
    agent = setup.agent()
    golden = Path(__file__).parents[2] / "wire" / "golden" / "v1" / "hello_without_tightens.msgpack"
    agent.socket.send(golden.read_bytes())
    assert isinstance(agent.hear(), Ack)
    setup.inlet.wish("run-1", 0, WISH)
    assert not agent.socket.poll(500)
    assert wishes(setup) == {"not understood": 1}


def test_wishes_for_streams_that_are_gone_are_forgotten_and_counted(setup: Setup) -> None:
    agent = setup.agent()
    agent.open(tightens=True)
    agent.say(Goodbye(1, 15, 0.0, "finished"))
    agent.hear_ack(1)
    for run, rank in (("run-1", 0), ("run-1", 7), ("run-2", 0)):
        setup.inlet.wish(run, rank, WISH)
    assert not agent.socket.poll(500)
    assert wishes(setup) == {"no stream": 3}


def test_of_a_flood_of_wishes_so_many_are_sent_and_the_rest_is_counted(tmp_path: Path) -> None:
    made = Setup(tmp_path)
    made.inlet.stop()  # nobody takes them from the queue
    for _ in range(MOST_WAITING + 5):
        made.inlet.wish("run-1", 0, WISH)
    assert wishes(made) == {"too many": 5}
    made.close()


def test_a_wish_too_long_to_travel_is_cut_and_the_inlet_lives_on(setup: Setup) -> None:
    agent = setup.agent()
    agent.open(tightens=True)
    setup.inlet.wish("run-1", 0, structs.replace(WISH, reason="x" * 2**21))
    found = agent.hear()
    assert isinstance(found, Tighten)
    assert len(found.reason) == 2000
    assert setup.inlet.alive


def test_a_goodbye_finishes_the_run(setup: Setup) -> None:
    agent = setup.agent()
    agent.open()
    agent.say(report(1), Goodbye(2, 15, 0.0, "finished"))
    agent.hear_ack(2)
    assert setup.live.runs["run-1"].state(time.time()) == "finished"
    assert Reader(setup.path).runs()[0].finished == "finished"


def test_an_address_in_use_is_refused_with_what_to_do(setup: Setup) -> None:
    with pytest.raises(
        BindError, match=r"inlet address tcp://127.0.0.1:\d+, which cannot be listened on: Address already in use.*"
    ):
        Gate(setup.gate.address, None, setup.health)


def test_the_socket_options_that_keep_the_collector_safe_are_set(setup: Setup) -> None:
    wanted = {
        zmq.LINGER: 0,
        zmq.BACKLOG: 4096,
        zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
        zmq.HANDSHAKE_IVL: 10_000,
        zmq.HEARTBEAT_IVL: 15_000,
        zmq.RCVHWM: 250,
    }
    assert {option: setup.inlet._socket.getsockopt(option) for option in wanted} == wanted
    assert setup.inlet._socket.getsockopt_string(zmq.ZAP_DOMAIN) == "phasewatch"


@pytest.mark.parametrize("heard_first", ["the old life", "the new life"])
def test_what_an_ended_life_left_neither_ends_the_new_one_nor_hides_what_it_measures(
    tmp_path: Path, heard_first: str
) -> None:
    setup = Setup(tmp_path)
    dead, living = setup.agent(), setup.agent()
    if heard_first == "the old life":
        dead.open(epoch="old")
        dead.say(report(1, 1.0))
        dead.hear_ack(1)
    living.open(epoch="new")
    living.say(report(1, 5.0))
    living.hear_ack(1)
    adopter = setup.agent()
    before = structs.replace(RUN, started_at=RUN.started_at - 100)
    adopter.say(
        Hello(before, 0, "old", 1, ended=True), SCHEMA, report(1, 1.0), report(2, 2.0), Goodbye(3, 20, 0.0, "ended")
    )
    adopter.hear_ack(3)

    def seen(at: Setup) -> tuple[str, float, str | None]:
        run = at.live.runs["run-1"]
        (latest,) = run.settle().values()
        return run.state(run.last_heard), latest.estimate.value, Reader(at.path).runs()[0].finished

    assert seen(setup) == ("running", 5.0, None)
    setup.close()
    again = Setup(tmp_path, recovers=True)
    assert seen(again) == ("running", 5.0, None)
    living = again.agent()
    living.open(epoch="new", first=2)
    living.say(Goodbye(2, 30, 0.0, "finished"))
    living.hear_ack(2)
    assert seen(again) == ("finished", 5.0, "finished")
    again.close()
    last = Setup(tmp_path, recovers=True)
    assert seen(last) == ("finished", 5.0, "finished")
    last.close()


def test_a_run_whose_past_is_damaged_goes_on_being_kept_and_is_judged_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "LEAST", 1)
    monkeypatch.setattr(arrivals, "MOST", 1)
    monkeypatch.setattr(sealing, "BLOCK", 8)
    setup = Setup(tmp_path)
    agent = setup.agent()
    agent.open()
    agent.say(*(report(seq) for seq in range(1, 10)))
    agent.hear_ack(9)
    setup.close()
    with sqlite3.connect(setup.path) as db:
        assert db.execute("UPDATE blocks SET envelopes = x'00'").rowcount
        db.execute("DELETE FROM live_states")
    db.close()
    again = Setup(tmp_path, recovers=True)
    agent = again.agent()
    agent.open(first=10)
    agent.say(report(10))
    agent.hear_ack(10)
    assert Reader(again.path).runs()[0].reports == 10
    assert again.count("phase_failures") == 1
    again.close()


def test_a_killed_life_after_one_that_ended_well_is_the_newest(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    first = setup.agent()
    first.open(epoch="first")
    first.say(report(1, 1.0), Goodbye(2, 10, 0.0, "completed"))
    first.hear_ack(2)
    resumed = structs.replace(RUN, started_at=RUN.started_at + 100)
    adopter = setup.agent()
    adopter.say(Hello(resumed, 0, "second", 1, ended=True), SCHEMA, report(1, 2.0))
    adopter.hear_ack(1)
    assert [life.stream_id for life in Reader(setup.path).lives("run-1")] == [1, 2]
    run = setup.live.runs["run-1"]
    assert [latest.estimate.value for latest in run.settle().values()] == [2.0]
    assert Reader(setup.path).runs()[0].finished is None
    setup.close()


def test_what_a_run_showed_before_a_restart_it_shows_after_though_a_later_life_has_only_greeted(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    first = setup.agent()
    first.open(epoch="first")
    first.say(*(report(seq, float(seq)) for seq in range(1, 301)))  # kept at 256
    first.hear_ack(300)
    second = setup.agent()
    second.open(epoch="second")
    setup.close()
    again = Setup(tmp_path, recovers=True)
    run = again.live.runs["run-1"]
    assert [latest.estimate.value for latest in run.settle().values()] == [300.0]
    assert run.step == 3000
    again.close()
