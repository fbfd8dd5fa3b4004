"""Estimates as the packed columns of a Report, and back.

Plain ``array`` and ``struct`` arithmetic: the wire depends on msgspec alone.
"""

import struct
import sys
from array import array
from collections.abc import Sequence

from probe_wire.errors import BadMessage
from probe_wire.estimate import BY_CODE, Estimate
from probe_wire.messages import Report, Schema

_DOUBLE, _COUNT = struct.Struct("<d"), struct.Struct("<I")
_SWAP = sys.byteorder != "little"


def pack(estimates: Sequence[Estimate]) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """``(values, stderrs, paired, ns, outcomes)`` of the estimates, one entry each."""
    return (
        _bytes("d", [e.value for e in estimates]),
        _bytes("d", [e.stderr for e in estimates]),
        _bytes("d", [e.paired for e in estimates]),
        _bytes("I", [min(e.n, 2**32 - 1) for e in estimates]),
        bytes(int(e.outcome) for e in estimates),
    )


def check(report: Report, schema: Schema) -> None:
    """See that a report has an entry for each of its schema's columns.

    Raises:
        BadMessage: the columns have another length than the schema names.
    """
    k = len(schema.columns)
    lengths = (len(report.values), len(report.stderrs), len(report.paired), len(report.ns), len(report.outcomes))
    if lengths != (8 * k, 8 * k, 8 * k, 4 * k, k):
        raise BadMessage(
            f"Got a report whose columns are {lengths} bytes long; schema {schema.id} names {k} columns, "
            f"which take {(8 * k, 8 * k, 8 * k, 4 * k, k)}."
        )


def unpack(report: Report, schema: Schema) -> list[Estimate]:
    """The estimates of a report, in the order of the schema's columns.

    Raises:
        BadMessage: the columns have another length than the schema names.
    """
    check(report, schema)
    doubles, counts = f"<{len(schema.columns)}d", f"<{len(schema.columns)}I"
    return list(
        map(
            Estimate,
            struct.unpack(doubles, report.values),
            struct.unpack(doubles, report.stderrs),
            struct.unpack(doubles, report.paired),
            struct.unpack(counts, report.ns),
            map(BY_CODE.__getitem__, report.outcomes),
        )
    )


def unpack_one(report: Report, position: int) -> Estimate:
    """The estimate of one column of a report that was checked."""
    value, stderr, paired = (
        _DOUBLE.unpack_from(column, 8 * position)[0] for column in (report.values, report.stderrs, report.paired)
    )
    (n,) = _COUNT.unpack_from(report.ns, 4 * position)
    return Estimate(value, stderr, paired, n, BY_CODE[report.outcomes[position]])


def _bytes(code: str, numbers: Sequence[float]) -> bytes:
    packed = array(code, numbers)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()
