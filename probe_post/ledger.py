"""Ledger: every numbered message of a stream that the collector has not committed, in order.

                  ready                     on disk only                 waiting
    [ 101 102 … : sent or to be sent next | 1125 … 80 000 : read back | 80 001 … : the disk would not take them ]

With a spool a message is written before it is sent, and memory holds the next few hundred. Without one, or while the disk takes
nothing, memory holds them all, up to a cap. Beyond a cap the oldest go. A number that is missing, given up or damaged on disk, is
counted as lost when all before it has been passed; whoever sends the rest says so by greeting anew.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import final

from probe_post.spool import Message, Spool

READY = 1024
"""Messages that are kept in memory though they are on disk."""
READY_BYTES = 8 * 2**20
WAITING_BYTES = 64 * 2**20
SYNC_SECONDS = 1.0
"""How often what was written is made to survive a power cut, and a disk that took nothing is asked again."""


@final
class Ledger:
    """See the module. Not thread-safe.

    Args:
        capacity: messages that may wait in memory for want of a disk.
        complain: told what went wrong, by cause.

    Attributes:
        last: the highest number there ever was.
        lost: numbers that were given up or found damaged.
    """

    def __init__(self, capacity: int, complain: Callable[[str, str], None]) -> None:
        self.last = 0
        self.lost = 0
        self._spool: Spool | None = None
        self._capacity = capacity
        self._complain = complain
        self._ready: deque[Message] = deque()
        self._ready_bytes = 0
        self._passed = 0  # the highest number that was made ready, is committed, or is lost
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._synced_at = time.monotonic()
        self._synced = 0
        self._refused = -SYNC_SECONDS

    def use(self, spool: Spool) -> None:
        """Keep everything in this spool from now on, and deliver what it holds first; to be called before the first message."""
        self._spool = spool
        self.last = spool.last
        self._synced = spool.last
        self._passed = spool.first - 1

    def __len__(self) -> int:
        """How many messages are not committed."""
        return len(self._ready) + self._on_disk_only + len(self._waiting)

    @property
    def in_memory(self) -> int:
        """How many messages no disk has."""
        return len(self._waiting)

    @property
    def _on_disk_only(self) -> int:
        return 0 if self._spool is None else max(0, self._spool.last - self._passed)

    # -- what is put in ---------------------------------------------------------------------------

    def append(self, message: Message) -> None:
        """Take the next message."""
        self.last = message.seq
        self._waiting.append(message)
        self._waiting_bytes += len(message.data)
        if time.monotonic() - self._refused >= SYNC_SECONDS:
            self._write()
        while len(self._waiting) > self._capacity or self._waiting_bytes > WAITING_BYTES:
            self._waiting_bytes -= len(self._waiting.popleft().data)
            self._settle()

    def _write(self) -> None:
        """To disk with all that waits for it; what memory has room for is ready at once."""
        spool = self._spool
        if spool is None:
            return
        try:
            while self._waiting:
                message = self._waiting[0]
                caught_up = not self._on_disk_only
                spool.append(message)
                self._waiting_bytes -= len(self._waiting.popleft().data)
                if caught_up and len(self._ready) < READY and self._ready_bytes < READY_BYTES:
                    self._make_ready(message)
                while spool.full:
                    self._pass_over(spool.drop_oldest() - 1)
        except OSError as error:
            self._refused = time.monotonic()
            self._complain("spool", f"reports wait in memory, where a killed job loses them: {error}")

    def sync(self, every: float = SYNC_SECONDS) -> int:
        """Have what is on disk survive a power cut, once in so many seconds. Returns the highest number that does."""
        now = time.monotonic()
        if self._spool is not None and now - self._synced_at >= every:
            self._synced_at = now
            try:
                self._spool.sync()
                self._synced = self._spool.last
            except OSError as error:
                self._complain("sync", f"reports on disk may not survive a power cut: {error}")
        return self._synced

    # -- what is to be sent -----------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The lowest number that can still be sent; the one after the last where there is none."""
        self._settle()
        if self._ready:
            return self._ready[0].seq
        if self._on_disk_only:  # it cannot be read at this moment
            return self._passed + 1
        return self._waiting[0].seq if self._waiting else self.last + 1

    def beyond(self, seq: int) -> Iterator[Message]:
        """The messages in memory beyond a number, in order. Some may follow that are on disk only."""
        self._settle()
        yield from (message for message in self._ready if message.seq > seq)
        if not self._on_disk_only:
            yield from (message for message in self._waiting if message.seq > seq)

    def acknowledge(self, seq: int) -> None:
        """All up to a number is committed."""
        self._forget(seq)
        if self._spool is not None:
            try:
                self._spool.forget(seq)
            except OSError as error:
                self._complain("forget", f"delivered reports stay on disk: {error}")

    def give_up_first(self) -> None:
        """Give up the message that is to be sent next."""
        if len(self):
            self._forget(self.first)
            self._count(1)

    def close(self) -> None:
        """Let go of the disk; what is not committed stays there."""
        self._write()
        if self._spool is not None:
            self._spool.close(delete=len(self) == len(self._waiting))

    def forsake(self) -> None:
        """In a forked child: the disk is the parent's."""
        if self._spool is not None:
            self._spool.forsake()

    def _forget(self, seq: int) -> None:
        while self._ready and self._ready[0].seq <= seq:
            self._ready_bytes -= len(self._ready.popleft().data)
        if self._spool is not None:
            self._passed = max(self._passed, min(seq, self._spool.last))
        if not self._on_disk_only:
            while self._waiting and self._waiting[0].seq <= seq:
                self._passed = self._waiting[0].seq
                self._waiting_bytes -= len(self._waiting.popleft().data)

    def _settle(self) -> None:
        """Where memory has nothing more that is ready: read on, and pass over what is missing."""
        if self._ready:
            return
        if self._spool is not None and self._on_disk_only:
            try:
                for message in self._spool.after(self._passed):
                    self._make_ready(message)
            except OSError as error:
                self._complain("read", f"reports on disk cannot be read for now: {error}")
                return
            if not self._ready:  # all that was left is damaged
                self._pass_over(self._spool.last)
        if not self._ready and self._waiting:
            self._pass_over(self._waiting[0].seq - 1)

    def _make_ready(self, message: Message) -> None:
        self._pass_over(message.seq - 1)
        self._passed = message.seq
        self._ready.append(message)
        self._ready_bytes += len(message.data)

    def _pass_over(self, seq: int) -> None:
        """Numbers up to this one that have not been passed are lost."""
        if seq > self._passed:
            self._count(seq - self._passed)
            self._passed = seq

    def _count(self, lost: int) -> None:
        self.lost += lost
        self._complain("lost", "reports that the collector has not got are given up, the oldest first, and counted")
