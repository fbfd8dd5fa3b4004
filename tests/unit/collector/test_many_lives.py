"""A job that is begun again and again leaves many short lives of a rank, none of which is ever sealed: their charts cost little."""

from pathlib import Path

import pytest

from collector.store import archive
from collector.store.block import Records, columns_of
from collector.store.queries import Reader
from collector.store.sqlite import Store
from probe_wire import (
    Column,
    Estimate,
    Hello,
    Quantity,
    Report,
    Run,
    Schema,
    ToCollector,
    decode_for_collector,
    encode,
    pack,
)

RUN = Run("run-1", "crashes", "host", 1, 0.0)
LOSS = Schema(1, (Quantity("loss", "1", "Loss.", "Loss"),), (Column("loss"), Column("loss", {"layer": "fc1"})))
WIDE = Schema(
    2,
    (Quantity("sharpness", "1", "Sharp.", "Sharp"),),
    tuple(Column("sharpness", {"layer": f"{i}"}) for i in range(50)),
)
LIVES = 20


def test_the_schemas_that_many_lives_share_are_read_once_and_those_without_the_series_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s.db")
    for life in range(LIVES):
        stream = store.put_hello(Hello(RUN, 0, f"e{life}", 1), float(life))
        for schema in (LOSS, WIDE):
            store.put_schema(stream, schema, encode(schema))
        for seq, schema in ((1, LOSS), (2, WIDE), (3, LOSS)):
            estimates = [Estimate(10.0 * life + seq + i) for i in range(len(schema.columns))]
            report = Report(seq, 10 * life + seq, 0.0, schema.id, *pack(estimates))
            store.put_report(stream, report, encode(report), float(life))
    store.commit()
    store.close()
    taken_apart: list[int] = []

    def counted(bodies: list[bytes], columns: int) -> Records:
        taken_apart.append(columns)
        return columns_of(bodies, columns)

    decoded: list[bytes] = []

    def seen(body: bytes) -> ToCollector:
        decoded.append(body)
        return decode_for_collector(body)

    monkeypatch.setattr(archive, "columns_of", counted)
    monkeypatch.setattr(archive, "decode_for_collector", seen)
    reader = Reader(store.path)
    loss = {tuple(row.labels): row.id for row in reader.series("run-1") if row.quantity == "loss"}
    found = reader.points([*loss.values()])
    steps = [10 * life + seq for life in range(LIVES) for seq in (1, 3)]
    assert found[loss[()]].step == found[loss["layer",]].step == steps
    assert found[loss[()]].value == [float(step) for step in steps]
    assert found[loss["layer",]].value == [step + 1.0 for step in steps]
    assert decoded == [encode(LOSS)]
    assert taken_apart == [len(LOSS.columns)] * LIVES


def test_the_schema_that_all_ranks_share_is_read_once_and_each_has_its_own_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "s.db")
    for rank in range(3):
        stream = store.put_hello(Hello(RUN, rank, "a", 1), 0.0)
        store.put_schema(stream, LOSS, encode(LOSS))
        report = Report(1, 10, 0.0, LOSS.id, *pack([Estimate(rank), Estimate(rank + 0.5)]))
        store.put_report(stream, report, encode(report), 0.0)
    store.commit()
    store.close()
    decoded: list[bytes] = []

    def seen(body: bytes) -> ToCollector:
        decoded.append(body)
        return decode_for_collector(body)

    monkeypatch.setattr(archive, "decode_for_collector", seen)
    reader = Reader(store.path)
    series = reader.series("run-1")
    found = reader.points([row.id for row in series])
    assert [found[row.id].value for row in series] == [[rank + half] for rank in range(3) for half in (0.0, 0.5)]
    assert decoded == [encode(LOSS)]
