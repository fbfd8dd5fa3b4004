"""Messages to bytes and back: one version byte, then MessagePack against the schema."""

from functools import lru_cache
from typing import TypeVar

import msgspec

from probe_wire.errors import BadMessage, MessageTooLarge, UnknownVersion
from probe_wire.messages import MAX_MESSAGE_BYTES, ToAgent, ToCollector

VERSION = 1
_SCHEMA = bytes((VERSION, 0x94, 2))
"""How a Schema begins: an array of four, its tag first."""
MOST_REMEMBERED, MOST_REMEMBERED_BYTES = 32, 32 * 1024
"""Schemas that are remembered, each of so many bytes at the most."""

_M = TypeVar("_M")

_encoder = msgspec.msgpack.Encoder()
_to_collector: msgspec.msgpack.Decoder[ToCollector] = msgspec.msgpack.Decoder(ToCollector)
_to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)


def encode(message: ToCollector | ToAgent) -> bytes:
    """The bytes of a message.

    Raises:
        MessageTooLarge: it would be longer than ``MAX_MESSAGE_BYTES``, so no peer would read it.
    """
    data = bytes((VERSION,)) + _encoder.encode(message)
    _check_size(data)
    return data


def decode_for_collector(data: bytes) -> ToCollector:
    """The message an agent sent. Every rank of a run sends the same schema, after every greeting: it is decoded once, and shared.

    Raises:
        WireError: too large, of another version, or not of the schema.
    """
    if len(data) <= MOST_REMEMBERED_BYTES and data.startswith(_SCHEMA):
        return _remembered(data)
    return _decode(data, _to_collector)


@lru_cache(MOST_REMEMBERED)
def _remembered(data: bytes) -> ToCollector:
    return _decode(data, _to_collector)


def decode_for_agent(data: bytes) -> ToAgent:
    """The message a collector sent.

    Raises:
        WireError: too large, of another version, or not of the schema.
    """
    return _decode(data, _to_agent)


def _decode(data: bytes, decoder: "msgspec.msgpack.Decoder[_M]") -> _M:
    _check_size(data)
    if not data or data[0] != VERSION:
        got = data[0] if data else "an empty message"
        raise UnknownVersion(
            f"Got a message of protocol {got}; this side speaks {VERSION}. Install the same release of phasewatch on both sides."
        )
    try:
        return decoder.decode(memoryview(data)[1:])
    except Exception as error:  # broken UTF-8 escapes msgspec as UnicodeDecodeError, deep nesting as RecursionError
        raise BadMessage(f"Got a message that breaks its schema: {str(error)[:300]}.") from error


def _check_size(data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"Got a message of {len(data):,} bytes; the limit is {MAX_MESSAGE_BYTES:,}. Measure fewer layers, or group them."
        )
