-- What the loop guard counts and remembers. No row here is money; losing one loosens a rule for a while.

-- Sums in buckets of time: jobs, or nano-dollars for the meters that count money.
CREATE TABLE guard_count (
    project_id TEXT NOT NULL,
    meter      TEXT NOT NULL CHECK (meter IN ('content', 'called', 'growth', 'lineage', 'minute', 'quarter')),
    key        TEXT NOT NULL,               -- hash of a content or a beginning, id of a line's first job, or empty
    bucket     INTEGER NOT NULL,            -- where it starts
    amount     INTEGER NOT NULL CHECK (amount >= 0),
    keep_until INTEGER NOT NULL,
    PRIMARY KEY (project_id, meter, key, bucket)
) STRICT, WITHOUT ROWID;
CREATE INDEX guard_count_old ON guard_count (keep_until);

-- Where a job that named a parent stands: written once, so that no message can say otherwise later.
CREATE TABLE guard_lineage (
    project_id   TEXT NOT NULL,
    job_id       TEXT NOT NULL,
    root_project TEXT NOT NULL,
    root_job     TEXT NOT NULL,
    hops         INTEGER NOT NULL CHECK (hops >= 1),
    at           INTEGER NOT NULL,
    PRIMARY KEY (project_id, job_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX guard_lineage_root ON guard_lineage (root_project, root_job, at);
CREATE INDEX guard_lineage_old ON guard_lineage (at);

-- A rule that was tripped: over once a person released it, or nothing like it came for `quiet`.
CREATE TABLE guard_trip (
    trip_id    INTEGER PRIMARY KEY,
    project_id TEXT NOT NULL,
    rule       TEXT NOT NULL,
    key        TEXT NOT NULL,
    step       TEXT NOT NULL CHECK (step IN ('alert', 'throttle', 'park')),
    since      INTEGER NOT NULL,
    parked_at  INTEGER,
    last_at    INTEGER NOT NULL,
    quiet      INTEGER NOT NULL CHECK (quiet > 0),
    evidence   TEXT NOT NULL CHECK (json_valid(evidence)),
    ended_at   INTEGER,
    label      TEXT CHECK (label IN ('loop', 'planned', 'false-positive'))
) STRICT;
CREATE UNIQUE INDEX guard_trip_open ON guard_trip (project_id, rule, key) WHERE ended_at IS NULL;
CREATE INDEX guard_trip_parked ON guard_trip (project_id, parked_at) WHERE parked_at IS NOT NULL;

-- A rule that looks away until then, and is `factor` times as lenient afterwards; an empty key is all of them.
CREATE TABLE guard_mute (
    project_id TEXT NOT NULL,
    rule       TEXT NOT NULL,
    key        TEXT NOT NULL,
    until      INTEGER NOT NULL,
    factor     INTEGER NOT NULL CHECK (factor >= 1),
    PRIMARY KEY (project_id, rule, key)
) STRICT, WITHOUT ROWID;
