"""Block: many reports of one stream and schema as compressed columns, from which each message comes back to the byte.

Numbers of one kind lie side by side with their bytes shuffled: all first bytes, then all second ones (Alted, 2010,
"Why modern CPUs are starving and what can be done about it"; the filter of Blosc and HDF5). Signs, exponents and whatever
repeats then make long runs that DEFLATE takes away; the noise in a mantissa no compressor can.
"""

import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from probe_wire import VERSION, Report, decode_for_collector

COLUMNS = {"value": "<f8", "stderr": "<f8", "paired": "<f8", "n": "<u4", "outcome": "u1"}
"""The columns of a report in the order in which it has them."""
POINT: np.dtype[Any] = np.dtype([*COLUMNS.items()])
"""One estimate, 29 bytes."""
PLACE: np.dtype[Any] = np.dtype([("frame", "<i8"), ("step", "<i8"), ("received_at", "<f8")])
"""Where a report stands: its number in the order of commit, its step, and when it came, Unix seconds."""

_NUMBERS = PLACE.itemsize // 8

Records = NDArray[Any]
_RAW = msgspec.msgpack.Decoder(list[msgspec.Raw])
_FIELDS = slice(5, 10)
"""Where a report's columns lie among its fields, its tag being the first: see `probe_wire.Report`."""


class Frames(NamedTuple):
    """Reports of one schema: what surrounds the columns of each message, and the columns, ``(reports, columns)`` points."""

    heads: list[bytes]
    tails: list[bytes]
    points: Records


def split(bodies: Sequence[bytes], columns: int) -> Frames | None:
    """The messages of reports taken apart; None where one is written so that it would not come back to the byte."""
    heads, tails, middles = [], [], []
    middle, empty = _middle(columns)
    for body in bodies:
        raws = _RAW.decode(memoryview(body)[1:])
        end = len(body) - sum(map(len, raws[_FIELDS.stop :]))
        start = end - len(empty)
        heads.append(body[:start])
        middles.append(body[start:end])
        tails.append(body[end:])
        if sum(map(len, raws[_FIELDS])) != len(empty):
            return None
    fields = np.frombuffer(b"".join(middles), middle)
    points = np.empty((len(bodies), columns), POINT)
    for name in COLUMNS:
        points[name] = fields[name]
    frames = Frames(heads, tails, points)
    return frames if join(frames) == list(bodies) else None


def columns_of(bodies: Sequence[bytes], columns: int) -> Records:
    """The points of reports of one schema, ``(reports, columns)``, however they are written."""
    frames = split(bodies, columns)
    if frames is not None:
        return frames.points
    points = np.empty((len(bodies), columns), POINT)
    for row, body in zip(points, bodies, strict=True):
        report = decode_for_collector(body)
        assert isinstance(report, Report)  # noqa: S101 - the caller knows
        sent = (report.values, report.stderrs, report.paired, report.ns, report.outcomes)
        for name, column in zip(COLUMNS, sent, strict=True):
            row[name] = np.frombuffer(column, COLUMNS[name])
    return points


def join(frames: Frames) -> list[bytes]:
    """The messages as they came."""
    count, columns = frames.points.shape
    middle, empty = _middle(columns)
    fields = np.frombuffer(bytearray(empty * count), middle)
    for name in COLUMNS:
        fields[name] = frames.points[name]
    data = fields.tobytes()
    cuts = pairwise(range(0, len(data) + 1, len(empty)))
    return [head + data[a:b] + tail for head, (a, b), tail in zip(frames.heads, cuts, frames.tails, strict=True)]


def _middle(columns: int) -> tuple[np.dtype[Any], bytes]:
    """How a report's five columns lie in its message, and those bytes with every number zero."""
    sizes = [columns * np.dtype(kind).itemsize for kind in COLUMNS.values()]
    fields = [msgspec.msgpack.encode(bytes(size)) for size in sizes]
    ends = accumulate(map(len, fields))
    middle: np.dtype[Any] = np.dtype(
        {
            "names": [*COLUMNS],
            "formats": [(kind, (columns,)) for kind in COLUMNS.values()],
            "offsets": [end - size for end, size in zip(ends, sizes, strict=True)],
            "itemsize": sum(map(len, fields)),
        }
    )
    return middle, b"".join(fields)


# -- compression ----------------------------------------------------------------------------------


def pack_records(records: Records) -> bytes:
    """Records of one kind as compressed bytes."""
    return _deflated(_shuffled(np.ascontiguousarray(records)))


def unpack_records(data: bytes, dtype: np.dtype[Any]) -> Records:
    """The records that were packed."""
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)


def pack_places(places: Records) -> bytes:
    """Places as compressed differences: neighbours follow each other at nearly equal distances."""
    numbers = places.view("<i8").reshape(-1, _NUMBERS)
    return pack_records(np.diff(numbers, axis=0, prepend=np.zeros((1, _NUMBERS), "<i8")).view(PLACE))


def unpack_places(data: bytes) -> Records:
    """The places that were packed."""
    differences = unpack_records(data, PLACE).view("<i8").reshape(-1, _NUMBERS)
    return np.cumsum(differences, axis=0, dtype="<i8").view(PLACE).reshape(-1)


def pack_rows(rows: Sequence[bytes]) -> bytes:
    """Byte strings, most of them of few lengths, as compressed bytes: those of one length are shuffled together."""
    lengths = np.array([len(row) for row in rows], "<u4")
    parts = [np.array([len(rows)], "<u4").tobytes(), _shuffled(lengths)]
    for length in np.unique(lengths):
        same = b"".join(row for row in rows if len(row) == length)
        parts.append(_shuffled(np.frombuffer(same, np.dtype((np.void, int(length))))) if length else b"")
    return _deflated(b"".join(parts))


def unpack_rows(data: bytes) -> list[bytes]:
    """The byte strings that were packed."""
    raw = zlib.decompress(data)
    count = int(np.frombuffer(raw, "<u4", 1)[0])
    at = 4 + 4 * count
    lengths = np.ascontiguousarray(np.frombuffer(raw, np.uint8, 4 * count, 4).reshape(4, -1).T).view("<u4").reshape(-1)
    rows = [b""] * count
    for length in np.unique(lengths[lengths > 0]).tolist():
        where = np.flatnonzero(lengths == length).tolist()
        planes = np.frombuffer(raw, np.uint8, length * len(where), at).reshape(length, -1)
        same = np.ascontiguousarray(planes.T).tobytes()
        for i, place in enumerate(where):
            rows[place] = same[i * length : (i + 1) * length]
        at += length * len(where)
    return rows


def _deflated(data: bytes) -> bytes:
    """At the fastest level, with the most memory: the sixth level takes twice the time for 1 % less."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL + 1)
    return deflate.compress(data) + deflate.flush()


def _shuffled(records: Records) -> bytes:
    return np.ascontiguousarray(records.view(np.uint8).reshape(len(records), -1).T).tobytes()


assert VERSION == 1, "the columns of another version's Report lie elsewhere"  # noqa: S101 - said when that version is made
