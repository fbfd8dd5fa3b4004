"""What a store must give back, read from the messages that were put into it, without any of the store's own reading."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from collector.store.queries import Points, Reader
from probe_wire import Report, Schema, decode_for_collector, unpack

Column = tuple[int, str, tuple[tuple[str, str], ...]]
"""A series: rank, quantity and labels."""


class Put:
    """One message as it was put: its number in the order of commit, the rank it is of, and the schemas its stream had."""

    def __init__(self, frame: int, rank: int, received_at: float, body: bytes, schemas: dict[int, Schema]) -> None:
        self.frame = frame
        self.rank = rank
        self.received_at = received_at
        self.message = decode_for_collector(body)
        self.schemas = schemas


def columns(put: Iterable[Put]) -> dict[Column, list[tuple[int, int, str, str, str, int, int]]]:
    """The points of every series: frame, step, the three numbers to the last bit, n and outcome."""
    found: dict[Column, list[tuple[int, int, str, str, str, int, int]]] = {}
    for each in put:
        if isinstance(each.message, Report):
            schema = each.schemas[each.message.schema]
            for column, e in zip(schema.columns, unpack(each.message, schema), strict=True):
                numbers = (e.value.hex(), e.stderr.hex(), e.paired.hex())
                key = (each.rank, column.quantity, tuple(sorted(column.labels.items())))
                found.setdefault(key, []).append((each.frame, each.message.step, *numbers, e.n, int(e.outcome)))
    return found


def stored_columns(path: Path, run_id: str) -> dict[Column, list[tuple[int, int, str, str, str, int, int]]]:
    """The same, as a reader tells it."""
    reader = Reader(path)
    series = reader.series(run_id)
    points = reader.points([row.id for row in series])
    found = {(row.rank, row.quantity, tuple(sorted(row.labels.items()))): rows(points[row.id]) for row in series}
    return {key: column for key, column in found.items() if column}


def rows(points: Points) -> list[tuple[int, int, str, str, str, int, int]]:
    """Points one by one, numbers to the last bit."""
    numbers = ([x.hex() for x in column] for column in (points.value, points.stderr, points.paired))
    return list(zip(points.frame, points.step, *numbers, points.n, points.outcome, strict=True))


def assert_holds(path: Path, run_id: str, put: Sequence[Put]) -> None:
    """A store gives back every message and every point that was put, and nothing else."""
    frames = list(Reader(path).frames(run_id))
    assert [(f.id, f.rank, f.received_at, repr(f.message)) for f in frames] == [
        (p.frame, p.rank, p.received_at, repr(p.message)) for p in put
    ]
    assert stored_columns(path, run_id) == columns(put)
