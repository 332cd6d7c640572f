-- What jobs outside their own life need: a way back to the queue, a way out, an end of being kept.
-- The tables are those of Postgres; a file has no queue beside it, so nothing reads `outbox` here.

ALTER TABLE parked ADD COLUMN hold INTEGER NOT NULL DEFAULT 0;      -- what did not fit
ALTER TABLE parked ADD COLUMN runs_for INTEGER NOT NULL DEFAULT 0;  -- how long its call may run
ALTER TABLE parked ADD COLUMN until INTEGER;                        -- when the reason may be gone
ALTER TABLE parked ADD COLUMN let_go_by TEXT;                       -- a person overruled the reason
ALTER TABLE parked ADD COLUMN released_at INTEGER;                  -- set while it is on its way back
ALTER TABLE parked ADD COLUMN class TEXT NOT NULL DEFAULT 'standard'
    CHECK (class IN ('interactive', 'standard', 'bulk'));
ALTER TABLE parked ADD COLUMN reply_to TEXT;
ALTER TABLE parked ADD COLUMN correlation_id TEXT;
ALTER TABLE parked ADD COLUMN traceparent TEXT;
ALTER TABLE parked ADD COLUMN body_hash BLOB;
ALTER TABLE parked ADD COLUMN accepted_at INTEGER;

-- The text of a job, as long as it waits outside the queue or retention asks for it.
CREATE TABLE job_payload (
    project_id     TEXT NOT NULL,
    job_id         TEXT NOT NULL,
    body           BLOB NOT NULL,
    reply_to       TEXT,
    correlation_id TEXT,
    traceparent    TEXT,
    class          TEXT NOT NULL CHECK (class IN ('interactive', 'standard', 'bulk')),
    kept_at        INTEGER NOT NULL,
    PRIMARY KEY (project_id, job_id)
) STRICT;

-- A message that is owed until the broker has confirmed it.
CREATE TABLE outbox (
    outbox_id      INTEGER PRIMARY KEY,
    kind           TEXT NOT NULL CHECK (kind IN ('job', 'result')),
    project_id     TEXT NOT NULL,
    job_id         TEXT NOT NULL,
    generation     INTEGER NOT NULL,
    class          TEXT NOT NULL CHECK (class IN ('interactive', 'standard', 'bulk')),
    body           BLOB,
    reply_to       TEXT,
    correlation_id TEXT,
    traceparent    TEXT,
    accepted_at    INTEGER,
    created_at     INTEGER NOT NULL,
    claimed_by     BLOB,
    claimed_at     INTEGER
) STRICT;

-- Cancelled before the job came; gone once it has its result.
CREATE TABLE cancel_request (
    project_id TEXT NOT NULL,
    job_id     TEXT NOT NULL,
    who        TEXT NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (project_id, job_id)
) STRICT, WITHOUT ROWID;

-- What a window has spent on attempts that are not kept any more.
ALTER TABLE budget_window ADD COLUMN purged INTEGER NOT NULL DEFAULT 0 CHECK (purged >= 0);
