-- Everything a collector knows, in one file. The record is every committed message as it came, numbered in the order of
-- commit: the newest in `arrived`, older ones in `log`, then as columns in `blocks` and `chunks`, from which each comes back to
-- the byte.

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
    step          INTEGER NOT NULL DEFAULT 0, -- the furthest any rank reported
    owner         TEXT NOT NULL DEFAULT '',   -- the key that opened it; '' where nobody was asked for one
    thinned_at    REAL                        -- since when only its pyramid is kept; NULL where all of it is
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
    started_at REAL NOT NULL DEFAULT 0,       -- when that life began, Unix seconds by the job's clock; 0 where it was not kept
    ended      INTEGER NOT NULL DEFAULT 0,    -- whether somebody else delivers what it left
    UNIQUE (run_id, rank, epoch)
) STRICT;

CREATE TABLE IF NOT EXISTS schemas (
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    id        INTEGER NOT NULL,
    body      BLOB NOT NULL,                  -- the message as it came
    PRIMARY KEY (stream_id, id)
) STRICT, WITHOUT ROWID;

-- Messages in the order in which they came, those of a commit together, until many are put in their place in the log at once.
CREATE TABLE IF NOT EXISTS arrived (
    last_frame INTEGER PRIMARY KEY,           -- see log
    places     BLOB NOT NULL,                 -- of each its place (-1: of a dropped run), frame, step, time of arrival, and its bytes
    bodies     BLOB NOT NULL,                 -- one after another
    crcs       BLOB                           -- of each its CRC-32, see log; NULL where an older release kept them
) STRICT;

-- Messages that are not in a block yet. Those of one stream lie side by side, so that few pages change when they leave.
CREATE TABLE IF NOT EXISTS log (
    place       INTEGER PRIMARY KEY,          -- stream_id * 2^32 + the lower 32 bits of the message's number in its stream
    frame       INTEGER NOT NULL,             -- its number in the order of commit
    step        INTEGER NOT NULL,
    received_at REAL NOT NULL,
    body        BLOB NOT NULL,                -- a Report or Goodbye as it came
    crc         INTEGER                       -- CRC-32 of all before it, since it came; NULL of what an older release kept
) STRICT;

-- Messages of which a bit changed while they waited in `arrived` or `log`, as they were found: nobody reads them, and their streams
-- count them as lost.
CREATE TABLE IF NOT EXISTS damaged (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    place       INTEGER NOT NULL,             -- from here on as in log
    frame       INTEGER NOT NULL,
    step        INTEGER NOT NULL,
    received_at REAL NOT NULL,
    body        BLOB NOT NULL,
    crc         INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS last_frame (
    number INTEGER NOT NULL                   -- of the newest message, be it in the log, in a block or dropped
) STRICT;

-- The lives of the file: a new one begins with the first that is written after it was opened, so that no frame beyond the last that
-- two copies share is taken for the same.
CREATE TABLE IF NOT EXISTS timeline (
    number INTEGER PRIMARY KEY,
    mark   TEXT NOT NULL,                     -- random
    since  INTEGER NOT NULL                   -- the last frame before
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

-- Many reports of one stream and schema, sealed: their messages leave `log` in the transaction that puts them here.
CREATE TABLE IF NOT EXISTS blocks (
    first_frame INTEGER PRIMARY KEY,
    last_frame  INTEGER NOT NULL,
    stream_id   INTEGER NOT NULL REFERENCES streams (id),
    schema_id   INTEGER NOT NULL,
    reports     INTEGER NOT NULL,
    crc         INTEGER NOT NULL,             -- CRC-32 of the messages one after another, as they came
    places      BLOB NOT NULL,                -- frame, step and time of arrival of each
    envelopes   BLOB NOT NULL                 -- each message but for its columns
) STRICT;
CREATE INDEX IF NOT EXISTS blocks_of_stream ON blocks (stream_id, schema_id, first_frame);

-- The column of one series in a block; gone where the run was thinned to its pyramid.
CREATE TABLE IF NOT EXISTS chunks (
    series_id   INTEGER NOT NULL REFERENCES series (id),
    first_frame INTEGER NOT NULL,             -- of which block
    body        BLOB NOT NULL,
    PRIMARY KEY (series_id, first_frame)
) STRICT;

-- What a chart must not lose of each chunk.
CREATE TABLE IF NOT EXISTS pyramid (
    series_id   INTEGER NOT NULL REFERENCES series (id),
    first_frame INTEGER NOT NULL,
    last_frame  INTEGER NOT NULL,
    points      INTEGER NOT NULL,             -- in the chunk
    body        BLOB NOT NULL,
    PRIMARY KEY (series_id, first_frame)
) STRICT, WITHOUT ROWID;

-- Runs that retention took away.
CREATE TABLE IF NOT EXISTS dropped_runs (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id     TEXT NOT NULL,
    name       TEXT NOT NULL,
    reports    INTEGER NOT NULL,
    last_heard REAL NOT NULL,
    dropped_at REAL NOT NULL
) STRICT;

-- What a person asked of a run, the newest ten thousand; `id` is the sender's own and is carried out once.
CREATE TABLE IF NOT EXISTS orders (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    run_id     TEXT NOT NULL,
    quantity   TEXT NOT NULL,
    times      INTEGER NOT NULL,
    seconds    REAL NOT NULL,
    until_step INTEGER NOT NULL,
    ranks      TEXT NOT NULL,                 -- JSON array: who was asked
    given_at   REAL NOT NULL,
    given_by   TEXT NOT NULL                  -- the address it came from
) STRICT;

-- What became known of each claim of a machine; `id` is the order in which it did.
CREATE TABLE IF NOT EXISTS transitions (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id   TEXT NOT NULL REFERENCES runs (id),
    machine  TEXT NOT NULL,
    subject  TEXT NOT NULL,                   -- JSON object, keys sorted
    ordinal  INTEGER NOT NULL,
    state    TEXT NOT NULL,                   -- suspected, detected, confirmed, retracted
    frame_id INTEGER NOT NULL,                -- the report that made it known
    known_at REAL NOT NULL,
    body     TEXT NOT NULL,                   -- the Transition as JSON
    UNIQUE (run_id, machine, subject, ordinal, state)
) STRICT;

-- What a run's phase engine needs to go on after a frame, so that a restart need not judge the whole run again.
CREATE TABLE IF NOT EXISTS phase_states (
    run_id   TEXT PRIMARY KEY REFERENCES runs (id),
    frame_id INTEGER NOT NULL,
    body     TEXT NOT NULL                    -- JSON
) STRICT, WITHOUT ROWID;

-- The same for what the views show of a run.
CREATE TABLE IF NOT EXISTS live_states (
    run_id   TEXT PRIMARY KEY REFERENCES runs (id),
    frame_id INTEGER NOT NULL,
    body     BLOB NOT NULL
) STRICT;
