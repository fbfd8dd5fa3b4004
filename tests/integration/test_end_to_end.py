"""The main job: a real training run on real data, a real collector process, every hop between them."""

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import zmq
from torch import nn

import probe_agent
from collector.store.queries import Reader
from probe_agent import Budget, Every, Watch
from probe_agent.probes.loss import Loss
from probe_wire import Advice, Nack, decode_for_agent
from tests import warm
from tests.integration.collector_process import ROOT, CollectorProcess
from tests.integration.watched_digits import EXAMPLE, MEASURED
from tests.patience import eventually


def small_run(
    collector: str, *, run: str = "small", steps: int = 40, pause: float = 0.0, every: int = 1
) -> probe_agent.Monitor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(64, 4), torch.randint(0, 3, (64,))
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(x, y),
        run=run,
        collector=collector,
        watches=[Watch(Every(every), (Loss(),))],
        budget=Budget(share=1000),
    )
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(pause)
    return monitor


def stored_steps(store: Path) -> Counter[tuple[int, int]]:
    """The multiset of (rank, step) of all committed reports: the only honest witness of exactly-once."""
    reader = Reader(store)
    series = {
        row.id: row.rank for run in reader.runs() for row in reader.series(run.id) if row.quantity == "probe_loss"
    }
    points = reader.points(list(series))
    return Counter((series[series_id], step) for series_id, column in points.items() for step in column.step)


def test_digits_end_to_end_a_transition_is_detected_stored_shown_exported_and_replayed(tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "s.db") as collector:
        trained = subprocess.run(
            [
                *warm.command(warm.AGENT),
                str(Path(__file__).with_name("watched_digits.py")),
                "--steps",
                "3000",
                "--collector",
                collector.inlet,
            ],
            capture_output=True,
            text=True,
            timeout=150,
            cwd=ROOT,
            check=False,
        )
        assert trained.returncode == 0, trained.stderr
        assert float(trained.stdout.split()[-1]) > 0.9
        (run,) = collector.get("/api/runs")["runs"]
        assert (run["name"], run["step"], run["state"], run["lost"]) == ("digits", 3000, "finished", 0)

        transitions = [s["transition"] for s in collector.get(f"/api/runs/{run['id']}/transitions")]
        claims = [
            t for t in transitions if t["machine"] == "critical_period" and t["to_phase"] == "after_critical_period"
        ]
        assert [t["state"] for t in claims if t["act"]] == ["confirmed"], claims
        (t,) = (t for t in claims if t["state"] == "detected")
        assert t["happened_between"][0] <= t["happened_step"] <= t["happened_between"][1] < t["known_step"]
        assert 150 < t["happened_step"] < 900
        assert "safe to remove augmentation" in t["advice"]
        assert t["evidence"]["before"]["mean"] > t["evidence"]["after"]["mean"]
        assert t["confidence"] > 0.99

        metrics = collector.get("/metrics")
        assert re.search(r'^phasewatch_phase\{[^}]*phase="after_critical_period"[^}]*\} 1\.0$', metrics, re.MULTILINE)
        assert re.search(r'^phasewatch_fisher_trace\{run="digits"[^}]*\} \d', metrics, re.MULTILINE)

        eventually(
            lambda: not collector.get("/api/record")["busy"], seconds=60, what="the run to be judged in hindsight"
        )
        judged = r'^phasewatch_realised_judged\{from_phase="",machine="",to_phase=""\} 1\.0$'
        assert re.search(judged, collector.get("/metrics"), re.MULTILINE)

        for command in (("runs",), ("transitions",), ("replay",)):
            shown = collector.command(*command)
            assert shown.returncode == 0, shown.stderr
            as_json = collector.command(*command, "--json")
            json.loads(as_json.stdout)
        assert "after_critical_period" in collector.command("transitions").stdout
        assert "the same to the byte as found live" in collector.command("replay").stdout
        assert collector.stop() in (0, -15)


def ended(monitor: probe_agent.Monitor) -> list[Advice]:
    """What a monitor was told of the end of the critical period."""
    wanted = ("critical_period", "after_critical_period")
    return [each for each in monitor.advice if (each.machine, each.to_phase) == wanted]


def test_advice_reaches_the_training_process(tmp_path: Path) -> None:
    """digits.py in this process, so that the monitor's advice can be looked at."""
    sys.path.insert(0, str(EXAMPLE.parent))
    try:
        import digits
    finally:
        sys.path.pop(0)
    with CollectorProcess(tmp_path / "s.db") as collector:
        (x, y), _ = digits.digits()
        torch.manual_seed(0)
        model = digits.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        with probe_agent.attach(
            model,
            optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(x[:256], y[:256]),
            run="d",
            collector=collector.inlet,
            **MEASURED,  # type: ignore[arg-type]
        ) as monitor:
            for step, (xb, yb) in enumerate(digits.batches(x, y)):
                loss = F.cross_entropy(model(xb), yb)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step > 8000 or ended(monitor):
                    break
            advice = eventually(lambda: ended(monitor), seconds=10, what="the advice")
        assert "safe to remove augmentation" in advice[0].text
        assert advice[0].evidence


def test_a_collector_killed_in_the_middle_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "s.db") as collector:
        done: list[probe_agent.Monitor] = []
        trainer = threading.Thread(target=lambda: done.append(small_run(collector.inlet, steps=400, pause=0.005)))
        trainer.start()
        for _ in range(3):
            time.sleep(0.7)
            collector.kill()
            collector.start()
        trainer.join(60)
        (monitor,) = done
        eventually(lambda: monitor._outbox.undelivered == 0, seconds=20, what="every report to be acknowledged")  # type: ignore[attr-defined]
        monitor.close()
        assert stored_steps(collector.store) == Counter({(0, step): 1 for step in range(401)})
        (run,) = collector.get("/api/runs")["runs"]
        assert (run["lost"], run["state"]) == (0, "finished")


def test_reports_made_while_no_collector_ran_arrive_when_one_starts(tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "s.db") as collector:
        collector.kill()
        monitor = small_run(collector.inlet, steps=50)
        collector.start()
        eventually(lambda: monitor._outbox.undelivered == 0, seconds=20, what="every report to be acknowledged")  # type: ignore[attr-defined]
        monitor.close()
        assert stored_steps(collector.store) == Counter({(0, step): 1 for step in range(51)})


def test_a_collector_restarted_knows_the_runs_phases_and_goes_on(tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "s.db") as collector:
        monitor = small_run(collector.inlet, steps=20)
        eventually(lambda: monitor._outbox.undelivered == 0, seconds=20, what="every report to be acknowledged")  # type: ignore[attr-defined]
        assert collector.stop() in (0, -15)
        collector.start()
        detail = eventually(lambda: collector.get("/api/runs")["runs"], seconds=5, what="the run")[0]
        assert (detail["state"], detail["step"]) == ("running", 20)
        assert 'phasewatch_run_step{run="small"} 20.0' in collector.get("/metrics")
        monitor.close()


FORGETFUL = """
import sys, torch, torch.nn.functional as F, probe_agent
model = torch.nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(32, 4), torch.randint(0, 3, (32,))
probe_agent.attach(model, optimizer, loss_fn=F.cross_entropy, probe_batch=(x, y), run="forgetful", collector=sys.argv[1])
for _ in range(10):
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""


def test_a_script_that_never_closes_its_monitor_loses_nothing_at_exit(tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "s.db") as collector:
        subprocess.run([*warm.command(warm.AGENT), "-c", FORGETFUL, collector.inlet], check=True, timeout=60, cwd=ROOT)
        assert stored_steps(collector.store) == Counter({(0, step): 1 for step in range(11)})
        (run,) = collector.get("/api/runs")["runs"]
        assert run["finished"] == "interpreter exit"


def test_two_runs_of_one_name_are_two_runs(tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "s.db") as collector:
        monitors = [small_run(collector.inlet, run="twin", steps=5) for _ in range(2)]
        for monitor in monitors:
            monitor.close()
        runs = collector.get("/api/runs")["runs"]
        assert [r["name"] for r in runs] == ["twin", "twin"]
        labels = set(re.findall(r'^phasewatch_run_step\{run="([^"]+)"\}', collector.get("/metrics"), re.MULTILINE))
        assert len(labels) == 2
        assert "twin" in labels


def test_garbage_on_the_wire_is_refused_counted_and_harmless(tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "s.db") as collector, zmq.Context() as context:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(collector.inlet)
        answers = []
        for garbage in (b"", b"\x01garbage", b"\x07", b"GET / HTTP/1.1\r\n\r\n"):
            socket.send(garbage)
            assert socket.poll(5000)
            answer = decode_for_agent(socket.recv())
            assert isinstance(answer, Nack)
            answers.append(answer.reason)
        assert answers == ["version", "bad_message", "version", "version"]
        socket.send_multipart([b"three", b"parts", b"now"])
        assert socket.poll(5000)
        socket.close(linger=0)
        monitor = small_run(collector.inlet, steps=5)
        monitor.close()
        assert stored_steps(collector.store) == Counter({(0, step): 1 for step in range(6)})
        metrics = collector.get("/metrics")
        assert 'phasewatch_rejected_messages_total{reason="version"} 3.0' in metrics
        assert 'phasewatch_rejected_messages_total{reason="bad_message"} 2.0' in metrics


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--web-port", "PAGE"), "page's address 127.0.0.1:PAGE, which cannot be listened on: Address already in use"),
        (("--web-port", "0", "--inlet-address", "INLET"), "inlet address INLET, which cannot be listened on"),
    ],
)
def test_a_port_in_use_is_refused_at_the_door(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with CollectorProcess(tmp_path / "s.db") as collector:
        port = collector.page.rsplit(":", 1)[1]
        names = {"PAGE": port, "INLET": collector.inlet}
        flags = [names.get(a, a) for a in arguments]
        if "--inlet-address" not in flags:
            flags += ["--inlet-address", "tcp://127.0.0.1:*"]
        (tmp_path / "other").mkdir()
        second = CollectorProcess(tmp_path / "other" / "s.db").command("serve", *flags)
        assert second.returncode == 2
        for name, value in names.items():
            words = words.replace(name, value)
        assert words in second.stderr
        assert "Traceback" not in second.stderr
