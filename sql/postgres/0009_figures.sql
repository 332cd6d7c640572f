-- Sums of spend by the hour. They are brought up to date every few seconds by `outlay.roll`, apart from
-- all that moves money: no begin and no conclusion does any more work for them. Attempts may be purged
-- later; their sums stay.

-- Of the attempts that were begun in an hour, by the clock of UTC.
CREATE TABLE outlay.spend_hour (
    hour                bigint NOT NULL,    -- when it begins
    project_id          text COLLATE "C" NOT NULL,
    task                text COLLATE "C" NOT NULL,
    provider            text COLLATE "C" NOT NULL,
    model               text COLLATE "C" NOT NULL,
    attempts            bigint NOT NULL,    -- begun, whatever became of them
    running             bigint NOT NULL,    -- of these, those without an end
    voided              bigint NOT NULL,    -- of these, those that cost nothing in the end
    spent               bigint NOT NULL,
    presumed            bigint NOT NULL,
    held                bigint NOT NULL,
    overshoot           bigint NOT NULL,    -- what bills were above their holds; a part of `spent`
    input_tokens        bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens  bigint NOT NULL,
    output_tokens       bigint NOT NULL,
    reasoning_tokens    bigint NOT NULL,
    PRIMARY KEY (hour, project_id, task, provider, model)
) WITH (fillfactor = 50);

-- The same by days of UTC, for questions about weeks and months; `hour` is when the day begins.
CREATE TABLE outlay.spend_day (
    LIKE outlay.spend_hour,
    PRIMARY KEY (hour, project_id, task, provider, model)
) WITH (fillfactor = 50);

-- The part of these sums that no attempt stands behind any more.
CREATE TABLE outlay.spend_hour_purged (
    LIKE outlay.spend_hour,
    PRIMARY KEY (hour, project_id, task, provider, model)
);

-- Attempts in the sums whose money may still move, with what the sums hold of each.
CREATE TABLE outlay.rollup_open (
    job_id              text COLLATE "C" NOT NULL,
    project_id          text COLLATE "C" NOT NULL,
    attempt_id          uuid NOT NULL,
    state               text COLLATE "C" NOT NULL CHECK (state IN ('held', 'presumed')),
    hour                bigint NOT NULL,
    task                text COLLATE "C" NOT NULL,
    provider            text COLLATE "C" NOT NULL,
    model               text COLLATE "C" NOT NULL,
    attempts            bigint NOT NULL,
    running             bigint NOT NULL,
    voided              bigint NOT NULL,
    spent               bigint NOT NULL,
    presumed            bigint NOT NULL,
    held                bigint NOT NULL,
    overshoot           bigint NOT NULL,
    input_tokens        bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens  bigint NOT NULL,
    output_tokens       bigint NOT NULL,
    reasoning_tokens    bigint NOT NULL,
    PRIMARY KEY (job_id, project_id, attempt_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX rollup_open_presumed ON outlay.rollup_open (state) WHERE state = 'presumed';

-- How far the sums reach: every attempt begun before `rolled_to` is in them, and none begun later.
CREATE TABLE outlay.rollup (
    is_it       boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (is_it),
    rolled_to   bigint NOT NULL,
    span        bigint NOT NULL,            -- how much time the last step took in
    presumed_at bigint NOT NULL,            -- when presumed money was last looked at
    told_at     bigint NOT NULL,            -- when the last step was made, and whether it was the last one
    is_behind   boolean NOT NULL,
    summarized_to bigint NOT NULL,          -- blocks of `attempt` that its index knows
    judged_to   bigint NOT NULL             -- results whose routes were judged, by `result_seq`
);
INSERT INTO outlay.rollup (rolled_to, span, presumed_at, told_at, is_behind, summarized_to, judged_to)
VALUES (0, 4611686018427387904, 0, 0, true, 0, 0);

-- What each attempt brings into the sums.
CREATE VIEW outlay.attempt_sum AS
SELECT job_id, project_id, attempt_id, begun_at, state,
       begun_at - begun_at % 3600000000 AS hour,
       task, provider, model,
       1::bigint AS attempts,
       (state = 'held')::int::bigint AS running,
       (state = 'void')::int::bigint AS voided,
       CASE WHEN state = 'settled' THEN counted ELSE 0 END AS spent,
       CASE WHEN state = 'presumed' THEN counted ELSE 0 END AS presumed,
       CASE WHEN state = 'held' THEN counted ELSE 0 END AS held,
       CASE WHEN state = 'settled' AND counted > hold THEN counted - hold ELSE 0 END AS overshoot,
       coalesce(input_tokens, 0) AS input_tokens,
       coalesce(cached_input_tokens, 0) AS cached_input_tokens,
       coalesce(cache_write_tokens, 0) AS cache_write_tokens,
       coalesce(output_tokens, 0) AS output_tokens,
       coalesce(reasoning_tokens, 0) AS reasoning_tokens
FROM outlay.attempt;

-- Lets the index by time know of the blocks that are full by now. Autovacuum does so once a minute; until
-- then whoever looks for recent calls reads all blocks of that minute. Not while the table is vacuumed,
-- which it would wait for, and end. False where another process is at the sums, or was within `p_pause`.
CREATE FUNCTION outlay.rollup_prepare(p_pause bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_block bigint;
    v_full constant bigint := pg_relation_size('outlay.attempt') / current_setting('block_size')::bigint - 64;
    v_end constant timestamptz := clock_timestamp() + interval '100 milliseconds';
BEGIN
    IF NOT pg_try_advisory_xact_lock(7020626575) THEN
        RETURN false;
    END IF;
    SELECT r.summarized_to INTO v_block FROM outlay.rollup r
    WHERE r.is_behind OR outlay.now_us() NOT BETWEEN r.told_at AND r.told_at + p_pause;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF v_block > v_full + 64 THEN
        v_block := 0;
    END IF;
    IF v_block + 32 <= v_full THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        LOCK TABLE outlay.attempt IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
        WHILE v_block + 32 <= v_full AND clock_timestamp() < v_end LOOP
            PERFORM brin_summarize_range('outlay.attempt_begun', v_block);
            v_block := v_block + 32;
        END LOOP;
        UPDATE outlay.rollup r SET summarized_to = v_block;
    END IF;
    RETURN true;
EXCEPTION WHEN lock_not_available OR insufficient_privilege THEN
    RETURN true;
END $$;

-- The time, read under the lock of all money: what was begun before it can be seen from now on, and what
-- is begun from now on is not before it. The lock is held for no longer than that.
CREATE FUNCTION outlay.rollup_horizon(p_now bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM outlay.lock_money();
    RETURN coalesce(p_now, outlay.now_us());
END $$;

-- One step: takes in attempts begun up to `p_lag` before `p_now`, at most about `p_rows` of them, and
-- moves what has become of those taken in before. One step at a time, whoever does it; all of it or
-- nothing. `p_now` is an answer of `outlay.rollup_horizon`.
CREATE FUNCTION outlay.roll(
    p_now bigint, p_lag bigint, p_rows bigint,
    OUT busy boolean, OUT rolled_to bigint, OUT added bigint, OUT moved bigint, OUT behind boolean
) LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    v_from bigint;
    v_to bigint;
    v_span bigint;
    v_rows bigint;
    v_presumed_at bigint;
    v_presumed boolean;
    v_back bigint;
BEGIN
    added := 0;
    moved := 0;
    behind := false;
    busy := NOT pg_try_advisory_xact_lock(7020626575);
    IF busy THEN
        RETURN;
    END IF;
    SELECT r.rolled_to, r.span, r.presumed_at INTO v_from, v_span, v_presumed_at FROM outlay.rollup r;
    -- The clock was set back so far that calls may begin in what was taken to be over: that day anew.
    v_back := p_now - p_now % 86400000000;
    IF p_now < v_from AND NOT EXISTS (SELECT 1 FROM outlay.spend_hour_purged p WHERE p.hour >= v_back) THEN
        DELETE FROM outlay.spend_hour s WHERE s.hour >= v_back;
        DELETE FROM outlay.spend_day s WHERE s.hour >= v_back;
        DELETE FROM outlay.rollup_open o WHERE o.hour >= v_back;
        v_from := v_back;
    END IF;

    -- As much time as holds few enough rows: a little more than last time, and less where there are many.
    v_to := greatest(p_now - p_lag, v_from);
    IF v_to - v_from > v_span THEN
        v_to := least(v_to, v_from + greatest(v_span, 1000000) * 2);
    END IF;
    LOOP
        SELECT count(*) INTO v_rows FROM (
            SELECT 1 FROM outlay.attempt a WHERE a.begun_at >= v_from AND a.begun_at < v_to LIMIT p_rows + 1) few;
        EXIT WHEN v_rows <= p_rows OR v_to - v_from <= 1;
        v_to := v_from + (v_to - v_from) / 2;
    END LOOP;
    IF v_rows > 0 THEN
        WITH strip AS MATERIALIZED (
            SELECT * FROM outlay.attempt_sum a WHERE a.begun_at >= v_from AND a.begun_at < v_to
        ), by_hour AS MATERIALIZED (
            SELECT s.hour, s.project_id, s.task, s.provider, s.model, sum(s.attempts) AS attempts, sum(s.running) AS running,
                   sum(s.voided) AS voided, sum(s.spent) AS spent, sum(s.presumed) AS presumed, sum(s.held) AS held,
                   sum(s.overshoot) AS overshoot, sum(s.input_tokens) AS input_tokens,
                   sum(s.cached_input_tokens) AS cached_input_tokens, sum(s.cache_write_tokens) AS cache_write_tokens,
                   sum(s.output_tokens) AS output_tokens, sum(s.reasoning_tokens) AS reasoning_tokens
            FROM strip s GROUP BY 1, 2, 3, 4, 5
        ), days AS (
            INSERT INTO outlay.spend_day AS h
            SELECT s.hour - s.hour % 86400000000, s.project_id, s.task, s.provider, s.model, sum(s.attempts),
                   sum(s.running), sum(s.voided), sum(s.spent), sum(s.presumed), sum(s.held), sum(s.overshoot),
                   sum(s.input_tokens), sum(s.cached_input_tokens), sum(s.cache_write_tokens), sum(s.output_tokens),
                   sum(s.reasoning_tokens)
            FROM by_hour s GROUP BY 1, 2, 3, 4, 5
            ON CONFLICT (hour, project_id, task, provider, model) DO UPDATE SET
                attempts = h.attempts + excluded.attempts, running = h.running + excluded.running,
                voided = h.voided + excluded.voided, spent = h.spent + excluded.spent,
                presumed = h.presumed + excluded.presumed, held = h.held + excluded.held,
                overshoot = h.overshoot + excluded.overshoot, input_tokens = h.input_tokens + excluded.input_tokens,
                cached_input_tokens = h.cached_input_tokens + excluded.cached_input_tokens,
                cache_write_tokens = h.cache_write_tokens + excluded.cache_write_tokens,
                output_tokens = h.output_tokens + excluded.output_tokens,
                reasoning_tokens = h.reasoning_tokens + excluded.reasoning_tokens
        ), hours AS (
            INSERT INTO outlay.spend_hour AS h SELECT * FROM by_hour
            ON CONFLICT (hour, project_id, task, provider, model) DO UPDATE SET
                attempts = h.attempts + excluded.attempts, running = h.running + excluded.running,
                voided = h.voided + excluded.voided, spent = h.spent + excluded.spent,
                presumed = h.presumed + excluded.presumed, held = h.held + excluded.held,
                overshoot = h.overshoot + excluded.overshoot, input_tokens = h.input_tokens + excluded.input_tokens,
                cached_input_tokens = h.cached_input_tokens + excluded.cached_input_tokens,
                cache_write_tokens = h.cache_write_tokens + excluded.cache_write_tokens,
                output_tokens = h.output_tokens + excluded.output_tokens,
                reasoning_tokens = h.reasoning_tokens + excluded.reasoning_tokens
        ), opened AS (
            INSERT INTO outlay.rollup_open
            SELECT s.job_id, s.project_id, s.attempt_id, s.state, s.hour, s.task, s.provider, s.model, s.attempts,
                   s.running, s.voided, s.spent, s.presumed, s.held, s.overshoot, s.input_tokens,
                   s.cached_input_tokens, s.cache_write_tokens, s.output_tokens, s.reasoning_tokens
            FROM strip s WHERE s.state IN ('held', 'presumed')
        )
        SELECT count(*) INTO added FROM strip;
    END IF;

    -- Calls end within seconds; who presumes may take months to be told. Many of them are looked at less often.
    v_presumed := p_now < v_presumed_at OR p_now >= v_presumed_at + 30000000 OR (
        SELECT count(*) <= 1000 FROM (SELECT 1 FROM outlay.rollup_open o WHERE o.state = 'presumed' LIMIT 1001) few);
    WITH looked AS MATERIALIZED (
        SELECT o.hour, o.task, o.provider, o.model, o.running AS was_running, o.presumed AS was_presumed,
               o.held AS was_held, o.input_tokens AS was_input, o.cached_input_tokens AS was_cached,
               o.cache_write_tokens AS was_cache_write, o.output_tokens AS was_output,
               o.reasoning_tokens AS was_reasoning,
               a.job_id, a.project_id, a.attempt_id, a.state, a.running, a.voided, a.spent, a.presumed, a.held,
               a.overshoot, a.input_tokens, a.cached_input_tokens, a.cache_write_tokens, a.output_tokens,
               a.reasoning_tokens
        FROM outlay.rollup_open o CROSS JOIN LATERAL (
            SELECT * FROM outlay.attempt_sum a
            WHERE a.job_id = o.job_id AND a.project_id = o.project_id AND a.attempt_id = o.attempt_id LIMIT 1) a
        WHERE (o.state = 'held' OR v_presumed) AND a.state <> o.state
    ), over AS (
        DELETE FROM outlay.rollup_open o USING looked l
        WHERE l.state IN ('settled', 'void')
          AND o.job_id = l.job_id AND o.project_id = l.project_id AND o.attempt_id = l.attempt_id
    ), kept AS (
        UPDATE outlay.rollup_open o SET state = l.state, running = l.running, presumed = l.presumed, held = l.held,
            input_tokens = l.input_tokens, cached_input_tokens = l.cached_input_tokens,
            cache_write_tokens = l.cache_write_tokens, output_tokens = l.output_tokens,
            reasoning_tokens = l.reasoning_tokens
        FROM looked l
        WHERE l.state NOT IN ('settled', 'void')
          AND o.job_id = l.job_id AND o.project_id = l.project_id AND o.attempt_id = l.attempt_id
    ), change AS MATERIALIZED (
        SELECT l.hour, l.project_id, l.task, l.provider, l.model,
               sum(l.running - l.was_running) AS running, sum(l.voided) AS voided, sum(l.spent) AS spent,
               sum(l.presumed - l.was_presumed) AS presumed, sum(l.held - l.was_held) AS held,
               sum(l.overshoot) AS overshoot, sum(l.input_tokens - l.was_input) AS input_tokens,
               sum(l.cached_input_tokens - l.was_cached) AS cached_input_tokens,
               sum(l.cache_write_tokens - l.was_cache_write) AS cache_write_tokens,
               sum(l.output_tokens - l.was_output) AS output_tokens,
               sum(l.reasoning_tokens - l.was_reasoning) AS reasoning_tokens
        FROM looked l GROUP BY 1, 2, 3, 4, 5
    ), days AS (
        UPDATE outlay.spend_day h SET running = h.running + c.running, voided = h.voided + c.voided,
            spent = h.spent + c.spent, presumed = h.presumed + c.presumed, held = h.held + c.held,
            overshoot = h.overshoot + c.overshoot, input_tokens = h.input_tokens + c.input_tokens,
            cached_input_tokens = h.cached_input_tokens + c.cached_input_tokens,
            cache_write_tokens = h.cache_write_tokens + c.cache_write_tokens,
            output_tokens = h.output_tokens + c.output_tokens,
            reasoning_tokens = h.reasoning_tokens + c.reasoning_tokens
        FROM (
            SELECT c.hour - c.hour % 86400000000 AS day, c.project_id, c.task, c.provider, c.model,
                   sum(c.running) AS running, sum(c.voided) AS voided, sum(c.spent) AS spent,
                   sum(c.presumed) AS presumed, sum(c.held) AS held, sum(c.overshoot) AS overshoot,
                   sum(c.input_tokens) AS input_tokens, sum(c.cached_input_tokens) AS cached_input_tokens,
                   sum(c.cache_write_tokens) AS cache_write_tokens, sum(c.output_tokens) AS output_tokens,
                   sum(c.reasoning_tokens) AS reasoning_tokens
            FROM change c GROUP BY 1, 2, 3, 4, 5) c
        WHERE h.hour = c.day AND h.project_id = c.project_id AND h.task = c.task AND h.provider = c.provider
          AND h.model = c.model
    ), hours AS (
        UPDATE outlay.spend_hour h SET running = h.running + c.running, voided = h.voided + c.voided,
            spent = h.spent + c.spent, presumed = h.presumed + c.presumed, held = h.held + c.held,
            overshoot = h.overshoot + c.overshoot, input_tokens = h.input_tokens + c.input_tokens,
            cached_input_tokens = h.cached_input_tokens + c.cached_input_tokens,
            cache_write_tokens = h.cache_write_tokens + c.cache_write_tokens,
            output_tokens = h.output_tokens + c.output_tokens,
            reasoning_tokens = h.reasoning_tokens + c.reasoning_tokens
        FROM change c
        WHERE h.hour = c.hour AND h.project_id = c.project_id AND h.task = c.task AND h.provider = c.provider
          AND h.model = c.model
    )
    SELECT count(*) INTO moved FROM looked;

    UPDATE outlay.rollup r SET rolled_to = v_to,
        span = CASE WHEN v_to > v_from THEN v_to - v_from ELSE r.span END,
        presumed_at = CASE WHEN v_presumed THEN p_now ELSE r.presumed_at END,
        told_at = outlay.now_us(), is_behind = v_to < p_now - p_lag;
    rolled_to := v_to;
    behind := v_to < p_now - p_lag;
END $$;

-- The sums of these hours as they stand: by days from `p_days` to `p_days_end`, which are whole days.
CREATE FUNCTION outlay.spend_between(p_since bigint, p_until bigint, p_project text, p_days bigint, p_days_end bigint)
RETURNS SETOF outlay.spend_hour LANGUAGE sql STABLE AS $$
    SELECT h.* FROM outlay.spend_hour h
    WHERE h.hour >= p_since AND h.hour < p_days AND (p_project IS NULL OR h.project_id = p_project)
    UNION ALL
    SELECT d.* FROM outlay.spend_day d
    WHERE d.hour >= p_days AND d.hour < p_days_end AND (p_project IS NULL OR d.project_id = p_project)
    UNION ALL
    SELECT h.* FROM outlay.spend_hour h
    WHERE h.hour >= p_days_end AND h.hour < p_until AND (p_project IS NULL OR h.project_id = p_project)
$$;

-- The sums of these hours as they are at this instant: what was taken in, what has been begun since, and
-- what has become of the rest. One instant for all three, since a stable function sees what its caller does.
-- From `p_days` to `p_days_end` it answers by days, which are fewer.
CREATE FUNCTION outlay.spend_now(p_since bigint, p_until bigint, p_project text, p_days bigint, p_days_end bigint)
RETURNS SETOF outlay.spend_hour LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v_from constant bigint := greatest(p_since, (SELECT r.rolled_to FROM outlay.rollup r));
BEGIN
    RETURN QUERY SELECT h.* FROM outlay.spend_between(p_since, p_until, p_project, p_days, p_days_end) h;
    RETURN QUERY SELECT a.hour, a.project_id, a.task, a.provider, a.model, sum(a.attempts)::bigint,
            sum(a.running)::bigint, sum(a.voided)::bigint, sum(a.spent)::bigint, sum(a.presumed)::bigint,
            sum(a.held)::bigint, sum(a.overshoot)::bigint, sum(a.input_tokens)::bigint,
            sum(a.cached_input_tokens)::bigint, sum(a.cache_write_tokens)::bigint, sum(a.output_tokens)::bigint,
            sum(a.reasoning_tokens)::bigint
        FROM outlay.attempt_sum a
        WHERE a.begun_at >= v_from AND a.begun_at < p_until AND (p_project IS NULL OR a.project_id = p_project)
        GROUP BY 1, 2, 3, 4, 5;
    RETURN QUERY SELECT o.hour, o.project_id, o.task, o.provider, o.model, 0::bigint,
            a.running - o.running, a.voided, a.spent, a.presumed - o.presumed, a.held - o.held, a.overshoot,
            a.input_tokens - o.input_tokens, a.cached_input_tokens - o.cached_input_tokens,
            a.cache_write_tokens - o.cache_write_tokens, a.output_tokens - o.output_tokens,
            a.reasoning_tokens - o.reasoning_tokens
        FROM outlay.rollup_open o CROSS JOIN LATERAL (
            SELECT * FROM outlay.attempt_sum a
            WHERE a.job_id = o.job_id AND a.project_id = o.project_id AND a.attempt_id = o.attempt_id LIMIT 1) a
        WHERE o.hour >= p_since AND o.hour < p_until AND (p_project IS NULL OR o.project_id = p_project)
          AND a.state <> o.state;
END $$;

-- Jobs whose route was judged in hindsight, as `policy::doctor::routes` does: a sample of the newest ones,
-- by the day on which they ended, by the clock of UTC.
CREATE TABLE outlay.route_judged (
    day   bigint NOT NULL,                  -- when it begins
    task  text COLLATE "C" NOT NULL,
    jobs  bigint NOT NULL,
    late  bigint NOT NULL,                  -- they were, where another model would not have been
    dear  bigint NOT NULL,                  -- they cost more than on another model that was in time
    saved bigint NOT NULL,                  -- by how much
    PRIMARY KEY (day, task)
);

-- For analysts. Deviating jobs did not go to the cheapest model that would have been in time.
CREATE VIEW outlay.route_deviation AS
SELECT to_char(outlay.instant(day) AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day,
       task,
       jobs,
       late + dear AS deviating,
       late,
       dear,
       saved AS saved_nanousd,
       round((late + dear) * 100.0 / jobs, 2) AS percent
FROM outlay.route_judged;

-- For analysts. ISO weeks, by the clock of UTC; tokens are those of input and output together.
CREATE VIEW outlay.tokens_per_dollar_by_week AS
SELECT to_char(outlay.instant(hour) AT TIME ZONE 'UTC', 'IYYY"-W"IW') AS week,
       provider,
       model,
       sum(attempts)::bigint AS attempts,
       sum(spent)::bigint AS spent_nanousd,
       sum(input_tokens)::bigint AS input_tokens,
       sum(output_tokens)::bigint AS output_tokens,
       CASE WHEN sum(spent) > 0
           THEN floor(sum(input_tokens + output_tokens) * 1000000000 / sum(spent))::bigint END AS tokens_per_dollar
FROM outlay.spend_hour
GROUP BY 1, 2, 3;
