-- Sums of spend by the hour, as a view: one process works with this store and has one file of calls, so
-- they are summed when somebody asks, and nothing has to be kept in step. Postgres keeps them in a table.

-- The part of the sums that no attempt stands behind any more.
CREATE TABLE spend_hour_purged (
    hour                INTEGER NOT NULL,   -- when it begins, by the clock of UTC
    project_id          TEXT NOT NULL,
    task                TEXT NOT NULL,
    provider            TEXT NOT NULL,
    model               TEXT NOT NULL,
    attempts            INTEGER NOT NULL,   -- begun, whatever became of them
    running             INTEGER NOT NULL,   -- of these, those without an end
    voided              INTEGER NOT NULL,   -- of these, those that cost nothing in the end
    spent               INTEGER NOT NULL,
    presumed            INTEGER NOT NULL,
    held                INTEGER NOT NULL,
    overshoot           INTEGER NOT NULL,   -- what bills were above their holds; a part of `spent`
    input_tokens        INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    cache_write_tokens  INTEGER NOT NULL,
    output_tokens       INTEGER NOT NULL,
    reasoning_tokens    INTEGER NOT NULL,
    PRIMARY KEY (hour, project_id, task, provider, model)
) STRICT, WITHOUT ROWID;

-- What each attempt brings into the sums.
CREATE VIEW attempt_sum AS
SELECT attempt_seq, project_id, job_id, attempt_id, begun_at, state,
       begun_at - begun_at % 3600000000 AS hour,
       task, provider, model,
       1 AS attempts,
       state = 'held' AS running,
       state = 'void' AS voided,
       CASE WHEN state = 'settled' THEN counted ELSE 0 END AS spent,
       CASE WHEN state = 'presumed' THEN counted ELSE 0 END AS presumed,
       CASE WHEN state = 'held' THEN counted ELSE 0 END AS held,
       CASE WHEN state = 'settled' AND counted > hold THEN counted - hold ELSE 0 END AS overshoot,
       coalesce(input_tokens, 0) AS input_tokens,
       coalesce(cached_input_tokens, 0) AS cached_input_tokens,
       coalesce(cache_write_tokens, 0) AS cache_write_tokens,
       coalesce(output_tokens, 0) AS output_tokens,
       coalesce(reasoning_tokens, 0) AS reasoning_tokens
FROM attempt;

CREATE VIEW spend_hour AS
SELECT hour, project_id, task, provider, model, sum(attempts) AS attempts, sum(running) AS running,
       sum(voided) AS voided, sum(spent) AS spent, sum(presumed) AS presumed, sum(held) AS held,
       sum(overshoot) AS overshoot, sum(input_tokens) AS input_tokens,
       sum(cached_input_tokens) AS cached_input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
       sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens
FROM (
    SELECT hour, project_id, task, provider, model, attempts, running, voided, spent, presumed, held, overshoot,
           input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens
    FROM attempt_sum
    UNION ALL
    SELECT hour, project_id, task, provider, model, attempts, running, voided, spent, presumed, held, overshoot,
           input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens
    FROM spend_hour_purged
)
GROUP BY hour, project_id, task, provider, model;

-- For analysts. ISO weeks, by the clock of UTC; tokens are those of input and output together.
CREATE VIEW tokens_per_dollar_by_week AS
SELECT strftime('%G-W%V', hour / 1000000, 'unixepoch') AS week,
       provider,
       model,
       sum(attempts) AS attempts,
       sum(spent) AS spent_nanousd,
       sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens,
       CASE WHEN sum(spent) > 0
           THEN CAST((sum(input_tokens) + sum(output_tokens)) * 1000000000.0 / sum(spent) AS INTEGER) END
           AS tokens_per_dollar
FROM spend_hour
GROUP BY 1, 2, 3;
