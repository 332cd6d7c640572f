-- The ledger. Times are microseconds since 1970 (UTC), money is nano-dollars; both are INTEGER.
-- No foreign keys on the hot path: `outlay ledger verify` watches what they would.

CREATE TABLE project (
    project_id  TEXT NOT NULL PRIMARY KEY,
    time_zone   TEXT NOT NULL,              -- IANA name; days and months turn in it
    on_cap      TEXT NOT NULL CHECK (on_cap IN ('park', 'fail')),
    uncapped    INTEGER NOT NULL CHECK (uncapped IN (0, 1)),
    stop_reason TEXT,                       -- NULL while it runs
    created_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What a window that is opened later starts from.
CREATE TABLE project_cap (
    project_id TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('day', 'month', 'total')),
    amount     INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (project_id, kind)
) STRICT, WITHOUT ROWID;

-- The database itself refuses an overspend: a begin raises `held` and leaves `ceiling` alone.
CREATE TABLE budget_window (
    window_id  INTEGER PRIMARY KEY,
    project_id TEXT NOT NULL,               -- '*' is the account over all projects
    kind       TEXT NOT NULL CHECK (kind IN ('day', 'month', 'total', 'run')),
    starts_at  INTEGER NOT NULL,
    ends_at    INTEGER,                     -- NULL: without end
    worker_id  BLOB NOT NULL DEFAULT x'',   -- whose run, for kind 'run'
    cap        INTEGER,                     -- NULL: nothing bounds it, but its sums are kept
    ceiling    INTEGER,
    held       INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    spent      INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    presumed   INTEGER NOT NULL DEFAULT 0 CHECK (presumed >= 0),
    overshoot  INTEGER NOT NULL DEFAULT 0 CHECK (overshoot >= 0),
    UNIQUE (project_id, kind, starts_at, worker_id),
    CHECK ((cap IS NULL) = (ceiling IS NULL)),
    CHECK (ceiling IS NULL OR held + spent + presumed <= ceiling)
) STRICT;

-- Only ever inserted into: the terminal state is the result row, a redrive is a new generation.
CREATE TABLE job (
    project_id  TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    generation  INTEGER NOT NULL CHECK (generation >= 1),
    task        TEXT NOT NULL,
    body_hash   BLOB NOT NULL CHECK (length(body_hash) = 32),
    accepted_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, job_id, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE parked (
    project_id TEXT NOT NULL,
    job_id     TEXT NOT NULL,
    task       TEXT NOT NULL,
    reason     TEXT NOT NULL CHECK (json_valid(reason)),
    since      INTEGER NOT NULL,
    PRIMARY KEY (project_id, job_id)
) STRICT, WITHOUT ROWID;

-- One row per provider call. A rowid table, because an explanation of a kilobyte would push a
-- row of a WITHOUT ROWID table onto an overflow page of its own.
CREATE TABLE attempt (
    attempt_seq         INTEGER PRIMARY KEY,
    attempt_id          BLOB NOT NULL UNIQUE CHECK (length(attempt_id) = 16),
    project_id          TEXT NOT NULL,
    job_id              TEXT NOT NULL,
    generation          INTEGER NOT NULL,
    attempt_no          INTEGER NOT NULL CHECK (attempt_no >= 1),
    task                TEXT NOT NULL,
    worker_id           BLOB NOT NULL,
    windows             TEXT NOT NULL,      -- JSON array of window_id
    provider            TEXT NOT NULL,
    model               TEXT NOT NULL,
    price_version       INTEGER NOT NULL,
    hold                INTEGER NOT NULL CHECK (hold >= 0),
    counted             INTEGER NOT NULL CHECK (counted >= 0),
    state               TEXT NOT NULL CHECK (state IN ('held', 'settled', 'presumed', 'void')),
    begun_at            INTEGER NOT NULL,
    ended_at            INTEGER,            -- when its money last moved
    outcome             TEXT,
    input_tokens        INTEGER,            -- NULL where the provider did not say
    cached_input_tokens INTEGER,
    cache_write_tokens  INTEGER,
    output_tokens       INTEGER,
    reasoning_tokens    INTEGER,
    model_served        TEXT,
    provider_ms         INTEGER,
    detail              TEXT,
    explanation         TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX attempt_by_job ON attempt (project_id, job_id, generation, attempt_no);
-- As many entries as calls are in flight or await reconciliation: what a reaper has to look at.
CREATE INDEX attempt_open ON attempt (state) WHERE state = 'held' OR state = 'presumed';

-- Generation 0 is a line that never became a job.
CREATE TABLE result (
    result_seq  INTEGER PRIMARY KEY,        -- the order of finishing
    project_id  TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    generation  INTEGER NOT NULL,
    task        TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('done', 'failed', 'expired', 'cancelled')),
    error_code  TEXT,
    provider    TEXT,
    model       TEXT,
    cost        INTEGER NOT NULL,
    presumed    INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    written_at  INTEGER NOT NULL,
    body        TEXT NOT NULL,              -- the whole result as JSON, as it is exported
    UNIQUE (project_id, job_id, generation)
) STRICT;

-- A ledger session: fenced once it is no longer alive.
CREATE TABLE worker (
    worker_id    BLOB NOT NULL PRIMARY KEY,
    label        TEXT NOT NULL,
    alive        INTEGER NOT NULL CHECK (alive IN (0, 1)),
    started_at   INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    ended_at     INTEGER
) STRICT, WITHOUT ROWID;

-- Pico-dollars per token; all NULL for a model whose price is not known.
CREATE TABLE model_price (
    model        TEXT NOT NULL,
    version      INTEGER NOT NULL,
    input        INTEGER,
    cached_input INTEGER,
    cache_write  INTEGER,
    output       INTEGER,
    since        INTEGER NOT NULL,
    PRIMARY KEY (model, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE breaker_state (
    model  TEXT NOT NULL PRIMARY KEY,
    state  TEXT NOT NULL CHECK (state = 'quarantined'),
    reason TEXT NOT NULL,
    since  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who changed what: only ever inserted into.
CREATE TABLE event (
    event_id INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    who      TEXT NOT NULL,
    what     TEXT NOT NULL,
    subject  TEXT NOT NULL,
    detail   TEXT NOT NULL CHECK (json_valid(detail))
) STRICT;

-- For analysts. Days are UTC here; `outlay spend --by day` counts in each project's time zone.
CREATE VIEW spend_by_day AS
SELECT date(begun_at / 1000000, 'unixepoch') AS day,
       project_id,
       count(*) AS attempts,
       sum(CASE WHEN state = 'settled' THEN counted ELSE 0 END) AS spent_nanousd,
       sum(CASE WHEN state = 'presumed' THEN counted ELSE 0 END) AS presumed_nanousd,
       sum(CASE WHEN state = 'held' THEN counted ELSE 0 END) AS held_nanousd,
       sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens
FROM attempt
GROUP BY day, project_id;

CREATE VIEW spend_by_model AS
SELECT provider,
       model,
       project_id,
       count(*) AS attempts,
       sum(CASE WHEN state = 'settled' THEN counted ELSE 0 END) AS spent_nanousd,
       sum(CASE WHEN state = 'presumed' THEN counted ELSE 0 END) AS presumed_nanousd,
       sum(CASE WHEN state = 'held' THEN counted ELSE 0 END) AS held_nanousd,
       sum(input_tokens) AS input_tokens,
       sum(cached_input_tokens) AS cached_input_tokens,
       sum(output_tokens) AS output_tokens
FROM attempt
GROUP BY provider, model, project_id;
