-- Whether this file is the one that was written last. The lock beside it has the same name and counts the
-- same sessions: a file that was put back from a backup has seen fewer than its lock.
CREATE TABLE ledger_place (
    only_one INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (only_one = 1),
    place    TEXT NOT NULL,
    sessions INTEGER NOT NULL
) STRICT;
INSERT INTO ledger_place (place, sessions) VALUES (lower(hex(randomblob(16))), 0);

-- Times at which it was not; open until a person has said what was spent meanwhile.
CREATE TABLE ledger_restore (
    restore_id  INTEGER PRIMARY KEY,
    found_at    INTEGER NOT NULL,
    known_until INTEGER NOT NULL,           -- the last that these rows know of
    how         TEXT NOT NULL,
    settled_at  INTEGER
) STRICT;
