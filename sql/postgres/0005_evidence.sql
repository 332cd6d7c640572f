-- How well models do, what people say of answers, and which models jobs keep to.

-- Counts in millionths, because old ones count in part; `policy::evidence` says how they fade.
CREATE TABLE outlay.evidence (
    task      text COLLATE "C" NOT NULL,
    model     text COLLATE "C" NOT NULL,
    valid     bigint NOT NULL CHECK (valid >= 0),
    invalid   bigint NOT NULL CHECK (invalid >= 0),
    refused   bigint NOT NULL CHECK (refused >= 0),
    escalated bigint NOT NULL CHECK (escalated >= 0),
    score     bigint NOT NULL CHECK (score >= 0),
    scored    bigint NOT NULL CHECK (scored >= 0),
    as_of     bigint NOT NULL,
    PRIMARY KEY (task, model)
) WITH (fillfactor = 50);

-- Scores of answers: only ever inserted into, until their results are thrown away.
CREATE TABLE outlay.feedback (
    feedback_id text COLLATE "C" NOT NULL PRIMARY KEY,
    project_id  text COLLATE "C" NOT NULL,
    job_id      text COLLATE "C" NOT NULL,
    generation  integer NOT NULL,
    task        text NOT NULL,
    model       text NOT NULL,
    score       integer NOT NULL CHECK (score BETWEEN 0 AND 1000000), -- millionths
    note        text,
    who         text NOT NULL,
    at          bigint NOT NULL
);
CREATE INDEX feedback_at ON outlay.feedback (at);

-- The model that a project's jobs keep to; a task's own where `task` is not empty.
CREATE TABLE outlay.pin (
    project_id text COLLATE "C" NOT NULL,
    task       text COLLATE "C" NOT NULL,
    model      text NOT NULL,
    since      bigint NOT NULL,
    switches   bigint NOT NULL CHECK (switches >= 0),
    PRIMARY KEY (project_id, task)
) WITH (fillfactor = 50);
