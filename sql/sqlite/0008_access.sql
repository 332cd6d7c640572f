-- Who may use the HTTP API and the console. Of every secret there is only its SHA-256.
CREATE TABLE api_token (
    token_id     BLOB NOT NULL PRIMARY KEY CHECK (length(token_id) = 16),
    hash         BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    name         TEXT NOT NULL,
    role         TEXT NOT NULL CHECK (role IN ('viewer', 'producer', 'admin')),
    project_id   TEXT,                   -- the only project it is good for
    created_by   TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER                 -- to about a minute
) STRICT, WITHOUT ROWID;
-- The event log names tokens by their names.
CREATE UNIQUE INDEX api_token_name ON api_token (name) WHERE revoked_at IS NULL;

-- A sign-in to the console.
CREATE TABLE console_session (
    hash       BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    token_id   BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX console_session_token ON console_session (token_id);

-- Requests that may come a second time, and what was answered; `status` is NULL while one is handled.
CREATE TABLE request_key (
    token_id     BLOB NOT NULL,
    request_key  TEXT NOT NULL,
    fingerprint  BLOB NOT NULL CHECK (length(fingerprint) = 32),
    at           INTEGER NOT NULL,
    status       INTEGER,
    content_type TEXT,
    body         BLOB,
    PRIMARY KEY (token_id, request_key)
) STRICT;
CREATE INDEX request_key_at ON request_key (at);

-- Jobs handed in over HTTP, so that whoever asks for the result at once is not told that there is no such
-- job. Kept for a day.
CREATE TABLE submission (
    project_id TEXT NOT NULL,
    job_id     TEXT NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (project_id, job_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX submission_at ON submission (at);
