"""Gang: the ranks of a job that watch together, and how they talk without ever entering a collective of the training's.

They talk through the job's store. A collective would hold open sockets that forked data loaders inherit, so
that a rank which left is not noticed, and a failed one keeps its group from being destroyed for as long as
its timeout; a key that is not there costs nothing, and whoever waits for it can look at the clock.

Every rank talks to rank 0 alone: what the store holds, and what is asked of it, grows with the ranks and not with
their square. A key is deleted once all who read it have, so that a gang leaves no more behind after days than after minutes.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, Protocol, cast, final

import torch.distributed as dist
from torch import Tensor

from probe_agent.complaints import said
from probe_agent.interruption import is_interruption

PATIENCE_SECONDS = 15.0
"""How long rank 0 waits for another's word when all of them should be at the same step."""

_LONGER: Final = 1.0
"""Seconds that the others wait longer for rank 0's answer: it is the one that sees who is missing, and says so."""

LINE_SECONDS: Final = 30.0
"""How long any transfer of tensors may take."""

_ALL: Final = -1
"""The place of an answer that is the same for all."""

_AT_ONCE: Final = 16
"""So many words are read with one request."""

_NAMED: Final = 5
"""Of so many ranks that are missing each is named."""

_PART = 2**20
"""Bytes of one value in the store. Its server hangs up on whoever sends more than 8 MiB at once."""

_INTERFACES: Final = "GLOO_SOCKET_IFNAME"
"""Where the user names the networks that gloo is to take, between commas."""


class Store(Protocol):
    """What we use of a c10d store."""

    def set(self, key: str, value: bytes | str) -> None:
        """Put a value."""

    def get(self, key: str) -> bytes:
        """A value; waits for one that is not there."""

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of them are there."""

    def multi_get(self, keys: Sequence[str]) -> Sequence[bytes]:
        """The values of all of them, which are there."""

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Put ``desired`` where ``expected`` stands (an empty text: nothing), and tell what stands there now."""

    def add(self, key: str, amount: int) -> int:
        """Count."""

    def delete_key(self, key: str) -> bool:
        """Forget a value."""


class Work(Protocol):
    """An operation under way."""

    def wait(self) -> bool:
        """Until it is done."""


class Line(Protocol):
    """Moves tensors of the CPU between ranks; every rank does the same operations in the same order."""

    def broadcast(self, tensor: Tensor, root: int) -> Work:
        """From one rank to all."""

    def send(self, tensors: list[Tensor], rank: int, tag: int) -> Work:
        """To one rank."""

    def recv(self, tensors: list[Tensor], rank: int, tag: int) -> Work:
        """From one rank."""


class Dissolved(Exception):
    """The gang is no more: a rank left, failed or kept the others waiting. The message says which."""


@final
class Gang:
    """Ranks that do the same calls in the same order. Every call returns within its patience or raises `Dissolved`.

    Once dissolved, all further calls raise at once, on every rank that makes one: nobody waits twice.

    Args:
        rank: of this process, from 0 to ``size`` - 1.
        size: how many ranks there are.
        store: a connection of our own to a place in the store that belongs to this gang.
    """

    def __init__(self, rank: int, size: int, store: Store) -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._round = 0
        self._written: list[str] = []  # keys that are read by the end of the next agreement
        self._process = os.getpid()
        self._ended: str | None = None

    def agree(self, word: bytes, decide: Callable[[list[bytes]], bytes], patience: float | None = None) -> bytes:
        """What rank 0 makes of what each rank gave, in the order of ranks: the same on every rank.

        Args:
            word: what this rank gives.
            decide: called on rank 0; where it raises, the gang is no more.
            patience: seconds to wait for a rank, `PATIENCE_SECONDS` if nothing is said.
        """
        return self._answered(word, lambda words: {_ALL: decide(words)}, _ALL, patience)

    def ask(self, word: bytes, answers: Callable[[list[bytes]], Sequence[bytes]]) -> bytes:
        """What rank 0 answers this rank; it has one of the ``answers`` to what all gave for each."""
        return self._answered(word, lambda words: dict(enumerate(answers(words))), self.rank, None)

    def collect(self, word: bytes, patience: float | None = None) -> list[bytes]:
        """On rank 0 what each rank gave, in the order of ranks; on the others nothing, without waiting."""
        with self._guarded():
            return self._gathered(word, patience)

    def claim(self, what: str) -> bool:
        """Whether this rank is the one that first claimed it."""
        with self._guarded():
            return bytes(self._store.compare_set(f"claim/{what}", "", str(self.rank))) == str(self.rank).encode()

    @contextmanager
    def line(self, purpose: str) -> Iterator[Line]:
        """A gloo group, known to nobody else and gone afterwards: `torch.distributed` never hears of it.

        Two ranks connect when the first of them has something for the other.
        """
        with self._guarded():
            place, devices = f"{self._round}/{purpose}", _devices()
            self._written += [f"{place}/{i}/{self.rank}" for i in range(len(devices))]  # gloo's own, which it leaves
            yield cast("Line", _group(dist.PrefixStore(place, cast("Any", self._store)), self.rank, self.size, devices))  # type: ignore[attr-defined]

    def leave(self, reason: str) -> None:
        """Say nothing more. Who waits for this rank's next word need not; harmless when repeated."""
        self._end(f"rank {self.rank}: {reason}")

    def _end(self, reason: str) -> None:
        if self._ended is None and self._process == os.getpid():
            self._ended = reason
            with suppress(Exception):
                self._store.set(f"left/{self.rank}", reason)
                self._store.set("left", "")  # last: who sees that somebody left finds who

    def _answered(
        self, word: bytes, answers: Callable[[list[bytes]], Mapping[int, bytes]], place: int, patience: float | None
    ) -> bytes:
        """What rank 0 answers in this place."""
        with self._guarded():
            words = self._gathered(word, patience)
            if self.rank:
                key = f"{self._round}/to/{place}"
                self._await({0: key}, (PATIENCE_SECONDS if patience is None else patience) + _LONGER)
                (answer,) = self._get([key])
                self._forget()  # rank 0 has read all that this one wrote
            else:
                self._forget()  # who has come to this round has read all of those before
                found = answers(words)
                answer = found[place]
                for at, said_there in found.items():
                    self._put(f"{self._round}/to/{at}", said_there)
            return answer

    def _gathered(self, word: bytes, patience: float | None) -> list[bytes]:
        """The words of all ranks, on rank 0."""
        self._round += 1
        if self.rank:
            self._put(f"{self._round}/{self.rank}", word)
            return []
        keys = {rank: f"{self._round}/{rank}" for rank in range(1, self.size)}
        self._await(keys, PATIENCE_SECONDS if patience is None else patience)
        return [word, *self._get(list(keys.values()))]

    def _put(self, key: str, word: bytes) -> None:
        parts = [word[at : at + _PART] for at in range(0, max(1, len(word)), _PART)]
        for i, part in enumerate(parts[1:], start=1):
            self._store.set(f"{key}/{i}", part)
            self._written.append(f"{key}/{i}")
        self._store.set(key, f"{len(parts)}:".encode() + parts[0])  # last: who sees it finds the others
        self._written.append(key)

    def _get(self, keys: Sequence[str]) -> list[bytes]:
        """The words under these keys, which are there."""
        words = []
        for at in range(0, len(keys), _AT_ONCE):
            for key, value in zip(keys[at:], self._store.multi_get(keys[at : at + _AT_ONCE]), strict=False):
                count, _, first = bytes(value).partition(b":")
                rest = (bytes(self._store.get(f"{key}/{i}")) for i in range(1, int(count)))
                words.append(b"".join((first, *rest)))
        return words

    def _forget(self) -> None:
        for key in self._written:
            self._store.delete_key(key)
        self._written = []

    def _await(self, keys: Mapping[int, str], patience: float) -> None:
        """Return once all ranks have written their key: ``get`` would wait for it as long as the store's own timeout."""
        deadline, pause = time.monotonic() + patience, 0.0005
        while not self._store.check(list(keys.values())):
            if self._store.check(["left"]):
                for rank in self._missing(keys):
                    # Looked for again: it may have said its word and left in between.
                    if self._store.check([f"left/{rank}"]) and not self._store.check([keys[rank]]):
                        raise Dissolved(bytes(self._store.get(f"left/{rank}")).decode())
            if time.monotonic() > deadline and (missing := self._missing(keys)):
                raise Dissolved(f"waited {patience:g} s in vain for {named(missing)}")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def _missing(self, keys: Mapping[int, str]) -> list[int]:
        return [rank for rank, key in keys.items() if not self._store.check([key])]

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever goes wrong inside dissolves the gang, an interruption too: the ranks are no more at the same call.

        In a forked child it is dissolved: the connection is the parent's.
        """
        if self._process != os.getpid():
            raise Dissolved("this process was forked from a rank")
        if self._ended is not None:
            raise Dissolved(self._ended)
        try:
            yield
        except Dissolved as error:
            self._end(str(error))
            raise
        except BaseException as error:
            self._end(f"rank {self.rank}: {said(error)}")
            if is_interruption(error):
                raise
            raise Dissolved(self._ended) from error


def named(ranks: Sequence[int]) -> str:
    """The ranks in words: the first of them, and how many more."""
    more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:_NAMED]))}{more}"


def _devices() -> list[Any]:
    """The networks that a gloo group would take by itself, on which ranks connect on demand."""
    gloo: Any = dist.ProcessGroupGloo
    interfaces = [name for name in os.environ.get(_INTERFACES, "").split(",") if name]
    on_demand = [gloo.create_device(interface=name, lazy_init=True) for name in interfaces]
    return on_demand or [gloo.create_default_device(lazy_init=True)]


def _group(store: Any, rank: int, size: int, devices: Sequence[Any]) -> dist.ProcessGroupGloo:
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()  # noqa: SLF001 - torch has no public way to name the devices
    options._timeout, options._devices = timedelta(seconds=LINE_SECONDS), list(devices)  # noqa: SLF001
    return cast("dist.ProcessGroupGloo", gloo(store, rank, size, options))
