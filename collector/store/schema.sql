-- Everything a collector knows, in one file. `frames` is the record: every committed message as it
-- came, in the order of commit; the rest is derived from it or identifies what it speaks of.

CREATE TABLE IF NOT EXISTS runs (
    id            TEXT PRIMARY KEY,
    name          TEXT NOT NULL,
    host          TEXT NOT NULL,
    pid           INTEGER NOT NULL,
    started_at    REAL NOT NULL,              -- Unix seconds, the job's clock
    labels        TEXT NOT NULL,              -- JSON object
    git_revision  TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    world_size    INTEGER NOT NULL,
    first_heard   REAL NOT NULL,              -- Unix seconds, the collector's clock, from here on
    last_heard    REAL NOT NULL,
    step          INTEGER NOT NULL DEFAULT 0  -- the furthest any rank reported
) STRICT;

-- One rank of a run in one life of its process. (stream, seq) makes a resent report harmless.
CREATE TABLE IF NOT EXISTS streams (
    id         INTEGER PRIMARY KEY,
    run_id     TEXT NOT NULL REFERENCES runs (id),
    rank       INTEGER NOT NULL,
    epoch      TEXT NOT NULL,
    high       INTEGER NOT NULL DEFAULT 0,    -- every number up to here is committed or counted as lost
    lost       INTEGER NOT NULL DEFAULT 0,    -- numbers the agent gave up
    finished   TEXT,                          -- the reason of its Goodbye; NULL while it lives
    UNIQUE (run_id, rank, epoch)
) STRICT;

CREATE TABLE IF NOT EXISTS schemas (
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    id        INTEGER NOT NULL,
    body      BLOB NOT NULL,                  -- the message as it came
    PRIMARY KEY (stream_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS frames (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id   INTEGER NOT NULL REFERENCES streams (id),
    seq         INTEGER NOT NULL,
    step        INTEGER NOT NULL,
    received_at REAL NOT NULL,
    body        BLOB NOT NULL,                -- a Report or Goodbye as it came
    UNIQUE (stream_id, seq)
) STRICT;

CREATE TABLE IF NOT EXISTS quantities (
    run_id TEXT NOT NULL REFERENCES runs (id),
    name   TEXT NOT NULL,
    unit   TEXT NOT NULL,
    help   TEXT NOT NULL,
    title  TEXT NOT NULL,
    scale  TEXT NOT NULL,
    PRIMARY KEY (run_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS series (
    id       INTEGER PRIMARY KEY,
    run_id   TEXT NOT NULL REFERENCES runs (id),
    rank     INTEGER NOT NULL,
    quantity TEXT NOT NULL,
    labels   TEXT NOT NULL,                   -- JSON object, keys sorted
    settings TEXT NOT NULL,                   -- JSON object, as last reported
    position INTEGER NOT NULL,                -- the order in which the agent reports them
    UNIQUE (run_id, rank, quantity, labels)
) STRICT;

CREATE TABLE IF NOT EXISTS points (
    series_id INTEGER NOT NULL REFERENCES series (id),
    frame_id  INTEGER NOT NULL REFERENCES frames (id),
    step      INTEGER NOT NULL,
    value     REAL,                           -- NULL is NaN
    stderr    REAL,
    paired    REAL,
    n         INTEGER NOT NULL,
    outcome   INTEGER NOT NULL,
    PRIMARY KEY (series_id, frame_id)
) STRICT, WITHOUT ROWID;

-- What became known of each claim of a machine; `id` is the order in which it did.
CREATE TABLE IF NOT EXISTS transitions (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id   TEXT NOT NULL REFERENCES runs (id),
    machine  TEXT NOT NULL,
    subject  TEXT NOT NULL,                   -- JSON object, keys sorted
    ordinal  INTEGER NOT NULL,
    state    TEXT NOT NULL,                   -- suspected, detected, confirmed, retracted
    frame_id INTEGER NOT NULL REFERENCES frames (id),  -- the report that made it known
    known_at REAL NOT NULL,
    body     TEXT NOT NULL,                   -- the Transition as JSON
    UNIQUE (run_id, machine, subject, ordinal, state)
) STRICT;

-- What a run's phase engine needs to go on after a frame, so that a restart need not judge the whole run again.
CREATE TABLE IF NOT EXISTS phase_states (
    run_id   TEXT PRIMARY KEY REFERENCES runs (id),
    frame_id INTEGER NOT NULL REFERENCES frames (id),
    body     TEXT NOT NULL                    -- JSON
) STRICT, WITHOUT ROWID;
