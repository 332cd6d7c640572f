-- Prices that take effect later, and the price tables that were imported.

-- A version of the configuration holds from when it was written; a planned one from `effective_at` on.
ALTER TABLE model_price ADD COLUMN origin TEXT NOT NULL DEFAULT 'config' CHECK (origin IN ('config', 'plan'));
ALTER TABLE model_price ADD COLUMN effective_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE model_price ADD COLUMN who TEXT NOT NULL DEFAULT 'outlay';
ALTER TABLE model_price ADD COLUMN why TEXT NOT NULL DEFAULT '';
ALTER TABLE model_price ADD COLUMN revoked_at INTEGER;          -- NULL: it holds, or will
UPDATE model_price SET effective_at = since;

CREATE TABLE price_table (
    table_id    INTEGER PRIMARY KEY,
    source      TEXT NOT NULL,              -- a path or an address
    sha256      TEXT NOT NULL CHECK (length(sha256) = 64),
    imported_at INTEGER NOT NULL,
    who         TEXT NOT NULL,
    models      INTEGER NOT NULL CHECK (models >= 0)
) STRICT;

-- Pico-dollars per token; NULL for what the table does not list, which is not the same as 0.
CREATE TABLE price_table_model (
    table_id     INTEGER NOT NULL,
    model        TEXT NOT NULL,             -- the table's name of it
    vendor       TEXT,
    input        INTEGER CHECK (input >= 0),
    cached_input INTEGER CHECK (cached_input >= 0),
    cache_write  INTEGER CHECK (cache_write >= 0),
    output       INTEGER CHECK (output >= 0),
    prices       TEXT NOT NULL CHECK (json_valid(prices)), -- all of them by the table's names: numbers are pico-dollars per token
    PRIMARY KEY (table_id, model)
) STRICT, WITHOUT ROWID;
