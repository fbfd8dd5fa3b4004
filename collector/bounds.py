"""Bounds: what a stream may name, so that no job can fill the collector's memory."""

from collector.live import LiveRun, SeriesKey
from collector.store.streams import Stream
from probe_wire import BadMessage, Schema

MOST_SCHEMAS = 1000
MOST_COLUMNS = 20_000
MOST_BYTES = 16 * 2**20
"""Of all schemas of a stream together: every greeting after a restart has them read."""


def checked(schema: Schema, size: int, stream: Stream, run: LiveRun, most_series: int) -> set[SeriesKey]:
    """The series that a schema of ``size`` bytes names.

    Raises:
        BadMessage: two columns are the same series, which has one point a step; or there are too many.
    """
    named = {SeriesKey.of(stream.rank, column) for column in schema.columns}
    if len(named) < len(schema.columns):
        raise BadMessage("Got a schema that names one series twice; need each quantity and its labels once.")
    if (wanted := len(run.series) + len(named - run.series)) > most_series:
        raise BadMessage(
            f"Got a schema with which the run would have {wanted:,} series over all its ranks; {most_series:,} are taken. "
            "Measure fewer layers, or group them; or raise limits.run_series, at about 3.5 kB of the collector's memory a series."
        )
    if len(stream.schemas) >= MOST_SCHEMAS and schema.id not in stream.schemas:
        raise BadMessage(
            f"Got one schema more than the {MOST_SCHEMAS:,} that a stream may have; name the same columns again."
        )
    others = sum(len(each.columns) for each in stream.schemas.values() if each.id != schema.id)
    if others + len(schema.columns) > MOST_COLUMNS:
        raise BadMessage(
            f"Got a schema with which the stream would have named {others + len(schema.columns):,} columns; {MOST_COLUMNS:,} are "
            "taken. Name the same columns again, under the same number."
        )
    if (size := size + sum(each for number, each in stream.schema_bytes.items() if number != schema.id)) > MOST_BYTES:
        raise BadMessage(
            f"Got a schema with which those of the stream would take {size:,} bytes; {MOST_BYTES:,} are taken. "
            "Shorten the descriptions and labels, or name the same columns again, under the same number."
        )
    return named
