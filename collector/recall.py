"""Recall: a run as it stood, made anew in memory from what is stored of it."""

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from threading import RLock

import msgspec

from collector.judges import Judges
from collector.keepsake import unpack_into
from collector.live import LiveRun, RankState, SeriesKey
from collector.log import event, logger
from collector.phases.spans import spans_of
from collector.retrials import Found
from collector.store.archive import StoredFrame
from collector.store.queries import Life, Reader
from probe_wire import Goodbye, Report, Schema


def recall(run: LiveRun, lock: RLock, reader: Reader, judges: Judges) -> list[Found]:
    """Show the run the reports that came since it was last kept, and have those judged that its engine's state does not know.

    Where these are many they are judged beside everything else (`retrials`). ``run`` is empty but for its identity; views hold
    ``lock`` while they read it. Returns what is known only now, because the life before ended while it judged. A run whose past
    is damaged is judged no more.

    Raises:
        sqlite3.OperationalError: it cannot be read now.
    """
    try:
        return _recalled(run, lock, reader, judges)
    except sqlite3.OperationalError:
        raise
    except Exception:  # noqa: BLE001 - what is damaged must not keep new reports of this run, or of any other, from being kept
        logger.exception("run.unreadable")
        event("run.unreadable", logging.ERROR, run=run.run.id, remedy="probe-collector doctor")
        judges.give_up(run.run.id)
        return []


def _recalled(run: LiveRun, lock: RLock, reader: Reader, judges: Judges) -> list[Found]:
    run_id = run.run.id
    if not reader.holds(run_id):
        judges.begin(run_id)
        return []
    schemas = reader.schemas(run_id)
    shown_until = _restored(run, lock, reader)
    judged_until = judges.take_up(run, schemas.values())
    found: list[Found] = []
    lives = _Lives(reader.lives(run_id, shown_until))
    for frame in reader.frames(run_id, min(shown_until, judged_until)):
        if frame.id > shown_until:
            with lock:
                _show(run, frame, schemas, newest=lives.are_at(frame))
        if frame.id > judged_until and isinstance(frame.message, Report):
            schema = schemas[frame.stream_id, frame.message.schema]
            known = judges.judge(run_id, frame.id, frame.rank, schema, frame.message)
            found += [Found(frame.id, transition) for transition in known]
    stored = reader.transitions(run_id)
    if not judges.judged_anew(run_id):
        judges.remember(run, spans_of(each.transition for each in stored if not each.superseded))
    lost, series = reader.lost(run_id), reader.series(run_id)
    with lock:
        for each in stored:
            run.enter(each.transition, each.known_at)
        run.series = {SeriesKey(row.rank, row.quantity, tuple(sorted(row.labels.items()))) for row in series}
        for rank, count in lost.items():
            run.ranks.setdefault(rank, RankState()).lost = count
        for rank, finished in lives.finished.items():
            run.ranks.setdefault(rank, RankState()).finished = finished
        judges.show(run)
    return found


def _show(run: LiveRun, frame: StoredFrame, schemas: Mapping[tuple[int, int], Schema], *, newest: bool) -> None:
    message, at = frame.message, frame.received_at
    if isinstance(message, Goodbye):
        if newest:
            run.part(frame.rank, message, at)
        return
    schema = schemas[frame.stream_id, message.schema]
    run.quantities.update({q.name: q for q in schema.quantities})
    if newest:
        run.show(frame.rank, schema, message, at)
    else:
        run.show_late(frame.rank, message, at)


class _Lives:
    """Which life each rank of a run has come to, as its messages pass; what an earlier one left is delivered at any time."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self._order = {life.stream_id: place for place, life in enumerate(lives)}
        self._at = {life.rank: self._order[life.stream_id] for life in lives if life.heard}
        self.finished = {life.rank: life.finished for life in lives}  # the last has the last word

    def are_at(self, frame: StoredFrame) -> bool:
        """Whether no later life of its rank has been seen."""
        order = self._order[frame.stream_id]
        latest = self._at[frame.rank] = max(order, self._at.get(frame.rank, 0))
        return order == latest


def _restored(run: LiveRun, lock: RLock, reader: Reader) -> int:
    """The frame after which a run goes on from what was kept of it; 0 where it must be shown all its reports again."""
    try:
        if (kept := reader.live_state(run.run.id)) is not None:
            with lock:
                unpack_into(run, kept[1])
            return kept[0]
    except (msgspec.MsgspecError, ValueError, TypeError) as error:  # damaged, or kept otherwise by another release
        event("run.state_read_anew", logging.WARNING, run=run.run.id, reason=str(error))
    return 0
