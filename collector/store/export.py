"""Export: the points of a run as one table, one row a point, for other programs: Parquet or CSV."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from collector.errors import StoreError
from collector.store.queries import Reader, RunRow
from collector.store.series_groups import groups
from probe_wire import Outcome

COLUMNS = ("run", "rank", "quantity", "labels", "step", "frame", "value", "stderr", "paired", "n", "outcome")
"""``labels`` is a JSON object; ``frame`` the number of the report in the order of commit; what is not known is NaN."""


def export(reader: Reader, run: RunRow, path: Path) -> int:
    """Write every point of a run to a new file, by its ending; returns how many there were.

    Raises:
        StoreError: the ending is neither, the file exists, it cannot be written, or Parquet's library is not installed.
    """
    writers = {".parquet": _parquet, ".csv": _csv}
    writer = writers.get(path.suffix)
    if writer is None:
        raise StoreError(f"Got the file {path}; need one that ends in .parquet or .csv.")
    if path.exists():
        raise StoreError(f"Got the file {path}, which exists already. Choose another, or remove it.")
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch(exist_ok=False)  # not through a link that somebody laid there
        count = writer(partial, _tables(reader, run))
        partial.rename(path)
    except OSError as error:
        raise StoreError(f"Got the file {path}, which cannot be written: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def _tables(reader: Reader, run: RunRow) -> Iterator[dict[str, Sequence[Any]]]:
    """The columns of one series after another."""
    labels = {outcome: Outcome(outcome).label for outcome in range(256)}
    found = (
        (series, points)
        for group in groups(reader.series(run.id), run.reports)
        for series, points in zip(group, reader.points([each.id for each in group]).values(), strict=True)
    )
    for series, points in found:
        size = len(points.frame)
        yield {
            "run": [run.id] * size,
            "rank": [series.rank] * size,
            "quantity": [series.quantity] * size,
            "labels": [json.dumps(series.labels, sort_keys=True)] * size,
            "step": points.step,
            "frame": points.frame,
            "value": points.value,
            "stderr": points.stderr,
            "paired": points.paired,
            "n": points.n,
            "outcome": [labels[code] for code in points.outcome],
        }


def _csv(path: Path, tables: Iterator[dict[str, Sequence[Any]]]) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for table in tables:
            writer.writerows(zip(*(table[name] for name in COLUMNS), strict=True))
            count += len(table["step"])
    return count


def _parquet(path: Path, tables: Iterator[dict[str, Sequence[Any]]]) -> int:
    try:
        import pyarrow as pa  # noqa: PLC0415 - wanted by this alone
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise StoreError(
            f"Got {path.stem}.parquet to write, for which pyarrow is not installed: pip install 'phasewatch[export]', or export to .csv."
        ) from error
    kinds = {"rank": pa.int64(), "step": pa.int64(), "frame": pa.int64(), "n": pa.int64()}
    kinds |= dict.fromkeys(("value", "stderr", "paired"), pa.float64())
    words = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema([(name, kinds.get(name, words)) for name in COLUMNS])
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(
                pa.table({name: pa.array(table[name], schema.field(name).type) for name in COLUMNS}, schema)
            )
            count += len(table["step"])
    return count
