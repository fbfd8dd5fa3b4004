"""The gate with real sockets and real keys: who is let in, who is not, and what each may say and hear."""

import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from msgspec import structs

from collector import sessions
from collector.errors import AccessError, BindError
from collector.gate import DOMAIN, Gate
from collector.health import REFUSALS, Health
from collector.keys import Keys
from collector.store.queries import Reader
from probe_wire import MAX_MESSAGE_BYTES, Ack, Hello, Nack, Run, Tighten
from probe_wire.agent_key import AgentKey
from tests.inlets import RUN, SCHEMA, Agent, Setup, report
from tests.patience import eventually

WISH = Tighten("fisher_trace", 500, reason="a peak is suspected")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def key(keys: Keys) -> AgentKey:
    return keys.create("lab")


@pytest.fixture
def setup(tmp_path: Path, keys: Keys, key: AgentKey) -> Iterator[Setup]:
    made = Setup(tmp_path, keys)
    yield made
    made.close()


def refused(setup: Setup) -> dict[str, float]:
    counted = {reason: setup.count("refused_connections", reason=reason) for reason in REFUSALS}
    return {reason: count for reason, count in counted.items() if count}


def stored(setup: Setup, run: str = "run-1") -> list[int]:
    return [frame.message.seq for frame in Reader(setup.path).frames(run)]


def hear_forbidden(agent: Agent) -> str:
    answer = agent.hear()
    while isinstance(answer, Ack):
        answer = agent.hear()
    assert isinstance(answer, Nack)
    assert answer.reason == "forbidden"
    return answer.detail


@pytest.mark.parametrize("guarded", [False, True])
def test_every_option_that_keeps_the_collector_safe_is_set_on_the_live_socket(
    keys: Keys, key: AgentKey, *, guarded: bool
) -> None:
    gate = Gate("tcp://127.0.0.1:*", keys if guarded else None, Health())
    wanted = {
        zmq.TYPE: zmq.ROUTER,
        zmq.LINGER: 0,
        zmq.RCVHWM: 250,
        zmq.SNDHWM: 2000,
        zmq.BACKLOG: 4096,
        zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
        zmq.HANDSHAKE_IVL: 10_000,
        zmq.HEARTBEAT_IVL: 15_000,
        zmq.HEARTBEAT_TIMEOUT: 15_000,
        zmq.HEARTBEAT_TTL: 45_000,
        zmq.IMMEDIATE: 0,  # the agents' side
        zmq.MECHANISM: zmq.CURVE if guarded else zmq.NULL,
        zmq.CURVE_SERVER: int(guarded),
        zmq.ZAP_ENFORCE_DOMAIN: int(guarded),
    }
    found = {option: gate.socket.getsockopt(option) for option in wanted}
    domain = gate.socket.getsockopt_string(zmq.ZAP_DOMAIN)
    gate.close()
    assert found == wanted
    assert domain == DOMAIN != ""


def test_a_listed_key_is_let_in_and_its_reports_are_kept(setup: Setup, key: AgentKey) -> None:
    agent = setup.agent(key)
    agent.open()
    agent.say(report(1))
    agent.hear_ack(1)
    assert stored(setup) == [1]
    assert refused(setup) == {}


@pytest.mark.parametrize(
    "case", ["no key", "unlisted key", "revoked key", "another collector's key", "halves mixed up"]
)
def test_nobody_without_a_listed_key_is_let_in_and_each_is_counted(
    setup: Setup, keys: Keys, key: AgentKey, tmp_path: Path, case: str
) -> None:
    stranger = Keys(tmp_path / "elsewhere").create("stranger")
    former = keys.create("former")
    keys.revoke("former")
    shown, reason = {
        "no key": (None, "handshake"),
        "unlisted key": (structs.replace(stranger, collector=key.collector), "unlisted"),
        "revoked key": (former, "revoked"),
        "another collector's key": (structs.replace(key, collector=stranger.collector), "handshake"),
        "halves mixed up": (structs.replace(stranger, collector=key.collector, public=key.public), "handshake"),
    }[case]
    agent, friend = setup.agent(shown), setup.agent(key)
    agent.say(Hello(RUN, 0, "a", 1), SCHEMA, report(1))
    friend.say(Hello(Run("run-2", "friend", "h", 1, 0.0), 0, "b", 1), SCHEMA, report(1))
    friend.hear_ack(1)
    eventually(lambda: refused(setup), seconds=10, what="the refusal to be counted")
    assert set(refused(setup)) == {reason}
    assert not agent.socket.poll(200)
    assert [row.id for row in Reader(setup.path).runs()] == ["run-2"]


def test_a_key_made_while_the_collector_runs_is_let_in_at_once(setup: Setup, keys: Keys) -> None:
    later = Keys(setup.path.parent / "keys").create("later")  # as another process does
    setup.agent(later).open()
    assert keys.name_of(later.public) == "later"


def test_a_revoked_key_loses_its_session_within_seconds_and_cannot_come_back(
    setup: Setup, keys: Keys, key: AgentKey
) -> None:
    agent = setup.agent(key)
    agent.open(tightens=True)
    agent.say(report(1))
    agent.hear_ack(1)
    Keys(setup.path.parent / "keys").revoke("lab")
    assert "The key was revoked" in hear_forbidden(agent)
    setup.inlet.wish("run-1", 0, WISH)
    agent.say(Hello(RUN, 0, "a", 2), report(2))
    assert [hear_forbidden(agent) for _ in range(2)]
    assert not agent.socket.poll(300)
    assert stored(setup) == [1]
    eventually(lambda: setup.count("wishes", answer="no stream"), seconds=5, what="the wish to be counted")
    setup.agent(key)
    eventually(lambda: refused(setup).get("revoked"), seconds=10, what="the refusal to be counted")


def test_a_revoked_key_loses_its_session_also_where_others_come_in_all_the_time(
    setup: Setup, keys: Keys, key: AgentKey
) -> None:
    agent = setup.agent(key)
    agent.open()
    other = Keys(setup.path.parent / "keys").create("other")
    Keys(setup.path.parent / "keys").revoke("lab")
    setup.agent(other).say(
        Hello(Run("run-2", "x", "h", 1, 0.0), 0, "b", 1)
    )  # the list is looked at for each that connects
    assert "The key was revoked" in hear_forbidden(agent)


def test_a_run_belongs_to_the_key_that_opened_it(setup: Setup, keys: Keys, key: AgentKey) -> None:
    owner, foreign = setup.agent(key), setup.agent(keys.create("other-team"))
    owner.open(tightens=True)
    owner.say(report(1))
    owner.hear_ack(1)
    foreign.say(Hello(RUN, 0, "a", 1, tightens=True), SCHEMA, report(2))
    foreign.say(Hello(RUN, 1, "b", 1, tightens=True), SCHEMA, report(1))
    detail = hear_forbidden(foreign)
    assert "Got the run run-1 from another key than the one that opened it" in detail
    eventually(lambda: setup.count("rejected_messages", reason="forbidden") == 2, seconds=5, what="both to be counted")
    owner.say(report(2))
    owner.hear_ack(2)
    setup.inlet.wish("run-1", 0, WISH)
    assert owner.hear() == WISH
    while foreign.socket.poll(200):
        assert isinstance(foreign.hear(), Nack)
    assert stored(setup) == [1, 2]


def test_a_run_is_still_its_owners_after_the_collector_was_started_again(
    tmp_path: Path, keys: Keys, key: AgentKey
) -> None:
    before = Setup(tmp_path, keys)
    before.agent(key).open()
    before.close()
    after = Setup(tmp_path, keys)
    foreign, owner = after.agent(keys.create("other-team")), after.agent(key)
    foreign.say(Hello(RUN, 0, "a", 1))
    assert "another key" in hear_forbidden(foreign)
    owner.open()
    after.close()


def test_a_run_opened_before_there_were_keys_goes_to_the_first_key_that_speaks_for_it(
    tmp_path: Path, keys: Keys, key: AgentKey
) -> None:
    before = Setup(tmp_path)
    before.agent().open()
    before.close()
    after = Setup(tmp_path, keys)
    after.agent(key).open()
    second = after.agent(keys.create("other-team"))
    second.say(Hello(RUN, 0, "a", 1))
    assert "another key" in hear_forbidden(second)
    after.close()


def test_who_names_the_identity_of_a_connected_peer_gets_nothing_that_is_meant_for_it(
    setup: Setup, keys: Keys, key: AgentKey
) -> None:
    victim = setup.agent(key, identity=b"victim")
    victim.open(tightens=True)
    impostor = setup.agent(keys.create("other-team"), identity=b"victim")
    impostor.say(Hello(Run("run-2", "x", "h", 1, 0.0), 0, "b", 1, tightens=True), SCHEMA)
    assert not impostor.socket.poll(500)
    setup.inlet.wish("run-1", 0, WISH)
    assert victim.hear() == WISH
    assert not impostor.socket.poll(200)


def test_who_takes_the_identity_of_a_peer_that_is_gone_does_not_speak_for_its_stream(
    setup: Setup, keys: Keys, key: AgentKey
) -> None:
    victim = setup.agent(key, identity=b"victim")
    victim.open()
    victim.say(report(1))
    victim.hear_ack(1)
    victim.socket.close(linger=0)
    impostor = setup.agent(keys.create("other-team"), identity=b"victim")
    deadline = time.monotonic() + 10
    while not impostor.socket.poll(100) and time.monotonic() < deadline:
        impostor.say(report(2))
    answer = impostor.hear()
    assert isinstance(answer, Nack)
    assert answer.reason == "unknown_stream"
    assert stored(setup) == [1]


def test_an_agent_that_is_silent_for_long_is_told_nothing_as_its_place_may_be_anothers(
    setup: Setup, key: AgentKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = setup.agent(key)
    agent.open(tightens=True)
    monkeypatch.setattr(sessions, "HEARD_SECONDS", 0.0)
    setup.inlet.wish("run-1", 0, WISH)
    eventually(lambda: setup.count("wishes", answer="no stream"), seconds=5, what="the wish to be counted")
    assert not agent.socket.poll(200)


OLD_PEER = b"\x01\x00\x05\x00hello"  # ZMTP/1.0: libzmq never times such a peer out by itself
HTTP = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f"


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("says", [b"", OLD_PEER, HTTP, GREETING, bytes(500)])
def test_a_peer_that_never_says_who_it_is_is_dropped(
    tmp_path: Path, keys: Keys, key: AgentKey, *, guarded: bool, says: bytes
) -> None:
    setup = Setup(tmp_path, keys if guarded else None, handshake_seconds=0.5)
    host, _, port = setup.gate.address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(says)
        try:
            while peer.recv(4096):
                pass
        except ConnectionResetError:
            pass
    setup.agent(key if guarded else None).open()
    setup.close()


def test_an_ipc_inlet_is_for_this_user_alone(tmp_path: Path) -> None:
    gate = Gate(f"ipc://{tmp_path}/run/inlet.sock", None, Health())
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("run", "run/inlet.sock")]
    gate.close()
    assert modes == [0o700, 0o700]
    before = os.umask(0o022)
    os.umask(before)
    assert before != 0o077, "the process's own mask is put back"


def test_an_ipc_path_too_long_for_a_socket_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BindError, match=r"cannot be listened on: .*Choose another with --inlet-address"):
        Gate(f"ipc://{tmp_path}/{'x' * 120}", None, Health())


def test_an_ipv6_address_is_listened_on() -> None:
    gate = Gate("tcp://[::1]:*", None, Health())
    gate.close()
    assert gate.address.startswith("tcp://[::1]:")


def test_a_list_that_cannot_be_read_for_a_while_leaves_the_last_one_in_force(
    setup: Setup, keys: Keys, key: AgentKey
) -> None:
    listed = setup.path.parent / "keys" / "agents.json"
    good = listed.read_bytes()
    listed.write_bytes(good[:40])
    assert not keys.refresh()
    setup.agent(key).open()
    listed.write_bytes(b"[]")
    assert keys.refresh()
    assert keys.name_of(key.public) is None


def test_a_collectors_key_that_others_may_read_is_refused_at_the_door(
    keys: Keys, key: AgentKey, tmp_path: Path
) -> None:
    (tmp_path / "keys" / "collector.json").chmod(0o640)
    with pytest.raises(AccessError, match=r"collector.json with mode 0640, so that others may read .* need 0600"):
        Gate("tcp://127.0.0.1:*", keys, Health())
