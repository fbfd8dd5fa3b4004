"""Streams: the lives of a run's ranks, as the store has them."""

import json
import sqlite3
from dataclasses import dataclass, field

from collector.errors import NotOwner
from probe_wire import Hello, Schema, decode_for_collector


@dataclass(slots=True)
class Stream:
    """One rank of a run in one life of its process, as the store has it."""

    id: int
    run_id: str
    rank: int
    epoch: str
    high: int
    lost: int
    finished: bool
    gap: int = 0
    """Numbers that the newest Hello gave up."""
    schemas: dict[int, Schema] = field(default_factory=dict)
    schema_bytes: dict[int, int] = field(default_factory=dict)

    def learn(self, schema: Schema, body: bytes) -> None:
        """Take in a schema, which came as these bytes."""
        self.schemas[schema.id] = schema
        self.schema_bytes[schema.id] = len(body)


def open_stream(db: sqlite3.Connection, hello: Hello, now: float, owner: str, *, in_memory: bool) -> Stream:
    """Open a stream, or find it again; numbers the agent gave up are counted as lost.

    A run belongs to the ``owner`` that opened it; one that nobody owns, to the first who comes with a name. Of a stream that
    is already ``in_memory`` the schemas are not read again.

    Raises:
        NotOwner: the run belongs to another; nothing was changed.
    """
    run = hello.run
    known = db.execute("SELECT owner FROM runs WHERE id = ?", (run.id,)).fetchone()
    if known is not None and known[0] not in {"", owner}:
        raise NotOwner(
            f"Got the run {run.id} from another key than the one that opened it. Use that key, or start a run of your own."
        )
    db.execute(
        "INSERT INTO runs (id, name, host, pid, started_at, labels, git_revision, agent_version, world_size, first_heard, "
        "last_heard, step, owner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "last_heard = excluded.last_heard, step = MAX(step, excluded.step), owner = excluded.owner",
        (
            run.id,
            run.name,
            run.host,
            run.pid,
            run.started_at,
            json.dumps(run.labels, sort_keys=True),
            run.git_revision,
            run.agent_version,
            run.world_size,
            now,
            now,
            hello.step,
            owner,
        ),
    )
    db.execute(
        "INSERT INTO streams (run_id, rank, epoch, started_at, ended) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET ended = excluded.ended WHERE ended <> excluded.ended",
        (run.id, hello.rank, hello.epoch, run.started_at, hello.ended),
    )
    stream_id, high, lost, finished = db.execute(
        "SELECT id, high, lost, finished FROM streams WHERE run_id = ? AND rank = ? AND epoch = ?",
        (run.id, hello.rank, hello.epoch),
    ).fetchone()
    stream = Stream(stream_id, run.id, hello.rank, hello.epoch, high, lost, finished is not None)
    stream.gap = max(hello.first - 1 - high, 0)
    if stream.gap:
        stream.high, stream.lost = hello.first - 1, lost + stream.gap
        db.execute("UPDATE streams SET high = ?, lost = ? WHERE id = ?", (stream.high, stream.lost, stream.id))
    if in_memory:
        return stream
    for (body,) in db.execute("SELECT body FROM schemas WHERE stream_id = ?", (stream.id,)).fetchall():
        schema = decode_for_collector(body)
        assert isinstance(schema, Schema)  # noqa: S101 - the table holds nothing else
        stream.learn(schema, body)  # its series were bound when it came
    return stream


_OVER = "(ended OR finished IS NOT NULL)"
OLDEST_FIRST = f"{_OVER} DESC, CASE WHEN {_OVER} THEN started_at END, id"
"""Lives of a rank. Those that go on come last, in the order in which they were first heard, whatever the clocks of their machines say;
those that are over by when they began, as what one left may be heard first when a later one has long begun."""


def is_newest(db: sqlite3.Connection, stream: Stream) -> bool:
    """Whether no later life of its rank is known."""
    lives = db.execute(
        f"SELECT id FROM streams WHERE run_id = ? AND rank = ? ORDER BY {OLDEST_FIRST}",  # noqa: S608 - a constant
        (stream.run_id, stream.rank),
    ).fetchall()
    return bool(lives[-1][0] == stream.id)
