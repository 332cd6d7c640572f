-- How well models do, what people say of answers, and which models jobs keep to.

-- Counts in millionths, because old ones count in part; `policy::evidence` says how they fade.
CREATE TABLE evidence (
    task      TEXT NOT NULL,
    model     TEXT NOT NULL,
    valid     INTEGER NOT NULL CHECK (valid >= 0),
    invalid   INTEGER NOT NULL CHECK (invalid >= 0),
    refused   INTEGER NOT NULL CHECK (refused >= 0),
    escalated INTEGER NOT NULL CHECK (escalated >= 0),
    score     INTEGER NOT NULL CHECK (score >= 0),
    scored    INTEGER NOT NULL CHECK (scored >= 0),
    as_of     INTEGER NOT NULL,
    PRIMARY KEY (task, model)
) STRICT, WITHOUT ROWID;

-- Scores of answers: only ever inserted into, until their results are thrown away.
CREATE TABLE feedback (
    feedback_id TEXT NOT NULL PRIMARY KEY,
    project_id  TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    generation  INTEGER NOT NULL,
    task        TEXT NOT NULL,
    model       TEXT NOT NULL,
    score       INTEGER NOT NULL CHECK (score BETWEEN 0 AND 1000000), -- millionths
    note        TEXT,
    who         TEXT NOT NULL,
    at          INTEGER NOT NULL
) STRICT;
CREATE INDEX feedback_at ON feedback (at);

-- The model that a project's jobs keep to; a task's own where `task` is not empty.
CREATE TABLE pin (
    project_id TEXT NOT NULL,
    task       TEXT NOT NULL,
    model      TEXT NOT NULL,
    since      INTEGER NOT NULL,
    switches   INTEGER NOT NULL CHECK (switches >= 0),
    PRIMARY KEY (project_id, task)
) STRICT, WITHOUT ROWID;
