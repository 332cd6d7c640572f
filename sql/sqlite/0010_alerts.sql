-- Alerts and who still has to get them. What tells of a change is written in one transaction with it or
-- derived from the audit log; nothing here is on the way of a call.

-- A topic is told once, and again at a higher level.
CREATE TABLE alert (
    alert_id   BLOB NOT NULL PRIMARY KEY,
    at         INTEGER NOT NULL,
    topic      TEXT NOT NULL,
    level      INTEGER NOT NULL CHECK (level >= 0),
    kind       TEXT NOT NULL,
    severity   TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    project_id TEXT,                        -- NULL: the whole fleet
    title      TEXT NOT NULL,
    body       TEXT NOT NULL,
    UNIQUE (topic, level)
) STRICT;
CREATE INDEX alert_at ON alert (at);

-- The outbox: a row for each channel that is to get an alert.
CREATE TABLE alert_delivery (
    alert_id   BLOB NOT NULL,
    channel    TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'given_up', 'off')),
    tries      INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_at    INTEGER NOT NULL,            -- not before
    claimed_by BLOB,                        -- who is sending it
    claimed_at INTEGER,
    ended_at   INTEGER,
    last_error TEXT,
    PRIMARY KEY (alert_id, channel),
    CHECK ((state = 'pending') = (ended_at IS NULL))
) STRICT;
CREATE INDEX alert_due ON alert_delivery (channel, next_at) WHERE state = 'pending';

-- Lines of the audit log that nobody has looked at for alerts yet.
CREATE TABLE alert_inbox (
    event_id INTEGER NOT NULL PRIMARY KEY
) STRICT;
CREATE TRIGGER event_for_alerts AFTER INSERT ON event
BEGIN
    INSERT INTO alert_inbox (event_id) VALUES (NEW.event_id);
END;

-- What a capped window had used at some time: its pace follows from a few of these.
CREATE TABLE alert_look (
    window_id INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    used      INTEGER NOT NULL CHECK (used >= 0),
    PRIMARY KEY (window_id, at)
) STRICT, WITHOUT ROWID;

-- When alerts were looked for last, and since when that has been done without a gap: after one every
-- session looks silent.
CREATE TABLE alert_watch (
    only_one     INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (only_one = 1),
    looked_at    INTEGER NOT NULL,
    steady_since INTEGER NOT NULL
) STRICT;
INSERT INTO alert_watch (looked_at, steady_since) VALUES (0, 0);

-- Channels whose receiver wants nothing more, each with a hash of the address that said so.
CREATE TABLE alert_channel_off (
    channel TEXT NOT NULL PRIMARY KEY,
    address TEXT NOT NULL,
    since   INTEGER NOT NULL
) STRICT;
