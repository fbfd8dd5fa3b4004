"""The hallway: the schema the agent and the collector both speak. Depends on msgspec and nothing else."""

from probe_wire.codec import VERSION, decode_for_agent, decode_for_collector, encode
from probe_wire.columns import check, pack, unpack, unpack_one
from probe_wire.errors import BadMessage, MessageTooLarge, UnknownVersion, WireError
from probe_wire.estimate import Estimate, Outcome
from probe_wire.messages import (
    MAX_COLUMNS,
    MAX_MESSAGE_BYTES,
    Ack,
    Advice,
    Column,
    Goodbye,
    Hello,
    Losses,
    Nack,
    ProbeCost,
    Quantity,
    Report,
    Run,
    Schema,
    Tighten,
    ToAgent,
    ToCollector,
)

__all__ = [
    "MAX_COLUMNS",
    "MAX_MESSAGE_BYTES",
    "VERSION",
    "Ack",
    "Advice",
    "BadMessage",
    "Column",
    "Estimate",
    "Goodbye",
    "Hello",
    "Losses",
    "MessageTooLarge",
    "Nack",
    "Outcome",
    "ProbeCost",
    "Quantity",
    "Report",
    "Run",
    "Schema",
    "Tighten",
    "ToAgent",
    "ToCollector",
    "UnknownVersion",
    "WireError",
    "check",
    "decode_for_agent",
    "decode_for_collector",
    "encode",
    "pack",
    "unpack",
    "unpack_one",
]
