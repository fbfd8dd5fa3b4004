"""A crowd of light agents in a few processes, asked over pipes how they stand."""

import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

import zmq
from light_client import POINTS, Client, noisy_columns, quantities, schema_of

from probe_wire.agent_key import AgentKey

TURN_SECONDS = 0.01
"""Between two looks at what the sockets have: asking thousands of them for each answer would cost more than the answers."""
NICE = 10
"""A crowd is somewhere else, or is meant to be: it takes what the collector leaves of the processors."""
LOOK_SECONDS = 0.25
"""How often clients of whom nothing is heard are looked after."""


class Told(NamedTuple):
    """How a crowd stands: clients that are greeted, reports made and acknowledged, seconds behind the schedule."""

    greeted: int
    made: int
    acknowledged: int
    late: float


class Crowd:
    """So many clients, ``ranks`` of them to a run, in a process for each key.

    Each client is told apart in the store: of crowd "load", client 120 is rank 20 of the run "load-2" where a run has 50.
    """

    def __init__(
        self,
        name: str,
        clients: int,
        address: str,
        keys: Sequence[AgentKey | None],
        *,
        ranks: int = 50,
        judged: int = 0,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.clients = clients
        self._pipes: list[Connection] = []
        self._processes = []
        for index, key in enumerate(keys):
            ours, theirs = context.Pipe()
            names = [(f"{name}-{i // ranks}", i % ranks) for i in range(clients) if i // ranks % len(keys) == index]
            arguments = (theirs, names, address, key, judged)
            process = context.Process(target=_generate, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.send(("end", 0))
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.kill()

    def report(self, rate: float) -> None:
        """From now on so many reports a second over all clients; 0 for none."""
        self._ask("rate", rate / len(self._pipes))

    def each_reports(self, count: int = 1) -> None:
        """Each client makes so many reports now."""
        self._ask("each", count)

    def told(self) -> Told:
        """How they stand."""
        said: list[Told] = self._ask("told", 0)
        return Told(
            sum(one.greeted for one in said),
            sum(one.made for one in said),
            sum(one.acknowledged for one in said),
            max(one.late for one in said),
        )

    def made(self) -> dict[tuple[str, int], int]:
        """How many reports each client has made."""
        together: dict[tuple[str, int], int] = {}
        for answer in self._ask("made", 0):
            together |= answer
        return together

    def until(self, seconds: float, *, greeted: bool = False) -> float:
        """Wait until all is acknowledged, or all are greeted; how long that took, infinity where it was not within ``seconds``."""
        began = time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            told = self.told()
            if told.greeted == self.clients if greeted else told.acknowledged == told.made:
                return now - began
            time.sleep(0.05)
        return float("inf")

    def _ask(self, what: str, number: float) -> list[Any]:
        for pipe in self._pipes:
            pipe.send((what, number))
        return [pipe.recv() for pipe in self._pipes]


def _generate(
    pipe: Connection, names: Sequence[tuple[str, int]], address: str, key: AgentKey | None, judged: int
) -> None:
    os.nice(NICE)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    schema, columns = schema_of(quantities(judged)), noisy_columns(POINTS)
    with zmq.Context(io_threads=1) as context:
        context.set(zmq.MAX_SOCKETS, 65_000)
        clients = [Client(context, address, key, name, schema, columns) for name in names]
        try:
            _Generator(pipe, clients).run()
        finally:
            for client in clients:
                client.socket.close(linger=0)


class _Generator:
    """One of a crowd's processes."""

    def __init__(self, pipe: Connection, clients: Sequence[Client]) -> None:
        self._pipe = pipe
        self._clients = clients
        self._rate = 0.0
        self._began = 0.0
        self._made = 0  # at this rate
        self._next = 0
        self._looked = 0.0

    def run(self) -> None:
        """Until the pipe says ``end``."""
        of = {client.socket: client for client in self._clients}
        poller = zmq.Poller()
        for socket in of:
            poller.register(socket, zmq.POLLIN)
        going = True
        while going:
            time.sleep(TURN_SECONDS)
            heard = poller.poll(0)
            now = time.monotonic()
            for socket, _ in heard:
                of[socket].hear(now)
                of[socket].turn(now)
            self._make(now)
            self._look(now)
            while going and self._pipe.poll():
                what, number = self._pipe.recv()
                going = self._answer(what, number, now)

    def _make(self, now: float) -> None:
        due = min(int((now - self._began) * self._rate) - self._made, 2000) if self._rate else 0
        for _ in range(due):
            client = self._clients[self._next]
            client.made += 1
            client.turn(now)
            self._next = (self._next + 1) % len(self._clients)
        self._made += due

    def _look(self, now: float) -> None:
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            for client in self._clients:
                if client.waits:
                    client.turn(now)

    def _answer(self, what: str, number: float, now: float) -> bool:
        if what == "rate":
            self._rate, self._began, self._made = number, now, 0
        elif what == "each":
            for client in self._clients:
                client.made += int(number)
        if what == "made":
            self._pipe.send({client.name: client.made for client in self._clients})
        elif what != "end":
            self._pipe.send(self._told(now))
        return what != "end"

    def _told(self, now: float) -> Told:
        return Told(
            sum(client.greeted for client in self._clients),
            sum(client.made for client in self._clients),
            sum(client.acknowledged for client in self._clients),
            max(0.0, now - self._began - self._made / self._rate) if self._rate else 0.0,
        )
