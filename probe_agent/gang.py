"""Gang: the ranks of a job that watch together, and how they talk without ever entering a collective of the training's.

They talk through the job's store. A collective would hold open sockets that forked data loaders inherit, so
that a rank which left is not noticed, and a failed one keeps its group from being destroyed for as long as
its timeout; a key that is not there costs nothing, and whoever waits for it can look at the clock.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, Protocol, cast, final

import torch.distributed as dist
from torch import Tensor

from probe_agent.complaints import said

PATIENCE_SECONDS = 15.0
"""How long a rank waits for another's word when all of them should be at the same step."""

LINE_SECONDS: Final = 30.0
"""How long any transfer of tensors may take."""

_PART = 2**20
"""Bytes of one value in the store. Its server hangs up on whoever sends more than 8 MiB at once."""


class Store(Protocol):
    """What we use of a c10d store."""

    def set(self, key: str, value: bytes | str) -> None:
        """Put a value."""

    def get(self, key: str) -> bytes:
        """A value; waits for one that is not there."""

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of them are there."""

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
        self._said: str | None = None
        self._process = os.getpid()
        self._ended: str | None = None

    def exchange(self, word: bytes, patience: float | None = None) -> list[bytes]:
        """What each rank gave, in the order of ranks, after at most ``patience`` seconds, `PATIENCE_SECONDS` if nothing is said."""
        words = self._in_next_round(range(self.size), word, patience)
        if self._said is not None:  # who has come to this round has read all of the one before
            self._forget([self._said])
        self._said = self._key(self.rank)
        return words

    def collect(self, word: bytes, patience: float | None = None) -> list[bytes]:
        """On rank 0 what each rank gave, in the order of ranks; on the others nothing, without waiting."""
        if self.rank:
            return self._in_next_round((), word, patience)
        words = self._in_next_round(range(self.size), word, patience)
        self._forget([self._key(rank) for rank in range(self.size)])
        return words

    def claim(self, what: str) -> bool:
        """Whether this rank is the one that first claimed it."""
        with self._guarded():
            return bytes(self._store.compare_set(f"claim/{what}", "", str(self.rank))) == str(self.rank).encode()

    @contextmanager
    def line(self, purpose: str) -> Iterator[Line]:
        """A gloo group, known to nobody else and gone afterwards: `torch.distributed` never hears of it."""
        with self._guarded():
            place = dist.PrefixStore(f"{self._round}/{purpose}", cast("Any", self._store))  # type: ignore[attr-defined]
            group = dist.ProcessGroupGloo(place, self.rank, self.size, timedelta(seconds=LINE_SECONDS))
            yield cast("Line", group)

    def leave(self, reason: str) -> None:
        """Say nothing more. Who waits for this rank's next word need not; harmless when repeated."""
        self._end(f"rank {self.rank}: {reason}")

    def _end(self, reason: str) -> None:
        if self._ended is None and self._process == os.getpid():
            self._ended = reason
            with suppress(Exception):
                self._store.set(f"left/{self.rank}", reason)

    def _in_next_round(self, ranks: Sequence[int], word: bytes, patience: float | None) -> list[bytes]:
        with self._guarded():
            self._round += 1
            self._put(self._key(self.rank), word)
            self._await(ranks, PATIENCE_SECONDS if patience is None else patience)
            return [self._get(self._key(rank)) for rank in ranks]

    def _key(self, rank: int) -> str:
        return f"{self._round}/{rank}"

    def _put(self, key: str, word: bytes) -> None:
        parts = [word[at : at + _PART] for at in range(0, len(word), _PART)]
        for i, part in enumerate(parts):
            self._store.set(f"{key}/{i}", part)
        self._store.set(key, str(len(parts)))  # last: who sees it finds the parts

    def _get(self, key: str) -> bytes:
        return b"".join(bytes(self._store.get(f"{key}/{i}")) for i in range(int(self._store.get(key))))

    def _forget(self, keys: Sequence[str]) -> None:
        with self._guarded():
            for key in keys:
                for i in range(int(self._store.get(key))):
                    self._store.delete_key(f"{key}/{i}")
                self._store.delete_key(key)

    def _await(self, ranks: Sequence[int], patience: float) -> None:
        """Return once all ranks have said their word: ``get`` would wait for it as long as the store's own timeout."""
        deadline, pause = time.monotonic() + patience, 0.0005
        while ranks := [rank for rank in ranks if not self._store.check([self._key(rank)])]:
            for rank in ranks:
                # Looked for again: it may have said its word and left in between.
                if self._store.check([f"left/{rank}"]) and not self._store.check([self._key(rank)]):
                    raise Dissolved(bytes(self._store.get(f"left/{rank}")).decode())
            if time.monotonic() > deadline:
                raise Dissolved(f"waited {patience:g} s in vain for rank {', '.join(map(str, ranks))}")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever goes wrong inside dissolves the gang. In a forked child it is dissolved: the connection is the parent's."""
        if self._process != os.getpid():
            raise Dissolved("this process was forked from a rank")
        if self._ended is not None:
            raise Dissolved(self._ended)
        try:
            yield
        except Dissolved as error:
            self._end(str(error))
            raise
        except Exception as error:
            self._end(f"rank {self.rank}: {said(error)}")
            raise Dissolved(self._ended) from error
