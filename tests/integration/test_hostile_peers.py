"""Hostile peers of a real collector: whatever they send, it stands, does not grow, and an honest agent beside them loses nothing."""

import random
import re
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from collector.store.queries import Reader
from probe_agent.outbox import ZmqOutbox
from probe_wire import (
    Column,
    Estimate,
    Goodbye,
    Hello,
    Nack,
    Outcome,
    ProbeCost,
    Quantity,
    Report,
    Run,
    Schema,
    ToCollector,
    decode_for_agent,
    encode,
    pack,
)
from tests.integration.collector_process import CollectorProcess
from tests.integration.reporter import draft
from tests.mutants import mutants
from tests.patience import eventually

LARGE = 64 * 2**20
EVIL = Run("evil", "evil", "host", 1, 0.0)
FISHER = Quantity("fisher_trace", "1", "Help.", "Title", "log")
SCHEMA = Schema(1, (FISHER,), (Column("fisher_trace"),))
REPORT = Report(1, 1, 0.0, 1, *pack([Estimate(1.0, 0.1, 0.1, 8)]), (ProbeCost("fisher_trace", 0.1),), 1.0, 0.1)
MESSAGES: tuple[ToCollector, ...] = (Hello(EVIL, 0, "e", 1), SCHEMA, REPORT, Goodbye(2, 2, 0.0, "finished"))


class Canary:
    """An honest agent beside the hostile ones. What it reports must all be in the store, once."""

    def __init__(self, collector: CollectorProcess, run: str) -> None:
        self._collector = collector
        self._run = run
        self._outbox = ZmqOutbox(collector.inlet, Run(run, run, "host", 1, 0.0), 0, lambda: 0)
        self._step = 0

    def sing(self, reports: int) -> None:
        for _ in range(reports):
            self._step += 1
            self._outbox.put(draft(self._step))

    def lost_nothing(self) -> bool:
        eventually(lambda: not self._outbox.undelivered, seconds=30, what="the honest agent's reports")
        self._outbox.close("finished")
        frames = Reader(self._collector.store).frames(self._run)
        kept = Counter(frame.message.step for frame in frames if isinstance(frame.message, Report))
        return kept == Counter(range(1, self._step + 1)) and self._outbox.dropped == 0


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorProcess]:
    """One for all of these tests: it has to stand all of it."""
    with CollectorProcess(tmp_path_factory.mktemp("hostile") / "store.db") as started:
        first = started.process
        yield started
        assert started.process is first
        assert started.get("/healthz") == "ok\n"


@pytest.fixture
def canary(collector: CollectorProcess) -> Canary:
    singing = Canary(collector, f"canary-{uuid.uuid4().hex}")
    singing.sing(20)
    return singing


@contextmanager
def dealer(collector: CollectorProcess) -> Iterator["zmq.Socket[bytes]"]:
    """A stranger who speaks ZeroMQ."""
    with zmq.Context() as context:
        one = context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 0), (zmq.RCVHWM, 10), (zmq.SNDTIMEO, 10_000)):
            one.setsockopt(option, value)
        one.connect(collector.inlet)
        try:
            yield one
        finally:
            one.close(linger=0)


def tcp(collector: CollectorProcess, said: bytes = b"") -> socket.socket:
    """A stranger who speaks anything else."""
    opened = socket.create_connection(("127.0.0.1", int(collector.inlet.rsplit(":", 1)[1])), timeout=5)
    opened.sendall(said)
    return opened


@contextmanager
def growing_less_than(collector: CollectorProcess, limit: int) -> Iterator[None]:
    """Even at its largest the collector takes no more than so many bytes beyond what it takes now."""
    assert collector.process is not None
    of_process = Path(f"/proc/{collector.process.pid}")

    def resident(name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+)", (of_process / "status").read_text())
        assert found
        return int(found[1]) * 1024

    (of_process / "clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < limit


def count(collector: CollectorProcess, name: str, reason: str = "") -> float:
    """A counter, all of its series together, or that of one reason."""
    labels = rf'{{reason="{reason}"}}' if reason else "(?:{.*})?"
    found = re.findall(rf"^phasewatch_{name}_total{labels} (\S+)$", collector.get("/metrics"), re.MULTILINE)
    assert found, name
    return sum(map(float, found))


def test_twenty_thousand_mutants_neither_stop_nor_swell_a_collector_and_cost_an_honest_agent_nothing(
    collector: CollectorProcess, canary: Canary
) -> None:
    with dealer(collector) as stranger, growing_less_than(collector, LARGE):
        seeds = [encode(message) for message in MESSAGES]
        for i, mutant in enumerate(mutants(seeds, 20_000)):
            if i % 200 == 0:
                canary.sing(5)
                for message in seeds[:2]:
                    stranger.send(message)  # so that much of what follows is read as of a stream
            stranger.send(mutant)
        eventually(lambda: count(collector, "rejected_messages") > 15_000, seconds=30, what="them to be refused")
        assert canary.lost_nothing()


def test_garbage_other_protocols_and_three_hundred_half_open_peers_leave_an_honest_agent_alone(
    collector: CollectorProcess, canary: Canary
) -> None:
    noise = random.Random(0)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 32)
    openings = [b"", b"\xff", greeting[:11], greeting, b"\x01\x00", b"\x00" * 64]
    openings += [b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]
    openings += [greeting + noise.randbytes(64), greeting + b"\x04\xff" * 40, b"\xff" * 4096]
    with ExitStack() as kept_open:
        kept_open.enter_context(growing_less_than(collector, LARGE))
        for i in range(300):
            kept_open.enter_context(tcp(collector, openings[i % len(openings)]))
            if i % 30 == 0:
                canary.sing(5)
        for _ in range(200):
            with tcp(collector, noise.randbytes(noise.randrange(1, 2000))):
                pass
        canary.sing(50)
        assert canary.lost_nothing()


def test_messages_of_many_parts_and_of_sixty_four_megabytes_never_get_further_than_the_inlet(
    collector: CollectorProcess, canary: Canary
) -> None:
    hello = encode(Hello(structs.replace(EVIL, id="in-parts"), 0, "e", 1))
    refused, too_large = count(collector, "rejected_messages"), count(collector, "rejected_messages", "too_large")
    with dealer(collector) as stranger:
        for parts in ([b"x"] * 1000, [b""] * 1000, [b"relay", b"stream"], [b"a name that is too long" * 10]):
            stranger.send_multipart([*parts, hello])
        eventually(lambda: count(collector, "rejected_messages") == refused + 4, seconds=10, what="them to be refused")
    assert "in-parts" not in {run["id"] for run in collector.get("/api/runs")["runs"]}
    with growing_less_than(collector, LARGE // 2):
        for _ in range(4):
            with dealer(collector) as stranger:
                stranger.send(bytes(LARGE), copy=False)
                canary.sing(5)
                time.sleep(0.1)
        assert canary.lost_nothing()
    assert count(collector, "rejected_messages", "too_large") == too_large


def test_whatever_numbers_a_valid_client_sends_are_kept_shown_and_judged_without_a_failure(
    collector: CollectorProcess, canary: Canary
) -> None:
    odd = (float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 5e-324, -0.0, 1.0)
    steps = (2**62, 0, 2**62 - 1, 2**53 + 1, 5, 5)
    names = ("fisher_trace", "probe_loss", "local_complexity", "hessian_lambda_max")
    failures = (count(collector, "store_errors"), count(collector, "phase_failures"))
    schema = Schema(2**62, tuple(structs.replace(FISHER, name=name) for name in names), tuple(map(Column, names)))
    with dealer(collector) as stranger:
        stranger.send(
            encode(Hello(structs.replace(EVIL, id="numbers", started_at=-1e10, pid=2**62), 2**31, "e", 1, 2**62))
        )
        stranger.send(encode(schema))
        for i in range(400):
            estimates = [
                Estimate(odd[(i + j) % 8], odd[(3 * i + j) % 8], odd[(5 * i + j) % 8], 2**32 - 1, Outcome(i % 9))
                for j in range(4)
            ]
            cost = ProbeCost("loss", odd[i % 8], 255, "x" * 2000, 2**62)
            report = Report(
                i + 1, steps[i % 6], odd[i % 3], 2**62, *pack(estimates), (cost,), odd[i % 5], odd[(i + 3) % 8]
            )
            stranger.send(encode(report))
        stranger.send(encode(Goodbye(401, 2**62, float("nan"), "finished")))
        (run,) = eventually(
            lambda: [run for run in collector.get("/api/runs")["runs"] if run["id"] == "numbers" and run["finished"]],
            seconds=20,
            what="it all to be stored",
        )
    assert run["reports"] == 400
    assert (count(collector, "store_errors"), count(collector, "phase_failures")) == failures
    for path in ("", "/transitions", *(f"/points?quantity={name}" for name in names)):
        assert collector.get(f"/api/runs/numbers{path}") is not None, path
    assert canary.lost_nothing()


def test_a_hostile_name_comes_back_from_metrics_and_the_api_as_it_was(collector: CollectorProcess) -> None:
    names = {
        "quotes": 'quote"back\\slash',
        "lines": "two\nlines\r\n",
        "right-to-left": "\u202egnirts \u2066",
        "largest": "\U0010ffff" * 200,
        "markup": "<img src=x onerror=alert(1)>",
        "control": "\0\x1b[2J",
    }
    with dealer(collector) as stranger:
        for run_id, name in names.items():
            run = Run(run_id, name, name, 1, 0.0, {"label": name}, agent_version=name[:32])
            column = Column("fisher_trace", {"layer": name}, {"mode": name})
            schema = Schema(1, (structs.replace(FISHER, help=name, title=name, unit="1"),), (column,))
            report = structs.replace(REPORT, costs=(ProbeCost("loss", 0.1, 5, name),))
            for message in (Hello(run, 0, "e", 1), schema, report):
                stranger.send(encode(message))

        def listed() -> dict[str, dict[str, Any]]:
            runs = {run["id"]: run for run in collector.get("/api/runs")["runs"]}
            return {run_id: runs[run_id] for run_id in names if run_id in runs and runs[run_id]["reports"]}

        views = eventually(lambda: listed().keys() == names.keys() and listed(), seconds=10, what="the reports")
    families = {family.name: family for family in text_string_to_metric_families(collector.get("/metrics"))}
    layers = {
        sample.labels["run"]: sample.labels.get("layer") for sample in families["phasewatch_fisher_trace"].samples
    }
    for run_id, name in names.items():
        assert layers[name] == f"00.{name}"
        view = views[run_id]
        assert (view["name"], view["host"], view["labels"]) == (name, name, {"label": name})
        (quantity,) = collector.get(f"/api/runs/{run_id}")["quantities"]
        assert (quantity["title"], quantity["help"]) == (name, name)


@pytest.mark.parametrize(
    "hello",
    [
        Hello(structs.replace(EVIL, started_at=float("nan")), 0, "e", 1),
        Hello(structs.replace(EVIL, started_at=float("inf")), 0, "e", 1),
        Hello(EVIL, 0, "e", 2**32 + 1),
        Hello(EVIL, 0, "e", 2**62),
    ],
    ids=("from no time", "from the end of time", "of a number used before", "of a number beyond counting"),
)
def test_a_greeting_beyond_all_bounds_is_refused_and_nobody_else_hears_of_it(
    collector: CollectorProcess, canary: Canary, hello: Hello
) -> None:
    undone = count(collector, "store_errors")
    with dealer(collector) as stranger:
        stranger.send(encode(hello))
        assert stranger.poll(5000)
        answer = decode_for_agent(stranger.recv())
    assert isinstance(answer, Nack)
    assert (answer.reason, "breaks its schema" in answer.detail) == ("bad_message", True)
    assert canary.lost_nothing()
    assert count(collector, "store_errors") == undone
