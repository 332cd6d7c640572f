-- Identical jobs: who goes first, and who was answered by whom.

-- The latest job that led those of its content, for each choice of models. Whether it still leads is not
-- written here: it follows from its session, its result and its parking.
CREATE TABLE cache_lead (
    project_id TEXT NOT NULL,
    content    BLOB NOT NULL CHECK (length(content) = 32),
    pins       TEXT NOT NULL,               -- the choice of models; empty for none
    job_id     TEXT NOT NULL,
    body_hash  BLOB NOT NULL CHECK (length(body_hash) = 32),
    worker_id  BLOB NOT NULL,               -- the session that works on it
    led_at     INTEGER NOT NULL,            -- when it last said so
    keep_until INTEGER NOT NULL,            -- by then its answer is too old for anybody
    PRIMARY KEY (project_id, content, pins)
) STRICT, WITHOUT ROWID;
CREATE INDEX cache_lead_old ON cache_lead (keep_until);

-- Jobs that got the answer of another.
CREATE TABLE cache_hit (
    project_id TEXT NOT NULL,
    job_id     TEXT NOT NULL,
    task       TEXT NOT NULL,
    provider   TEXT NOT NULL,
    model      TEXT NOT NULL,
    followed   INTEGER NOT NULL,            -- it waited for the answer
    at         INTEGER NOT NULL,
    PRIMARY KEY (project_id, job_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX cache_hit_at ON cache_hit (at);
