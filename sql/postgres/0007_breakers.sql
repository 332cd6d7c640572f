-- How the breaker of each provider and model stands. What a row means is decided by the worker that
-- writes it (policy::breaker::shared), under a lock that all of them take.
CREATE TABLE outlay.breaker (
    provider text COLLATE "C" NOT NULL,
    model    text COLLATE "C" NOT NULL,   -- empty for the provider's own
    phase    text COLLATE "C" NOT NULL CHECK (phase IN ('closed', 'open', 'open_hard', 'probing')),
    until    bigint CHECK ((until IS NULL) = (phase = 'closed')),
    worker   uuid CHECK ((worker IS NULL) = (phase <> 'probing')),
    since    bigint NOT NULL,
    reason   text NOT NULL,
    PRIMARY KEY (provider, model)
);
CREATE TRIGGER breaker_moved AFTER INSERT OR UPDATE ON outlay.breaker
    FOR EACH STATEMENT EXECUTE FUNCTION outlay.tell_changed();
