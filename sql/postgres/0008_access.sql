-- Who may use the HTTP API and the console. Of every secret there is only its SHA-256.
CREATE TABLE outlay.api_token (
    token_id     uuid NOT NULL PRIMARY KEY,
    hash         bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    name         text COLLATE "C" NOT NULL,
    role         text COLLATE "C" NOT NULL CHECK (role IN ('viewer', 'producer', 'admin')),
    project_id   text COLLATE "C",       -- the only project it is good for
    created_by   text NOT NULL,
    created_at   bigint NOT NULL,
    expires_at   bigint,
    revoked_at   bigint,
    last_used_at bigint                  -- to about a minute
) WITH (fillfactor = 50);
-- The event log names tokens by their names.
CREATE UNIQUE INDEX api_token_name ON outlay.api_token (name) WHERE revoked_at IS NULL;

-- A sign-in to the console.
CREATE TABLE outlay.console_session (
    hash       bytea NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    token_id   uuid NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL
);
CREATE INDEX console_session_token ON outlay.console_session (token_id);

-- Requests that may come a second time, and what was answered; `status` is NULL while one is handled.
CREATE TABLE outlay.request_key (
    token_id     uuid NOT NULL,
    request_key  text COLLATE "C" NOT NULL,
    fingerprint  bytea NOT NULL CHECK (length(fingerprint) = 32),
    at           bigint NOT NULL,
    status       integer,
    content_type text,
    body         bytea,
    PRIMARY KEY (token_id, request_key)
);
CREATE INDEX request_key_at ON outlay.request_key (at);

-- Jobs handed in over HTTP, so that whoever asks for the result at once is not told that there is no such
-- job. Kept for a day.
CREATE TABLE outlay.submission (
    project_id text COLLATE "C" NOT NULL,
    job_id     text COLLATE "C" NOT NULL,
    at         bigint NOT NULL,
    PRIMARY KEY (project_id, job_id)
);
CREATE INDEX submission_at ON outlay.submission (at);
