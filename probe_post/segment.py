"""Segment: one file of a spool; records one after another, each with its own checksum.

    record = MARK · length u32 · crc32 u32 · kind u8 · number u64 · body        (little-endian)

The checksum covers all that follows it. Where a record is damaged, reading goes on at the next mark whose checksum is right, so
that a flipped bit or a torn write costs the records it hit and nothing after them.

A file that is no longer written to may be *packed*: its records then lie in blocks, which are records themselves, with messages of
one length written column beside column, where zlib finds what neighbouring reports share. A report of 20 points takes 690 bytes
as it travels and 250 to 270 packed; the rest is the noise in the mantissas of its values.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

MARK = b"\xf1PW\x01"
BLOCK_RECORDS = 128

_HEAD = struct.Struct("<4sII")
_CHECKED = struct.Struct("<BQ")
_FRONT = _HEAD.size + _CHECKED.size
_BLOCK = struct.Struct("<II")
_ENTRY = struct.Struct("<BQI")


class Kind(IntEnum):
    """What a record holds."""

    STREAM = 0
    """The greeting of the stream whose messages follow; its number is not used."""
    SCHEMA = 1
    """An encoded Schema, numbered by its id; stands before the first message that refers to it."""
    MESSAGE = 2
    """The id of its schema, 0 for none, in 8 bytes, and an encoded Report or Goodbye; numbered by its place in the stream."""
    BLOCK = 3
    """Packed records; numbered like the first of them."""


class Record(NamedTuple):
    """One record. ``number`` as its kind says."""

    kind: Kind
    number: int
    body: bytes


def written(record: Record) -> bytes:
    """The record as it lies in the file."""
    checked = _CHECKED.pack(record.kind, record.number) + record.body
    return _HEAD.pack(MARK, len(record.body), zlib.crc32(checked)) + checked


class Contents(NamedTuple):
    """What a file holds: the records that are whole, those of blocks among them, and whether anything follows the last of them."""

    records: list[Record]
    torn: bool


def read(data: bytes) -> Contents:
    """What is whole; what is damaged is passed over."""
    found: list[Record] = []
    at = whole = 0
    while (at := data.find(MARK, at)) >= 0:
        record = _record_at(data, at)
        if record is None:
            at += 1
            continue
        at = whole = at + _FRONT + len(record.body)
        found.extend(_unpacked(record.body) if record.kind is Kind.BLOCK else (record,))
    return Contents(found, whole < len(data))


def _record_at(data: bytes, at: int) -> Record | None:
    if len(data) < at + _FRONT:
        return None
    _, length, crc = _HEAD.unpack_from(data, at)
    checked = data[at + _HEAD.size : at + _FRONT + length]
    if len(checked) < _CHECKED.size + length or zlib.crc32(checked) != crc:
        return None
    kind, number = _CHECKED.unpack_from(checked)
    return Record(Kind(kind), number, checked[_CHECKED.size :]) if kind in _KINDS else None


_KINDS = frozenset(Kind)


def packed(data: bytes) -> bytes:
    """The same records in blocks."""
    whole = read(data).records
    starts = range(0, len(whole), BLOCK_RECORDS)
    return b"".join(written(Record(Kind.BLOCK, whole[i].number, _block(whole[i : i + BLOCK_RECORDS]))) for i in starts)


def _block(records: Sequence[Record]) -> bytes:
    """Which records, then the bodies of each length: all first bytes, all second bytes, and so on."""
    index = b"".join(_ENTRY.pack(kind, number, len(body)) for kind, number, body in records)
    alike: dict[int, list[bytes]] = {}
    for record in records:
        alike.setdefault(len(record.body), []).append(record.body)
    columns = (
        np.frombuffer(b"".join(bodies), np.uint8).reshape(len(bodies), length).T.tobytes()
        for length, bodies in alike.items()
    )
    plain = index + b"".join(columns)
    return _BLOCK.pack(len(records), len(plain)) + zlib.compress(plain, 1)


def _unpacked(block: bytes) -> Iterator[Record]:
    """The records of a block whose checksum was right."""
    count, size = _BLOCK.unpack_from(block)
    plain = zlib.decompressobj().decompress(block[_BLOCK.size :], size)
    entries = [_ENTRY.unpack_from(plain, i * _ENTRY.size) for i in range(count)]
    counts: dict[int, int] = {}
    for _, _, length in entries:
        counts[length] = counts.get(length, 0) + 1
    bodies: dict[int, Iterator[bytes]] = {}
    at = count * _ENTRY.size
    for length, n in counts.items():
        rows = np.frombuffer(plain, np.uint8, n * length, at).reshape(length, n).T
        bodies[length] = iter([row.tobytes() for row in rows])
        at += n * length
    for kind, number, length in entries:
        yield Record(Kind(kind), number, next(bodies[length]))
