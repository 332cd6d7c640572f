-- Alerts and who still has to get them. What tells of a change is written in one transaction with it or
-- derived from the audit log; nothing here is on the way of a call.

-- A topic is told once, and again at a higher level.
CREATE TABLE outlay.alert (
    alert_id   uuid NOT NULL PRIMARY KEY,
    at         bigint NOT NULL,
    topic      text COLLATE "C" NOT NULL,
    level      integer NOT NULL CHECK (level >= 0),
    kind       text NOT NULL,
    severity   text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    project_id text COLLATE "C",            -- NULL: the whole fleet
    title      text NOT NULL,
    body       text NOT NULL,
    UNIQUE (topic, level)
);
CREATE INDEX alert_at ON outlay.alert (at);

-- The outbox: a row for each channel that is to get an alert.
CREATE TABLE outlay.alert_delivery (
    alert_id   uuid NOT NULL,
    channel    text COLLATE "C" NOT NULL,
    state      text NOT NULL CHECK (state IN ('pending', 'sent', 'given_up', 'off')),
    tries      integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_at    bigint NOT NULL,             -- not before
    claimed_by uuid,                        -- who is sending it
    claimed_at bigint,
    ended_at   bigint,
    last_error text,
    PRIMARY KEY (alert_id, channel),
    CHECK ((state = 'pending') = (ended_at IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX alert_due ON outlay.alert_delivery (channel, next_at) WHERE state = 'pending';

-- Lines of the audit log that nobody has looked at for alerts yet. A mark of how far somebody has read
-- would miss a line whose transaction committed after one with a higher number.
CREATE TABLE outlay.alert_inbox (
    event_id bigint NOT NULL PRIMARY KEY
);
CREATE FUNCTION outlay.tell_alerts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outlay.alert_inbox (event_id) VALUES (NEW.event_id);
    RETURN NULL;
END $$;
CREATE TRIGGER event_for_alerts AFTER INSERT ON outlay.event
    FOR EACH ROW EXECUTE FUNCTION outlay.tell_alerts();

-- What a capped window had used at some time: its pace follows from a few of these.
CREATE TABLE outlay.alert_look (
    window_id bigint NOT NULL,
    at        bigint NOT NULL,
    used      bigint NOT NULL CHECK (used >= 0),
    PRIMARY KEY (window_id, at)
);

-- When alerts were looked for last, and since when that has been done without a gap: after one every
-- session looks silent.
CREATE TABLE outlay.alert_watch (
    only_one     boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_one),
    looked_at    bigint NOT NULL,
    steady_since bigint NOT NULL
);
INSERT INTO outlay.alert_watch (looked_at, steady_since) VALUES (0, 0);

-- Channels whose receiver wants nothing more, each with a hash of the address that said so.
CREATE TABLE outlay.alert_channel_off (
    channel text COLLATE "C" NOT NULL PRIMARY KEY,
    address text NOT NULL,
    since   bigint NOT NULL
);
