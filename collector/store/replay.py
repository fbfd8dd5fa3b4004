"""Replay: a stored run judged again from its first report, by the machines it was judged by or by others."""

from collections.abc import Iterable

from collector.phases import ALPHA, MACHINES, Machine, PhaseEngine, Transition
from collector.store.queries import Reader
from probe_wire import Report, unpack


def replayed(
    reader: Reader, run_id: str, machines: Iterable[Machine] = MACHINES, alpha: float = ALPHA
) -> list[Transition]:
    """The transitions that a fresh phase engine finds in the stored reports of a run, in order.

    Raises:
        StoreError: the run was thinned, so its reports are not there.
    """
    reader.need_reports(run_id)
    engine = PhaseEngine(machines, alpha)
    schemas = reader.schemas(run_id)
    found: list[Transition] = []
    for frame in reader.frames(run_id):
        if isinstance(frame.message, Report):
            schema = schemas[frame.stream_id, frame.message.schema]
            measured = list(zip(schema.columns, unpack(frame.message, schema), strict=True))
            found += engine.update(frame.message.step, measured, frame.rank)
    return found
