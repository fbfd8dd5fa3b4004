"""A real inlet over a real store, and agents that say to it exactly what they are told to."""

import time
from pathlib import Path

import zmq

from collector.gate import Gate
from collector.health import Health
from collector.inlet import Inlet
from collector.keys import Keys
from collector.live import Live
from collector.phases import Transition
from collector.pipeline import Pipeline
from collector.store.sqlite import Store
from probe_wire import (
    Ack,
    Advice,
    Column,
    Estimate,
    Hello,
    Quantity,
    Report,
    Run,
    Schema,
    ToAgent,
    ToCollector,
    decode_for_agent,
    encode,
    pack,
)
from probe_wire.agent_key import AgentKey

RUN = Run("run-1", "test", "host", 1, 0.0)
SCHEMA = Schema(1, (Quantity("fisher_trace", "1", "Help.", "Title", "log"),), (Column("fisher_trace"),))


def report(seq: int, value: float = 1.0, *, schema: int = 1, columns: int = 1) -> Report:
    return Report(seq, seq * 10, 0.0, schema, *pack([Estimate(value, 0.01, 0.005, 8)] * columns))


class Agent:
    """A DEALER socket that says exactly what it is told to."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        key: AgentKey | None = None,
        identity: bytes = b"",
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, 10_000)  # who was refused has nobody to send to
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        if key is not None:
            self.socket.setsockopt_string(zmq.CURVE_SERVERKEY, key.collector)
            self.socket.setsockopt_string(zmq.CURVE_PUBLICKEY, key.public)
            self.socket.setsockopt_string(zmq.CURVE_SECRETKEY, key.secret)
        self.socket.connect(address)

    def say(self, *messages: ToCollector) -> None:
        for message in messages:
            self.socket.send(encode(message))

    def hear(self, seconds: float = 5.0) -> ToAgent:
        assert self.socket.poll(int(seconds * 1000)), f"heard nothing for {seconds} s"
        return decode_for_agent(self.socket.recv())

    def hear_ack(self, seq: int) -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            message = self.hear()
            assert isinstance(message, Ack | Advice), message
            if message == Ack(seq):
                return
        raise AssertionError(f"never heard Ack({seq})")

    def open(self, epoch: str = "a", first: int = 1, *, tightens: bool = False) -> None:
        self.say(Hello(RUN, 0, epoch, first, tightens=tightens), SCHEMA)
        assert isinstance(self.hear(), Ack)


class Setup:
    """A gate, an inlet, a pipeline and a store, and the agents that talk to them."""

    def __init__(
        self, folder: Path, keys: Keys | None = None, handshake_seconds: float = 10.0, *, recovers: bool = False
    ) -> None:
        self.path = folder / "s.db"
        self.health = Health()
        self.live = Live()
        self.told: list[Transition] = []
        self.ticks: list[tuple[str, int, int]] = []
        self.store = Store(self.path)
        self.pipeline = Pipeline(
            self.store, self.live, self.health, (self,), tick=lambda *tick: self.ticks.append(tick)
        )
        self.gate = Gate("tcp://127.0.0.1:*", keys, self.health, handshake_seconds=handshake_seconds)
        self.inlet = Inlet(self.gate, self.pipeline, self.health)
        if recovers:
            self.pipeline.recover()
        self.inlet.start()
        self.agents: list[Agent] = []
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def handle(self, run: Run, transition: Transition) -> None:
        assert run == RUN
        self.told.append(transition)

    def agent(self, key: AgentKey | None = None, identity: bytes = b"") -> Agent:
        self.agents.append(Agent(self.context, self.gate.address, key, identity))
        return self.agents[-1]

    def close(self) -> None:
        for agent in self.agents:
            agent.socket.close(linger=0)
        self.context.term()
        self.inlet.stop()
        self.store.close()

    def count(self, name: str, **labels: str) -> float:
        return self.health.registry.get_sample_value(f"phasewatch_{name}_total", labels) or 0.0
