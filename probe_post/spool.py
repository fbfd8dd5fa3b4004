"""Spool: the messages of one stream on disk, from when they are numbered until the collector has committed them.

    ROOT/COLLECTOR/STREAM/lock            held by the process that writes or delivers them
                          00…01.segment   records; the name is the number of the first message
                          00…92.segment

What has been written survives the death of the job at once and, from the next `sync` on, that of the machine. A segment goes
when everything in it is acknowledged. Each says whose stream it is and repeats the schemas its messages refer to, so that it can
be read when all before it is gone. The disk of a job is the job's: a spool has a cap, and stops long before the disk is full.
"""

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self, final

from probe_post.folder import locked, size_of, sync
from probe_post.segment import Contents, Kind, Record, packed, read, written
from probe_wire import Hello, WireError, decode_for_collector

SEGMENT_BYTES = 2**20
CAP_BYTES = 256 * 2**20
"""What one stream may take: eleven days without a collector at one report of 20 points a second."""
LEAST_FREE = 0.05
"""Of the file system: what is left to the job."""

_NAME = re.compile(r"(\d{20})\.segment")
_OURS = re.compile(r"lock|\d{20}\.(segment|packing|damaged)")


class Message(NamedTuple):
    """One numbered message with the schema it refers to, both encoded."""

    seq: int
    schema: tuple[int, bytes] | None
    data: bytes


class _Segment(NamedTuple):
    first: int
    path: Path


@final
class Spool:
    """See the module. Made by `create` or `adopt`; not thread-safe.

    Attributes:
        folder: where its files are.
        stream: the greeting that the messages belong to.
        last: the highest number written.
        damaged: files that could not be read and were put aside.
    """

    def __init__(self, folder: Path, lock: int, stream: bytes, segments: list[_Segment], last: int, cap: int) -> None:
        self.folder = folder
        self.stream = stream
        self.last = last
        self.damaged = 0
        self._lock = lock
        self._segments = segments
        self._cap = cap
        self._sealed = sum(size_of(segment.path) for segment in segments)
        self._file = -1  # the segment that is written to: the last one; -1 where there is none
        self._length = 0
        self._named: set[int] = set()
        self._dirty = False
        self._new = False
        self._forgotten = 0

    @classmethod
    def create(cls, folder: Path, stream: bytes, *, last: int = 0, cap: int = CAP_BYTES) -> Self:
        """A new spool of the stream that an encoded Hello opens; its messages follow the number ``last``.

        Raises:
            OSError: it cannot be made there.
        """
        if folder.exists():  # what lies there could not be read, or it would have been adopted
            folder = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:8]}")
        young = folder.with_name(f".{folder.name}-{os.getpid()}")  # nobody adopts it before its lock is held
        young.mkdir(parents=True, mode=0o700)
        lock = locked(young)
        young.rename(folder)
        if lock is None:
            raise OSError(f"another process has just taken {folder}")
        return cls(folder, lock, stream, [], last, cap)

    @classmethod
    def adopt(cls, folder: Path) -> "Spool | None":
        """The spool of a process that is gone; None where it is alive, or left nothing that can be delivered.

        Raises:
            OSError: it cannot be read.
        """
        lock = locked(folder)
        if lock is None:
            return None
        try:
            return cls._taken_up(folder, lock)
        except OSError:
            os.close(lock)
            raise

    @classmethod
    def _taken_up(cls, folder: Path, lock: int) -> "Spool | None":
        found = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and size_of(path))
        segments = [_Segment(int(path.name[:20]), path) for path in found]
        spool = cls(folder, lock, b"", segments, segments[-1].first if segments else 0, CAP_BYTES)
        for path in folder.glob("*.packing"):
            path.unlink()
        for segment in list(reversed(spool._segments)):
            whole, torn = spool._contents(segment)
            numbers = [record.number for record in whole if record.kind is Kind.MESSAGE]
            spool.last = (
                max(numbers, default=spool.last) + torn
            )  # what is torn had the next number: it will be counted as lost
            spool.stream = next((record.body for record in whole if record.kind is Kind.STREAM), b"")
            if spool.stream:
                return spool
            spool._put_aside(segment)
        spool.close(delete=not spool.damaged)
        return None

    # -- writing ----------------------------------------------------------------------------------

    def append(self, message: Message) -> None:
        """Write a message; it is the next of its stream.

        Raises:
            OSError: it is not written, in whole or in part.
        """
        if self._file < 0 or self._length >= SEGMENT_BYTES:
            self._begin(message.seq)
        number, schema = message.schema or (0, b"")
        data = b"" if self._length else written(Record(Kind.STREAM, 0, self.stream))
        if number and number not in self._named:
            data += written(Record(Kind.SCHEMA, number, schema))
        data += written(Record(Kind.MESSAGE, message.seq, number.to_bytes(8, "little") + message.data))
        self._write(data)
        self._named.add(number)
        self.last = message.seq

    def _begin(self, first: int) -> None:
        """A new segment, that begins with this number."""
        there = shutil.disk_usage(self.folder)
        if there.free < LEAST_FREE * there.total:
            raise OSError(f"the disk is {1 - there.free / there.total:.0%} full; what is left is the job's")
        self._end()
        if self._segments and self._segments[-1].first > self._forgotten:  # the collector is away
            with suppress(OSError):
                self._pack(self._segments[-1])
        path = self.folder / f"{first:020d}.segment"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._length, self._named = 0, set()  # its first message brings the greeting and the schemas with it
        if not self._segments or self._segments[-1].first != first:
            self._segments.append(_Segment(first, path))
        self._new = True

    def _end(self) -> None:
        if self._file >= 0:
            self.sync()
            # In this order: a child that is forked in between closes what is named here.
            ended, self._file = self._file, -1
            os.close(ended)
            self._sealed += self._length
            self._length = 0

    def _write(self, data: bytes) -> None:
        self._dirty = True
        try:
            done = os.write(self._file, data)
        except OSError:
            done = 0
        if done < len(data):  # what is there of it would be passed over, but need not lie about
            os.ftruncate(self._file, self._length)
            os.lseek(self._file, self._length, os.SEEK_SET)
            raise OSError(f"the disk of {self.folder} took {done} of {len(data)} bytes; is it full?")
        self._length += done

    def _pack(self, segment: _Segment) -> None:
        """Have a segment take less room.

        Raises:
            OSError: there is no room for the packed copy.
        """
        copy = segment.path.with_suffix(".packing")
        with copy.open("wb") as file:
            file.write(packed(segment.path.read_bytes()))
            file.flush()
            os.fsync(file.fileno())
        self._sealed += size_of(copy) - size_of(segment.path)
        copy.rename(segment.path)

    def sync(self) -> None:
        """Have what is written survive a power cut, and the lock whoever tidies old files away.

        Raises:
            OSError: the disk could not say that it does.
        """
        os.utime(self._lock)
        if self._dirty and self._file >= 0:
            os.fdatasync(self._file)
            self._dirty = False
        if self._new:
            sync(self.folder)
            self._new = False

    # -- reading and forgetting -------------------------------------------------------------------

    def __len__(self) -> int:
        """How many segments there are."""
        return len(self._segments)

    @property
    def first(self) -> int:
        """The lowest number there may be; the one after the last where there is none."""
        return self._segments[0].first if self._segments else self.last + 1

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return self._sealed + self._length

    @property
    def full(self) -> bool:
        """More lies here than may."""
        return self.size > self._cap and len(self._segments) > 1

    def after(self, seq: int) -> list[Message]:
        """The next messages beyond a number, at most a segment of them; none when there are none.

        Raises:
            OSError: they are there and cannot be read now.
        """
        for i, segment in enumerate(self._segments[:]):
            if i + 1 < len(self._segments) and self._segments[i + 1].first <= seq + 1:
                continue
            found = [message for message in self._messages(segment) if message.seq > seq]
            if found:
                return found
        return []

    def forget(self, seq: int) -> None:
        """All up to this number is committed: its segments go."""
        self._forgotten = max(self._forgotten, seq)
        while len(self._segments) > 1 and self._segments[1].first <= seq + 1:
            self.drop_oldest()

    def drop_oldest(self) -> int:
        """Give up the oldest segment, which must not be the only one; returns the lowest number that is left."""
        oldest = self._segments.pop(0)
        self._sealed -= size_of(oldest.path)
        oldest.path.unlink(missing_ok=True)
        return self._segments[0].first

    def close(self, *, delete: bool) -> None:
        """Let go of the files; with ``delete`` they are gone. Raises nothing: what cannot be done now the next process does."""
        self._dirty, self._new = self._dirty and not delete, self._new and not delete  # no fsync for what goes
        with suppress(OSError):
            self._end()
        if delete:
            with suppress(OSError):
                for path in self.folder.iterdir():
                    if _OURS.fullmatch(path.name):
                        path.unlink()
                self.folder.rmdir()
        self.forsake()

    def forsake(self) -> None:
        """Close what is open and touch nothing else: in a forked child the files are the parent's, and so is the lock."""
        # Never twice: the number may be somebody else's by then.
        mine, self._lock, self._file = (self._lock, self._file), -1, -1
        for descriptor in mine:
            with suppress(OSError):
                os.close(descriptor)

    def _messages(self, segment: _Segment) -> Iterator[Message]:
        schemas: dict[int, bytes] = {}
        for kind, number, body in self._contents(segment).records:
            if kind is Kind.SCHEMA:
                schemas[number] = body
            elif kind is Kind.MESSAGE:
                refers = int.from_bytes(body[:8], "little")
                if not refers:
                    yield Message(number, None, body[8:])
                elif refers in schemas:  # else its schema was damaged, and it means nothing
                    yield Message(number, (refers, schemas[refers]), body[8:])

    def _contents(self, segment: _Segment) -> Contents:
        try:
            return read(segment.path.read_bytes())
        except Exception as error:  # a spool that somebody tidied away or wrote into must not stop ours
            gone = isinstance(error, FileNotFoundError | IsADirectoryError)
            if (
                isinstance(error, OSError) and not gone
            ):  # no descriptor left, a disk that does not answer: it may be read later
                raise
            self._put_aside(segment)
            return Contents([], torn=True)

    def _put_aside(self, segment: _Segment) -> None:
        if segment not in self._segments:
            return
        self.damaged += 1
        self._sealed -= size_of(segment.path)
        self._segments.remove(segment)
        with suppress(OSError):
            segment.path.rename(segment.path.with_suffix(".damaged"))


def greeting_in(data: bytes) -> Hello | None:
    """The greeting in a segment; None where it is damaged, or of a release that spoke otherwise."""
    said = next((record.body for record in read(data).records if record.kind is Kind.STREAM), b"")
    return decoded(said)


def decoded(greeting: bytes) -> Hello | None:
    """The greeting of a spool's stream; None where it is of a release that spoke otherwise."""
    try:
        hello = decode_for_collector(greeting)
    except WireError:
        return None
    return hello if isinstance(hello, Hello) else None
