"""Recall: a run as it stood, made anew in memory from what is stored of it."""

from threading import RLock

import msgspec

from collector.judges import Judges
from collector.keepsake import unpack_into
from collector.live import LiveRun, RankState, SeriesKey
from collector.log import logger
from collector.phases.spans import spans_of
from collector.store.queries import Reader
from probe_wire import Goodbye, unpack


def recall(run: LiveRun, lock: RLock, reader: Reader, judges: Judges) -> None:
    """Show the run the reports that came since it was last kept, and have those judged that its engine's state does not know.

    ``run`` is empty but for its identity; views hold ``lock`` while they read it.
    """
    run_id = run.run.id
    schemas = reader.schemas(run_id)
    shown_until, judged_until = _restored(run, lock, reader), judges.take_up(run_id)
    for frame in reader.frames(run_id, min(shown_until, judged_until)):
        message = frame.message
        if isinstance(message, Goodbye):
            if frame.id > shown_until:
                with lock:
                    run.part(frame.rank, message, frame.received_at)
            continue
        schema = schemas[frame.stream_id, message.schema]
        estimates = unpack(message, schema)
        measured = list(zip(schema.columns, estimates, strict=True))
        if frame.id > shown_until:
            with lock:
                run.quantities.update({q.name: q for q in schema.quantities})
                run.show(frame.rank, schema, message, estimates, frame.received_at)
        if frame.id > judged_until:
            judges.judge(run_id, frame.rank, message.step, measured)  # what it finds it found before
    stored = reader.transitions(run_id)
    judges[run_id].remember(spans_of(each.transition for each in stored))
    lost, series = reader.lost(run_id), reader.series(run_id)
    with lock:
        for each in stored:
            run.enter(each.transition, each.known_at)
        run.series = {SeriesKey(row.rank, row.quantity, tuple(sorted(row.labels.items()))) for row in series}
        for rank, count in lost.items():
            run.ranks.setdefault(rank, RankState()).lost = count
        judges.show(run)


def _restored(run: LiveRun, lock: RLock, reader: Reader) -> int:
    """The frame after which a run goes on from what was kept of it; 0 where it must be shown all its reports again."""
    try:
        if (kept := reader.live_state(run.run.id)) is not None:
            with lock:
                unpack_into(run, kept[1])
            return kept[0]
    except (msgspec.MsgspecError, ValueError, TypeError):  # damaged, or kept otherwise by another release
        logger.exception("run.state_unreadable")
    return 0
