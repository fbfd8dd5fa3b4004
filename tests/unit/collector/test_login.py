"""Who may see the page and who may control: tokens, tickets, origins, and orders."""

import hmac
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.access import access_in_words, keys_asked_for, tokens_asked_for
from collector.config import load
from collector.errors import AccessError
from collector.health import ORDER_ANSWERS, REQUEST_REFUSALS, Health
from collector.orders import NotKept
from collector.store import orders
from collector.store.orders import OrderRow
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.tokens import TICKET_SECONDS, Tokens
from collector.web import create_app, login
from collector.web.guard import POLICY
from tests.collector_fixtures import STEPS, Seeded, digits_run, seed
from tests.web_client import Client

ID = digits_run().id
TIGHTEN = f"/api/runs/{ID}/tighten"
ORDER = {"id": "order-1", "quantity": "fisher_trace", "times": 8, "seconds": 60}
PAGE = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    found = seed(tmp_path_factory.mktemp("web") / "store.db", steps=STEPS[:5], now=time.time(), turns=False)
    yield found
    found.store.close()


class Door(Client):
    """A page with tokens before it, and what it counts and asks agents for."""

    def __init__(self, seeded: Seeded, tokens: Tokens | None, **settings: Any) -> None:
        self.health = Health()
        self.orders_carried_out: list[OrderRow] = []
        self.store = seeded.store
        with closing(sqlite3.connect(seeded.store.path)) as db:  # each test begins without any
            db.execute("DELETE FROM orders")
            db.commit()
        self.tokens = tokens
        app = create_app(
            seeded.reader,
            seeded.live,
            seeded.feed,
            lambda: b"a 1\n",
            lambda: True,
            health=self.health,
            carry_out=self.carry_out,
            tokens=tokens,
            **settings,
        )
        super().__init__(app)

    def carry_out(self, order: OrderRow) -> bool:
        new = self.store.put_order(order)
        self.store.commit()
        self.orders_carried_out += [order] * new
        return new

    def bearer(self, scope: str) -> dict[str, str]:
        assert self.tokens is not None
        return {"authorization": f"Bearer {self.tokens.text(scope)}"}  # type: ignore[arg-type]

    def log_in(self, token: str, **headers: str) -> httpx.Response:
        return self.request("POST", "/login", json={"token": token}, headers=headers)

    def counted(self, name: str, label: str, values: tuple[str, ...]) -> dict[str, float]:
        found = {
            value: self.health.registry.get_sample_value(f"phasewatch_{name}_total", {label: value}) for value in values
        }
        return {value: count for value, count in found.items() if count}

    @property
    def refused(self) -> dict[str, float]:
        return self.counted("refused_requests", "reason", REQUEST_REFUSALS)

    @property
    def orders(self) -> dict[str, float]:
        return self.counted("orders", "answer", ORDER_ANSWERS)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    made = Tokens(tmp_path / "keys")
    made.make()
    return made


@pytest.fixture
def door(seeded: Seeded, tokens: Tokens) -> Door:
    return Door(seeded, tokens)


SHUT = ("/api/runs", f"/api/runs/{ID}", f"/api/runs/{ID}/points", "/api/feed", "/api/record", "/metrics", "/nowhere")


@pytest.mark.parametrize("path", SHUT)
def test_without_a_token_nothing_is_told(door: Door, path: str) -> None:
    answer = door.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="phasewatch"'
    assert answer.headers["content-security-policy"] == POLICY
    assert door.refused == {"token": 1.0}


def test_a_page_without_a_token_leads_to_the_login_and_from_there_on(door: Door) -> None:
    assert door.get(f"/runs/{ID}").headers["location"] == f"/login#/runs/{ID}"
    assert door.get("/runs/%0d%0aset-cookie:a=b").headers["location"].startswith("/login#/runs/%0D%0A")
    compared = door.get("/compare?runs=a,b&q.loss=layer:fc1").headers["location"]
    assert compared == "/login#/compare?runs=a,b&q.loss=layer:fc1"
    page = door.get("/login")
    assert (page.status_code, "Log in" in page.text) == (200, True)
    assert door.get("/static/login.js").status_code == door.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Basic {read}", "Bearer {read}x", "Bearer x{read}", "{read}", "Bearer é"],
)
def test_a_wrong_token_opens_nothing(door: Door, tokens: Tokens, header: str) -> None:
    shown = header.format(read=tokens.text("read")).encode()
    assert door.get("/api/runs", headers={"authorization": shown}).status_code == 401


@pytest.mark.parametrize("scope", ["read", "control"])
def test_a_script_reads_with_either_token(door: Door, scope: str) -> None:
    assert door.get("/api/runs", headers=door.bearer(scope)).status_code == 200
    assert door.get("/metrics", headers=door.bearer(scope)).text == "a 1\n"


def test_a_token_in_the_address_opens_nothing(door: Door, tokens: Tokens) -> None:
    assert door.get("/api/runs", params={"token": tokens.text("read")}).status_code == 401


def test_a_browser_logs_in_once_and_its_cookie_holds_no_token(door: Door, tokens: Tokens) -> None:
    answer = door.log_in(tokens.text("read"))
    assert (answer.status_code, answer.json()) == (200, {"scope": "read"})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("phasewatch8080=read.")
    assert all(
        word in cookie for word in ("; HttpOnly", "; SameSite=strict", "; Path=/", f"; Max-Age={TICKET_SECONDS}")
    )
    assert "Secure" not in cookie
    assert tokens.text("read") not in cookie
    shown = {"cookie": cookie.partition(";")[0]}
    assert door.get("/api/runs", headers=shown).status_code == 200
    tokens.make(anew=True)
    assert door.get("/api/runs", headers=shown).status_code == 401, "a login ends with the token it was made with"


def test_behind_https_the_cookie_is_for_https_and_this_host_alone(seeded: Seeded, tokens: Tokens) -> None:
    behind, direct = Door(seeded, tokens, behind_proxy=True), Door(seeded, tokens)
    forwarded = {"x-forwarded-proto": "https"}
    cookie = behind.log_in(tokens.text("read"), **forwarded).headers["set-cookie"]
    assert cookie.startswith("__Host-phasewatch8080=read.")
    assert "; Secure" in cookie
    shown = {"cookie": cookie.partition(";")[0]}
    assert behind.get("/api/runs", headers=shown | forwarded).status_code == 200
    assert behind.get("/api/runs", headers=shown).status_code == 401, "plain HTTP does not take the cookie of HTTPS"
    assert direct.log_in(tokens.text("read"), **forwarded).headers["set-cookie"].startswith("phasewatch8080=read.")


def test_a_ticket_expires_and_cannot_be_forged(tokens: Tokens) -> None:
    now = time.time()
    ticket = tokens.ticket("read", now)
    assert tokens.scope_of_ticket(ticket) == "read"
    assert tokens.scope_of_ticket(ticket, now + TICKET_SECONDS - 5) == "read"
    assert tokens.scope_of_ticket(ticket, now + TICKET_SECONDS + 5) is None
    scope, expires, signature = ticket.split(".")
    with_the_lesser_token = hmac.new(tokens.text("read").encode(), f"control.{expires}".encode(), "sha256").hexdigest()
    forged = [
        f"control.{expires}.{with_the_lesser_token}",
        f"control.{expires}.{signature}",
        f"{scope}.{int(expires) + 1}.{signature}",
        f"{scope}.{expires}.{signature[:-1]}",
        f"{scope}.{expires}.",
        f"{scope}.never.{signature}",
        "",
        "...",
        "é.é.é",
    ]
    assert [tokens.scope_of_ticket(each) for each in forged] == [None] * len(forged)


def test_a_guesser_is_made_to_wait_and_others_are_not(
    seeded: Seeded, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door(seeded, tokens, behind_proxy=True)
    guesser = {"x-forwarded-for": "203.0.113.9, 198.51.100.7"}
    assert [door.log_in("guess", **guesser).status_code for _ in range(login.FAILURES)] == [401] * login.FAILURES
    late = door.log_in(tokens.text("read"), **guesser)
    assert late.status_code == 429
    assert 0 < int(late.headers["retry-after"]) <= login.FAILURE_SECONDS
    assert "Got 5 wrong tokens from 198.51.100.7. Try again in" in late.json()["error"]
    assert door.log_in(tokens.text("read"), **{"x-forwarded-for": "198.51.100.8"}).status_code == 200
    assert door.refused == {"token": 5.0, "rate": 1.0}
    monkeypatch.setattr(login, "FAILURE_SECONDS", 0.0)
    assert door.log_in(tokens.text("read"), **guesser).status_code == 200


def test_guessers_of_many_addresses_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "ADDRESSES", 10)
    failures = login.Failures()
    for each in range(100):
        failures.add(f"192.0.2.{each}")
    assert len(failures._since) == 10


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"token": "x"}', "text/plain", 415),
        (b"token=x", "application/x-www-form-urlencoded", 415),
        (b'{"token": "x"}', "", 415),
        (b'{"token": "' + b"x" * 5000 + b'"}', "application/json", 413),
        (b"", "application/json", 400),
        (b'{"token": 1}', "application/json", 400),
        (b'{"token": "x", "scope": "control"}', "application/json", 400),
        (b'{"token": "\xff"}', "application/json", 400),
        (b"[" * 4000, "application/json", 400),
    ],
)
def test_a_login_of_another_shape_is_refused(door: Door, body: bytes, kind: str, status: int) -> None:
    answer = door.request("POST", "/login", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"].startswith("Got ")


def order(door: Door, scope: str = "control", body: object = ORDER, **headers: str) -> httpx.Response:
    shown = door.bearer(scope) if door.tokens else {}
    return door.request("POST", TIGHTEN, json=body, headers=shown | headers)


def test_an_order_asks_the_runs_agent_once_however_often_it_is_heard(door: Door) -> None:
    assert order(door).json() == {"id": "order-1", "ranks": [0], "repeated": False}
    assert order(door).json() == {"id": "order-1", "ranks": [0], "repeated": True}
    (asked,) = door.orders_carried_out
    assert (asked.run_id, asked.ranks, asked.quantity, asked.times, asked.seconds) == (ID, [0], "fisher_trace", 8, 60.0)
    assert STEPS[4] + 1000 <= asked.until_step < STEPS[4] + 1000 + 10 * STEPS[4] * 60
    other = order(door, body=ORDER | {"times": 2})
    assert (other.status_code, len(door.orders_carried_out)) == (409, 1)
    assert door.orders == {"taken": 1.0, "repeated": 1.0, "refused": 1.0}


def test_an_order_is_not_carried_out_again_by_the_next_life_of_the_collector(
    seeded: Seeded, door: Door, tokens: Tokens
) -> None:
    order(door)
    carried_out = door.orders_carried_out
    seeded.store.close()
    door.store = seeded.store = Store(seeded.store.path)
    kept = Reader(seeded.store.path).order("order-1")
    assert kept == carried_out[0]
    assert (kept.given_by, abs(kept.given_at - time.time()) < 60) == ("127.0.0.1", True)
    assert order(door).json()["repeated"] is True
    assert door.carry_out(kept) is False, "nor where it passes the first look"
    assert len(door.orders_carried_out) == 1


def test_an_order_that_cannot_be_written_down_is_not_carried_out(seeded: Seeded) -> None:
    def full(_: OrderRow) -> bool:
        raise NotKept("database or disk is full")

    Door(seeded, None)
    app = create_app(seeded.reader, seeded.live, seeded.feed, lambda: b"", lambda: True, carry_out=full)
    answer = Client(app).request("POST", TIGHTEN, json=ORDER)
    assert answer.status_code == 503
    assert answer.json()["error"] == (
        "Got the order 'order-1', which cannot be written down now: database or disk is full. It was not carried out; give it again."
    )


def test_ids_of_orders_are_remembered_within_a_bound(
    seeded: Seeded, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "MOST", 3)
    door = Door(seeded, tokens)
    for number in range(5):
        order(door, body=ORDER | {"id": f"o{number}"})
    assert order(door, body=ORDER | {"id": "o4"}).json()["repeated"] is True
    assert order(door, body=ORDER | {"id": "o0"}).json()["repeated"] is False
    assert len(door.orders_carried_out) == 6


def test_who_may_read_may_not_control(door: Door) -> None:
    answer = order(door, "read")
    assert (answer.status_code, door.orders_carried_out) == (403, [])
    assert answer.json() == {"error": "Got the token to read; need the one to control."}
    assert door.refused == {"scope": 1.0}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": PAGE}, 200),
        ({}, 403),  # every browser says where a write comes from
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": f"{PAGE}.evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_a_browser_writes_from_our_own_page_alone(
    door: Door, tokens: Tokens, headers: dict[str, str], status: int
) -> None:
    cookie = {"cookie": f"phasewatch8080={tokens.ticket('control')}"}
    assert door.request("POST", TIGHTEN, json=ORDER, headers=cookie | headers).status_code == status
    assert len(door.orders_carried_out) == (status == 200)
    assert door.refused == ({} if status == 200 else {"origin": 1.0})


def test_a_foreign_page_may_not_write_either_where_no_token_is_asked_for(seeded: Seeded) -> None:
    door = Door(seeded, None)
    assert order(door, origin="https://evil.example").status_code == 403
    assert order(door, **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert door.request("POST", TIGHTEN, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert door.orders_carried_out == []
    assert order(door).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": "a b"},
        {"quantity": "Fisher trace"},
        {"times": 1},
        {"times": 17},
        {"times": 2.5},
        {"seconds": 0},
        {"seconds": 1e9},
        {"command": "rm"},
    ],
)
def test_an_order_out_of_bounds_is_refused_with_what_does_not_fit(door: Door, change: dict[str, object]) -> None:
    answer = order(door, body=ORDER | change)
    assert (answer.status_code, door.orders_carried_out) == (400, [])
    assert answer.json()["error"].startswith("Got a body that does not fit: ")


def test_an_order_for_what_no_run_measures_is_refused(door: Door) -> None:
    assert order(door, body=ORDER | {"quantity": "joy"}).status_code == 404
    answer = door.request("POST", "/api/runs/nobody/tighten", json=ORDER, headers=door.bearer("control"))
    assert answer.json()["error"].startswith("Got the run 'nobody' and the quantity 'fisher_trace'; no such run")
    assert door.orders == {"refused": 2.0}


def test_tokens_are_private_files_and_an_open_one_is_refused(tmp_path: Path, tokens: Tokens) -> None:
    path = tokens.path("read")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    with pytest.raises(AccessError, match=r"read.token with mode 0644, so that others may read .*chmod 600"):
        Tokens(tmp_path / "keys")
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(AccessError, match="of 5 characters; need 32 or more"):
        Tokens(tmp_path / "keys")


def config(tmp_path: Path, **environment: str):  # noqa: ANN201
    return load(environment={"PHASEWATCH_SECURITY_KEYS": str(tmp_path / "keys"), **environment})[0]


def test_on_this_machine_nothing_is_asked_for_until_there_is_a_key_or_a_token(tmp_path: Path) -> None:
    settings = config(tmp_path)
    assert keys_asked_for(settings) is tokens_asked_for(settings) is None
    assert not (tmp_path / "keys").exists()
    assert access_in_words(settings, None, None) == "agents: everybody on this machine; page: everybody on this machine"
    Tokens(tmp_path / "keys").make()
    assert tokens_asked_for(settings) is not None


def test_an_inlet_that_others_can_reach_needs_a_key_first(tmp_path: Path) -> None:
    settings = config(tmp_path, PHASEWATCH_INLET_ADDRESS="tcp://0.0.0.0:5757")
    with pytest.raises(AccessError, match=r"no key in .*Make one .*: probe-collector keys create NAME"):
        keys_asked_for(settings)


def test_a_page_that_others_can_reach_makes_its_tokens(tmp_path: Path) -> None:
    settings = config(tmp_path, PHASEWATCH_WEB_HOST="192.0.2.1", PHASEWATCH_WEB_BEHIND_PROXY="true")
    made = tokens_asked_for(settings)
    assert made is not None
    again = tokens_asked_for(settings)
    assert again is not None
    assert made.text("read") == again.text("read") != made.text("control")


def test_an_open_page_is_told_no_more_when_its_token_is_replaced(
    seeded: Seeded, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeded.feed, "_seconds_between", 0.0)
    monkeypatch.setattr(seeded.feed, "_keep_alive_seconds", 0.05)
    door = Door(seeded, tokens)
    timer = threading.Timer(0.3, tokens.make, kwargs={"anew": True})
    timer.start()
    told = door.get("/api/feed", headers=door.bearer("read"), timeout=30).content  # ends only if the collector ends it
    timer.join()
    assert told.startswith(b"retry: ")
    assert b": keep-alive" in told
    assert seeded.feed._boxes == set()


PATHS = st.lists(
    st.sampled_from(
        ["api", "runs", "static", "login", "healthz", "metrics", "..", ".", "%2e%2e", "", ID, "tighten", "é\x00"]
    )
    | st.text(max_size=8),
    max_size=5,
).map(lambda parts: "/" + "/".join(parts))
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
HEADERS = st.dictionaries(
    st.sampled_from(["authorization", "cookie", "origin", "content-type", "x-forwarded-proto", "accept"]),
    st.sampled_from(["", "Bearer ", "phasewatch8080=control.9999999999.0", "application/json", "null", PAGE, "https"])
    | st.binary(max_size=20).map(lambda raw: raw.decode("latin-1").replace("\r", "").replace("\n", "")),
    max_size=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=PATHS, method=METHODS, headers=HEADERS, body=st.binary(max_size=60))
def test_whatever_a_stranger_asks_nothing_of_a_run_is_told_and_nothing_breaks(
    door: Door, path: str, method: str, headers: dict[str, str], body: bytes
) -> None:
    answer = door.raw(method, path, {name: value.encode("latin-1") for name, value in headers.items()}, body)
    assert answer.status_code < 500
    assert ID.encode() not in answer.content.replace(path.encode(), b"")
    assert answer.status_code not in {200, 204} or path.startswith(("/login", "/static/", "/healthz", "/readyz"))
    assert door.orders_carried_out == []
