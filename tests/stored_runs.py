"""Runs sent through a real pipeline into a real store, for what asks a store about the past."""

from collections.abc import Sequence
from pathlib import Path

from collector.health import Health
from collector.live import Live
from collector.phases import MACHINES, Machine
from collector.pipeline import Pipeline
from collector.store.queries import Reader
from collector.store.sqlite import Store
from probe_wire import Column, Estimate, Goodbye, Hello, Quantity, Report, Run, Schema, encode, pack


def stored(
    path: Path,
    run_id: str,
    values: Sequence[float],
    paired: Sequence[float],
    *,
    every: int = 10,
    quantity: str = "fisher_trace",
    machines: tuple[Machine, ...] = MACHINES,
) -> Reader:
    """A run of one quantity, judged live by a pipeline while it was stored."""
    store = Store(path)
    pipeline = Pipeline(store, Live(), Health(), (), tick=lambda *_: None, machines=machines)
    stream = pipeline.hello(Hello(Run(run_id, run_id, "host", 1, 10.0, {}), 0, "a", 1))
    schema = Schema(1, (Quantity(quantity, "1", "What is judged.", "Judged"),), (Column(quantity),))
    pipeline.schema(stream, schema, encode(schema))
    for i, (value, error) in enumerate(zip(values, paired, strict=True)):
        report = Report(i + 1, i * every, float(i), 1, *pack([Estimate(value, 2.0 * error, error, 64)]))
        pipeline.report(stream, report, encode(report))
    goodbye = Goodbye(len(values) + 1, len(values) * every, 0.0, "finished")
    pipeline.goodbye(stream, goodbye, encode(goodbye))
    pipeline.commit()
    store.close()
    return Reader(path)
