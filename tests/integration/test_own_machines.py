"""A machine of a user's own in a real collector: judged live, shown, and replayed to the byte."""

from pathlib import Path

import zmq

from collector.phases.simulated import simulated
from probe_wire import Ack, Column, Estimate, Hello, Quantity, Report, Run, Schema, decode_for_agent, encode, pack
from tests.integration.collector_process import CollectorProcess

OWN = """
name = "doubling"
quantity = "fisher_trace"
phases = [{ name = "low", meaning = "" }, { name = "high", meaning = "" }]
turns = [{ from_phase = "low", to_phase = "high", when = "rise", min_effect = 1.0 }]
"""


def send(address: str, run: str) -> None:
    """A rise, as an agent would report it, until the collector has acknowledged all of it."""
    curve = simulated(("rise",), 3, snr=20.0)
    schema = Schema(1, (Quantity("fisher_trace", "1", "Help.", "Title", "log"),), (Column("fisher_trace"),))
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        socket.send(encode(Hello(Run(run, run, "host", 1, 10.0), 0, "a", 1)))
        socket.send(encode(schema))
        for i, (value, error) in enumerate(zip(curve.values.tolist(), curve.paired.tolist(), strict=True)):
            socket.send(encode(Report(i + 1, 10 * i, float(i), 1, *pack([Estimate(value, error, error, 64)]))))
        heard = None
        while heard != Ack(curve.values.size):
            assert socket.poll(10_000), f"heard nothing after {heard}"
            heard = decode_for_agent(socket.recv())


def test_a_machine_in_the_configuration_judges_live_is_kept_and_replayed(tmp_path: Path) -> None:
    (tmp_path / "doubling.toml").write_text(OWN)
    (tmp_path / "phasewatch.toml").write_text('[phases]\nmachines = ["doubling.toml"]\nalpha = 0.001\n')
    with CollectorProcess(tmp_path / "s.db") as collector:
        send(collector.inlet, "run-1")
        told = [each["transition"] for each in collector.get("/api/runs/run-1/transitions")]
        (own,) = (t for t in told if (t["machine"], t["state"]) == ("doubling", "detected"))
        assert (own["from_phase"], own["to_phase"]) == ("low", "high")
        replayed = collector.command("replay")
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr
        assert "the same to the byte as found live" in replayed.stdout
