-- Who may use how much of a provider's limits, and how much of each the last minute may hold. What a row
-- means is decided by the worker that writes it (policy::shares), under a lock that all of them take.
CREATE TABLE outlay.limiter_share (
    provider   text COLLATE "C" NOT NULL,
    model      text COLLATE "C" NOT NULL,   -- empty for the limit over all models of the provider
    unit       text COLLATE "C" NOT NULL CHECK (unit IN ('requests', 'tokens')),
    worker     uuid NOT NULL,
    want       bigint NOT NULL CHECK (want >= 0),
    share      bigint NOT NULL CHECK (share >= 0),
    held       bigint NOT NULL CHECK (held >= share),
    need       bigint NOT NULL CHECK (need >= 0),
    need_at    bigint NOT NULL,
    leaving    bigint[] NOT NULL,           -- of what is held: units by when they leave the minute
    told_at    bigint NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (provider, model, unit, worker)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
