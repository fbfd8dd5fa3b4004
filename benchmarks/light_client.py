"""One light agent: a stream on a socket of its own, as much of the protocol as matters under load.

Window, cumulative acknowledgement, greeting anew after a refusal or a silence, and going back from there, as the agent's courier has it;
no spool and no training. Every number of every stream is a step, so that the store can be asked for each.
"""

import random
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress

import zmq

from probe_wire import Ack, Column, Hello, Nack, Quantity, Report, Run, Schema, decode_for_agent, encode
from probe_wire.agent_key import AgentKey

POINTS = 20
WINDOW = 512
SILENCE_SECONDS = 4.0
JUDGED = ("fisher_trace", "probe_loss", "local_complexity", "hessian_lambda_max")
KINDS = 64

OPTIONS = {
    zmq.LINGER: 0,
    zmq.IMMEDIATE: 1,
    zmq.SNDHWM: WINDOW,
    zmq.HANDSHAKE_IVL: 30_000,
    zmq.RECONNECT_IVL_MAX: 5000,
    zmq.HEARTBEAT_IVL: 5000,
    zmq.HEARTBEAT_TIMEOUT: 15_000,
}
Columns = tuple[bytes, bytes, bytes, bytes, bytes]


def quantities(judged: int) -> tuple[Quantity, ...]:
    """``POINTS`` of them, of which so many are judged by a phase machine."""
    names = [*JUDGED[:judged], *(f"quantity_{i}" for i in range(judged, POINTS))]
    return tuple(Quantity(name, "1", "Help.", "Title") for name in names)


def schema_of(measured: Sequence[Quantity]) -> bytes:
    """The encoded schema of one series for each."""
    return encode(Schema(1, tuple(measured), tuple(Column(quantity.name) for quantity in measured)))


def noisy_columns(points: int, seed: int = 0) -> list[Columns]:
    """``KINDS`` reports of noise around 1, to be sent in turn: making noise is not what is measured."""
    noise = random.Random(seed)
    made = []
    for _ in range(KINDS):
        values = array("d", [1 + 0.05 * noise.gauss(0, 1) for _ in range(points)])
        stderrs = array("d", [0.05 + 0.001 * noise.random() for _ in range(points)])
        paired = array("d", [0.02 + 0.001 * noise.random() for _ in range(points)])
        made.append(
            (values.tobytes(), stderrs.tobytes(), paired.tobytes(), array("I", [256] * points).tobytes(), bytes(points))
        )
    return made


class Client:
    """One agent. ``made`` says how many reports there are to be delivered; ``acknowledged`` how many are kept.

    Args:
        context: where its socket lives.
        address: the collector's inlet.
        key: lets it in.
        name: its run and rank.
        schema: encoded, of number 1.
        columns: of its reports, in turn.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        key: AgentKey | None,
        name: tuple[str, int],
        schema: bytes,
        columns: Sequence[Columns],
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        for option, value in OPTIONS.items():
            self.socket.setsockopt(option, value)
        if key is not None:
            self.socket.curve_serverkey = key.collector.encode()
            self.socket.curve_publickey, self.socket.curve_secretkey = key.public.encode(), key.secret.encode()
        self.socket.connect(address)
        self.name = name
        self.greeted = False
        self.acknowledged = 0
        self.made = 0
        self._run = Run(name[0], name[0], "host", 1, 0.0)
        self._schema = schema
        self._columns = columns
        self._schema_due = True
        self._sent = 0
        self._greet_at = 0.0
        self._heard = 0.0
        self._last_sent = 0.0

    @property
    def waits(self) -> bool:
        """There may be something to do though nothing was heard."""
        return not self.greeted or self.acknowledged < self.made

    def turn(self, now: float) -> None:
        """Greet where it is time; send what was made and fits the window."""
        outstanding = self._sent > self.acknowledged
        if self.greeted and outstanding and now - max(self._heard, self._last_sent) > SILENCE_SECONDS:
            self.greeted = False
        if not self.greeted:
            hello = Hello(self._run, self.name[1], "epoch", self.acknowledged + 1)
            if now >= self._greet_at and self._put(encode(hello)):
                self._greet_at = now + SILENCE_SECONDS
            return
        if self._schema_due:
            if not self._put(self._schema):
                return
            self._schema_due = False
        while self._sent < min(self.made, self.acknowledged + WINDOW):
            seq = self._sent + 1
            if not self._put(encode(self.report(seq))):
                return
            self._sent, self._last_sent = seq, now

    def report(self, seq: int) -> Report:
        """The report of a step, which is its number."""
        return Report(seq, seq, time.time(), 1, *self._columns[(seq + self.name[1]) % len(self._columns)])

    def hear(self, now: float) -> None:
        """Take in what the collector says."""
        with suppress(zmq.Again):
            while True:
                said = decode_for_agent(self.socket.recv(zmq.NOBLOCK))
                if isinstance(said, Ack):
                    self._heard = now
                    self.acknowledged = max(self.acknowledged, said.seq)
                    if not self.greeted:
                        self.greeted = self._schema_due = True
                        self._sent = said.seq
                elif isinstance(said, Nack):
                    if self.greeted or said.reason == "store":
                        self._greet_at = now + (1.0 if said.reason == "store" else 0.0)
                    self.greeted = False

    def _put(self, data: bytes) -> bool:
        try:
            self.socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
