-- At a steady rate hardly anything queues: most statements carry one call or two, and what they cost is what each of
-- the dozen questions in `begin_batch` and `conclude_batch` costs before it has seen a row. Where nothing speaks against
-- any of a few calls, one question tells so, and the rows are written one by one. Everything else is answered by the
-- functions for any number of calls, under the lock that is held already.

-- The most calls that are written one by one: with more, those functions are faster. A database may say otherwise:
-- ALTER DATABASE .. SET outlay.few = 0.
CREATE FUNCTION outlay.few() RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('outlay.few', true), ''), '3')::integer
$$;

CREATE OR REPLACE PROCEDURE outlay.begin_calls(
    p_worker uuid, p_run bigint, p_now bigint,
    p_attempt uuid[], p_project text[], p_job text[], p_task text[], p_hash bytea[], p_accepted bigint[],
    p_provider text[], p_model text[], p_price bigint[], p_hold bigint[], p_runs bigint[],
    p_explanation text[], p_hedge boolean[],
    p_class text[], p_reply_to text[], p_correlation_id text[], p_traceparent text[], p_body bytea[],
    OUT at bigint, OUT code integer[], OUT note text[], OUT resets bigint[], OUT amount bigint[],
    OUT generation integer[], OUT attempt_no integer[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_size constant integer := cardinality(p_attempt);
    v_stop text;
    v_windows bigint[];
    v_from bigint;
    v_end bigint;
    v_now bigint;
    v_until bigint;
    v_plain boolean := false;
    v_parks boolean;
    v_ids bigint[];
    v_room bigint;
    v_total bigint := 0;
    v_place pg_lsn;
BEGIN
    SET LOCAL synchronous_commit = off;
    -- Calls of one project that run equally long are charged to the same windows.
    IF v_size <= outlay.few() AND p_project[1] = ALL (p_project) AND p_runs[1] = ALL (p_runs)
        AND cardinality(p_body) = 0 THEN
        SELECT p.stop_reason, p.windows, p.windows_from, p.windows_end INTO v_stop, v_windows, v_from, v_end
        FROM outlay.project p WHERE p.project_id = '*' FOR NO KEY UPDATE;
        v_now := coalesce(p_now, outlay.now_us());
        v_until := v_now + p_runs[1];
        IF v_stop IS NULL AND v_now >= v_from AND v_until < v_end THEN
            SELECT p.stop_reason IS NULL AND v_now >= p.windows_from AND v_until < p.windows_end
                AND (p.uncapped OR EXISTS (SELECT 1 FROM outlay.project_cap c WHERE c.project_id = p.project_id))
                AND EXISTS (SELECT 1 FROM outlay.worker w WHERE w.worker_id = p_worker AND w.alive)
                AND NOT EXISTS (SELECT 1 FROM outlay.breaker_state b WHERE b.model = ANY (p_model))
                AND NOT EXISTS (SELECT 1 FROM outlay.cancel_request x
                    WHERE x.project_id = p_project[1] AND x.job_id = ANY (p_job))
                AND NOT EXISTS (SELECT 1 FROM outlay.job j
                    WHERE j.project_id = p_project[1] AND j.job_id = ANY (p_job)),
                EXISTS (SELECT 1 FROM outlay.parked),
                i.ids,
                (SELECT min(w.cap - w.held - w.spent - w.presumed) FROM outlay.budget_window w
                    WHERE w.window_id = ANY (i.ids))
            INTO v_plain, v_parks, v_ids, v_room
            FROM outlay.project p CROSS JOIN LATERAL (
                SELECT CASE WHEN p_run IS NULL THEN v_windows || p.windows ELSE v_windows || p.windows || p_run END AS ids) i
            WHERE p.project_id = p_project[1] AND p.project_id <> '*';
            FOR i IN 1..v_size LOOP
                v_total := v_total + p_hold[i];
            END LOOP;
            v_plain := coalesce(v_plain AND v_total <= coalesce(v_room, v_total), false);
        END IF;
    END IF;
    IF v_plain THEN
        UPDATE outlay.budget_window w SET held = w.held + v_total WHERE v_total > 0 AND w.window_id = ANY (v_ids);
        FOR i IN 1..v_size LOOP
            INSERT INTO outlay.job (project_id, job_id, generation, task, body_hash, accepted_at)
            VALUES (p_project[i], p_job[i], 1, p_task[i], p_hash[i], p_accepted[i]);
            INSERT INTO outlay.attempt (attempt_id, project_id, job_id, generation, attempt_no, task, worker_id, windows,
                provider, model, price_version, hold, counted, state, begun_at, explanation)
            VALUES (p_attempt[i], p_project[i], p_job[i], 1, 1, p_task[i], p_worker, v_ids, p_provider[i], p_model[i],
                p_price[i], p_hold[i], p_hold[i], 'held', v_now, p_explanation[i]);
        END LOOP;
        IF v_parks THEN
            DELETE FROM outlay.parked k WHERE k.project_id = p_project[1] AND k.job_id = ANY (p_job);
        END IF;
        at := v_now;
        code := array_fill(0, ARRAY[v_size]);
        note := array_fill(NULL::text, ARRAY[v_size]);
        resets := array_fill(NULL::bigint, ARRAY[v_size]);
        amount := resets;
        generation := array_fill(1, ARRAY[v_size]);
        attempt_no := generation;
    ELSE
        SELECT b.* INTO at, code, note, resets, amount, generation, attempt_no
        FROM outlay.begin_batch(
            p_worker, p_run, p_now, p_attempt, p_project, p_job, p_task, p_hash, p_accepted, p_provider, p_model,
            p_price, p_hold, p_runs, p_explanation, p_hedge, p_class, p_reply_to, p_correlation_id, p_traceparent, p_body
        ) b;
    END IF;
    COMMIT;
    v_place := outlay.write_down();
END $$;

CREATE OR REPLACE PROCEDURE outlay.conclude_calls(
    p_now bigint, p_project text[], p_job text[], p_generation integer[],
    p_attempt uuid[], p_bill integer[], p_cost bigint[], p_outcome text[], p_input bigint[], p_cached bigint[],
    p_cache_write bigint[], p_output bigint[], p_reasoning bigint[], p_served text[], p_ms bigint[], p_detail text[],
    p_task text[], p_hash bytea[], p_accepted bigint[],
    r_task text[], r_status text[], r_error text[], r_provider text[], r_model text[], r_cost bigint[],
    r_presumed bigint[], r_finished_at bigint[], r_body text[],
    p_publisher uuid, o_class text[], o_reply_to text[], o_correlation_id text[], o_traceparent text[],
    OUT finished integer[], OUT overshoot bigint[], OUT outbox bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_size constant integer := cardinality(p_project);
    v_now bigint;
    v_plain boolean;
    v_parks boolean;
    v_cancels boolean;
    v_place tid;
    v_places tid[];
    v_windows bigint[];
    v_theirs bigint[];
    v_hold bigint;
    v_held bigint := 0;
    v_spent bigint := 0;
    v_presumed bigint := 0;
    v_id bigint;
    v_written pg_lsn;
BEGIN
    SET LOCAL synchronous_commit = off;
    -- Each ends its job after a call, whose money stands in the same windows and is not above its hold.
    v_plain := v_size <= outlay.few() AND array_position(p_generation, NULL) IS NULL
        AND array_position(p_attempt, NULL) IS NULL AND array_position(r_status, NULL) IS NULL;
    IF v_plain THEN
        PERFORM 1 FROM outlay.project WHERE project_id = '*' FOR NO KEY UPDATE;
        FOR i IN 1..v_size LOOP
            SELECT a.ctid, a.hold, a.windows,
                   p_generation[i] = (SELECT j.generation FROM outlay.job j
                       WHERE j.project_id = p_project[i] AND j.job_id = p_job[i] ORDER BY j.generation DESC LIMIT 1)
                   AND NOT EXISTS (SELECT 1 FROM outlay.result r WHERE r.project_id = p_project[i]
                       AND r.job_id = p_job[i] AND r.generation = p_generation[i]),
                   EXISTS (SELECT 1 FROM outlay.parked), EXISTS (SELECT 1 FROM outlay.cancel_request)
            INTO v_place, v_hold, v_theirs, v_plain, v_parks, v_cancels
            FROM outlay.attempt a
            WHERE a.project_id = p_project[i] AND a.job_id = p_job[i] AND a.attempt_id = p_attempt[i] AND a.state = 'held';
            v_windows := coalesce(v_windows, v_theirs);
            v_plain := coalesce(v_plain AND p_hash[i] IS NULL AND v_windows = v_theirs
                AND (p_bill[i] <> 0 OR p_cost[i] <= v_hold), false);
            EXIT WHEN NOT v_plain;
            v_places[i] := v_place;
            v_held := v_held + v_hold;
            IF p_bill[i] = 0 THEN
                v_spent := v_spent + p_cost[i];
            ELSIF p_bill[i] = 2 THEN
                v_presumed := v_presumed + v_hold;
            END IF;
        END LOOP;
    END IF;
    IF v_plain THEN
        v_now := coalesce(p_now, outlay.now_us());
        UPDATE outlay.budget_window w SET
            held = w.held - v_held, spent = w.spent + v_spent, presumed = w.presumed + v_presumed,
            ceiling = CASE WHEN w.cap IS NOT NULL THEN
                greatest(w.cap, w.held - v_held + w.spent + v_spent + w.presumed + v_presumed) END
        WHERE w.window_id = ANY (v_windows);
        FOR i IN 1..v_size LOOP
            UPDATE outlay.attempt a SET
                state = CASE p_bill[i] WHEN 0 THEN 'settled' WHEN 1 THEN 'void' ELSE 'presumed' END,
                counted = CASE p_bill[i] WHEN 0 THEN p_cost[i] WHEN 1 THEN 0 ELSE a.hold END,
                outcome = p_outcome[i], input_tokens = p_input[i], cached_input_tokens = p_cached[i],
                cache_write_tokens = p_cache_write[i], output_tokens = p_output[i], reasoning_tokens = p_reasoning[i],
                model_served = p_served[i], provider_ms = p_ms[i], detail = p_detail[i], ended_at = v_now
            WHERE a.ctid = v_places[i] AND a.attempt_id = p_attempt[i] AND a.state = 'held';
            IF NOT FOUND THEN
                RAISE EXCEPTION 'attempt % moved under the lock', p_attempt[i] USING ERRCODE = 'serialization_failure';
            END IF;
            INSERT INTO outlay.result (project_id, job_id, generation, task, status, error_code, provider, model, cost,
                presumed, finished_at, written_at, body)
            VALUES (p_project[i], p_job[i], p_generation[i], r_task[i], r_status[i], r_error[i], r_provider[i],
                r_model[i], r_cost[i], r_presumed[i], r_finished_at[i], v_now, r_body[i]);
            IF p_publisher IS NOT NULL THEN
                INSERT INTO outlay.outbox (kind, project_id, job_id, generation, class, reply_to, correlation_id,
                    traceparent, accepted_at, created_at, claimed_by, claimed_at)
                VALUES ('result', p_project[i], p_job[i], p_generation[i], o_class[i], o_reply_to[i],
                    o_correlation_id[i], o_traceparent[i], p_accepted[i], v_now, p_publisher, v_now)
                RETURNING outbox_id INTO v_id;
            END IF;
            outbox[i] := v_id;
            IF v_parks THEN
                DELETE FROM outlay.parked k WHERE k.project_id = p_project[i] AND k.job_id = p_job[i];
            END IF;
            IF v_cancels THEN
                DELETE FROM outlay.cancel_request k WHERE k.project_id = p_project[i] AND k.job_id = p_job[i];
            END IF;
        END LOOP;
        finished := p_generation;
        overshoot := array_fill(NULL::bigint, ARRAY[v_size]);
    ELSE
        SELECT c.* INTO finished, overshoot, outbox
        FROM outlay.conclude_batch(
            p_now, p_project, p_job, p_generation, p_attempt, p_bill, p_cost, p_outcome, p_input, p_cached,
            p_cache_write, p_output, p_reasoning, p_served, p_ms, p_detail, p_task, p_hash, p_accepted, r_task, r_status,
            r_error, r_provider, r_model, r_cost, r_presumed, r_finished_at, r_body, p_publisher, o_class, o_reply_to,
            o_correlation_id, o_traceparent
        ) c;
    END IF;
    COMMIT;
    v_written := outlay.write_down();
END $$;

-- PostgreSQL parses every check of a table anew for each statement that writes to it, whatever the statement changes:
-- a tenth of what a small begin costs. What stays is what bounds money.
ALTER TABLE outlay.budget_window
    DROP CONSTRAINT budget_window_kind_check,
    DROP CONSTRAINT budget_window_held_check,
    DROP CONSTRAINT budget_window_spent_check,
    DROP CONSTRAINT budget_window_presumed_check,
    DROP CONSTRAINT budget_window_overshoot_check,
    DROP CONSTRAINT budget_window_purged_check,
    ADD CONSTRAINT budget_window_sums_check CHECK (least(held, spent, presumed, overshoot, purged) >= 0) NOT VALID;
ALTER TABLE outlay.attempt
    DROP CONSTRAINT attempt_attempt_no_check,
    DROP CONSTRAINT attempt_hold_check,
    DROP CONSTRAINT attempt_counted_check,
    DROP CONSTRAINT attempt_state_check,
    ADD CONSTRAINT attempt_money_check CHECK (least(hold, counted) >= 0) NOT VALID;
ALTER TABLE outlay.job DROP CONSTRAINT job_generation_check;
ALTER TABLE outlay.result DROP CONSTRAINT result_status_check;
ALTER TABLE outlay.outbox DROP CONSTRAINT outbox_kind_check, DROP CONSTRAINT outbox_class_check;

-- As before, but for one word: beside others, the end of a call of a job that does not exist counted as that of one
-- that does, because `bool_and` passes over what it does not know. Its result had no job.
CREATE OR REPLACE FUNCTION outlay.conclude_batch(
    p_now bigint, p_project text[], p_job text[], p_generation integer[],
    p_attempt uuid[], p_bill integer[], p_cost bigint[], p_outcome text[], p_input bigint[], p_cached bigint[],
    p_cache_write bigint[], p_output bigint[], p_reasoning bigint[], p_served text[], p_ms bigint[], p_detail text[],
    p_task text[], p_hash bytea[], p_accepted bigint[],
    r_task text[], r_status text[], r_error text[], r_provider text[], r_model text[], r_cost bigint[],
    r_presumed bigint[], r_finished_at bigint[], r_body text[],
    p_publisher uuid, o_class text[], o_reply_to text[], o_correlation_id text[], o_traceparent text[],
    OUT finished integer[], OUT overshoot bigint[], OUT outbox bigint[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_size constant integer := cardinality(p_project);
    v_now bigint;
    v_over record;
    v_reason text;
    v_fresh boolean[];
    v_lines boolean;
    v_jobs boolean;
    v_parks boolean;
    v_cancels boolean;
BEGIN
    PERFORM outlay.lock_money();
    SELECT EXISTS (SELECT 1 FROM outlay.parked), EXISTS (SELECT 1 FROM outlay.cancel_request)
    INTO v_parks, v_cancels;
    v_now := coalesce(p_now, outlay.now_us());
    overshoot := array_fill(NULL::bigint, ARRAY[v_size]);
    FOR v_over IN SELECT s.place, s.model, s.hold, s.overshoot FROM outlay.settle(v_now, p_project, p_job, p_attempt,
        p_bill, p_cost, p_outcome, p_input, p_cached, p_cache_write, p_output, p_reasoning, p_served, p_ms, p_detail) s
    LOOP
        overshoot[v_over.place] := v_over.overshoot;
        v_reason := format('a bill was $%s above its hold of $%s', outlay.usd(v_over.overshoot), outlay.usd(v_over.hold));
        INSERT INTO outlay.breaker_state (model, state, reason, since)
        VALUES (v_over.model, 'quarantined', v_reason, v_now) ON CONFLICT (model) DO NOTHING;
        INSERT INTO outlay.event (at, who, what, subject, detail)
        VALUES (v_now, 'outlay', 'model_quarantined', v_over.model, json_build_object('reason', v_reason)::text);
    END LOOP;

    -- Which generation's result may be written: NULL for none, 0 for a line that is no job. Nearly always
    -- each item ends its job, after a call for the newest generation, which has no result yet.
    IF array_position(p_generation, NULL) IS NULL AND array_position(r_status, NULL) IS NULL THEN
        SELECT bool_and(coalesce(u.hash IS NULL AND u.generation = (
                SELECT j.generation FROM outlay.job j WHERE j.project_id = u.project AND j.job_id = u.job
                ORDER BY j.generation DESC LIMIT 1)
            AND (SELECT r.generation FROM outlay.result r WHERE r.project_id = u.project AND r.job_id = u.job
                 AND r.generation = u.generation LIMIT 1) IS NULL, false))
        INTO v_jobs
        FROM (SELECT unnest(p_project) AS project, unnest(p_job) AS job, unnest(p_generation) AS generation,
                     unnest(p_hash) AS hash) u;
    END IF;
    IF v_jobs THEN
        finished := p_generation;
        v_lines := false;
    ELSE
        SELECT array_agg(f.target), array_agg(f.fresh), bool_or(f.target = 0), bool_or(f.target > 0)
        INTO finished, v_fresh, v_lines, v_jobs
        FROM (
            SELECT CASE
                       WHEN u.status IS NULL THEN NULL
                       WHEN u.hash IS NULL AND u.bare THEN 0
                       WHEN j.generation IS NULL THEN CASE WHEN u.hash IS NOT NULL THEN 1 END
                       WHEN j.body_hash <> u.hash THEN CASE WHEN u.bare THEN 0 END
                       WHEN r.status IS NULL AND coalesce(u.generation, j.generation) = j.generation THEN j.generation
                   END AS target,
                   j.generation IS NULL AND u.hash IS NOT NULL AS fresh
            FROM (
                SELECT u.*, u.attempt IS NULL AND u.generation IS NULL AS bare
                FROM (SELECT unnest(p_project) AS project, unnest(p_job) AS job, unnest(p_generation) AS generation,
                             unnest(p_attempt) AS attempt, unnest(p_hash) AS hash,
                             unnest(r_status) AS status,
                             generate_series(1, cardinality(p_project)) AS n) u) u
            LEFT JOIN LATERAL (
                SELECT j.generation, j.body_hash FROM outlay.job j
                WHERE u.status IS NOT NULL AND j.project_id = u.project AND j.job_id = u.job
                ORDER BY j.generation DESC LIMIT 1) j ON true
            LEFT JOIN LATERAL (
                SELECT r.status FROM outlay.result r
                WHERE j.generation IS NOT NULL AND r.project_id = u.project AND r.job_id = u.job
                  AND r.generation = j.generation LIMIT 1) r ON true
            ORDER BY u.n
        ) f;
    END IF;
    outbox := array_fill(NULL::bigint, ARRAY[v_size]);
    IF v_lines IS NULL THEN
        RETURN;
    END IF;
    IF v_lines THEN
        DELETE FROM outlay.result r USING (SELECT unnest(p_project) AS project, unnest(p_job) AS job,
                                                  unnest(finished) AS target) u
        WHERE u.target = 0 AND r.project_id = u.project AND r.job_id = u.job AND r.generation = 0;
    END IF;
    IF v_fresh IS NOT NULL AND true = ANY (v_fresh) THEN
        INSERT INTO outlay.job (project_id, job_id, generation, task, body_hash, accepted_at)
        SELECT u.project, u.job, 1, u.task, u.hash, u.accepted
        FROM (SELECT unnest(p_project) AS project, unnest(p_job) AS job, unnest(p_task) AS task,
                     unnest(p_hash) AS hash, unnest(p_accepted) AS accepted,
                     unnest(finished) AS target, unnest(v_fresh) AS fresh) u
        WHERE u.fresh AND u.target = 1;
    END IF;
    INSERT INTO outlay.result (project_id, job_id, generation, task, status, error_code, provider, model, cost,
        presumed, finished_at, written_at, body)
    SELECT u.project, u.job, u.target, u.task, u.status, u.error, u.provider, u.model, u.cost, u.presumed,
           u.finished_at, v_now, u.body
    FROM (SELECT unnest(p_project) AS project, unnest(p_job) AS job, unnest(finished) AS target,
                 unnest(r_task) AS task, unnest(r_status) AS status, unnest(r_error) AS error,
                 unnest(r_provider) AS provider, unnest(r_model) AS model, unnest(r_cost) AS cost,
                 unnest(r_presumed) AS presumed, unnest(r_finished_at) AS finished_at,
                 unnest(r_body) AS body) u
    WHERE u.target IS NOT NULL;
    IF p_publisher IS NOT NULL THEN
        outbox := ARRAY(
            SELECT CASE WHEN u.target IS NOT NULL
                THEN nextval('outlay.outbox_outbox_id_seq') END
            FROM unnest(finished) WITH ORDINALITY AS u (target, n) ORDER BY u.n);
        INSERT INTO outlay.outbox (outbox_id, kind, project_id, job_id, generation, class, reply_to, correlation_id,
            traceparent, accepted_at, created_at, claimed_by, claimed_at)
        SELECT u.id, 'result', u.project, u.job, u.target, u.class, u.reply_to, u.correlation_id, u.traceparent,
               u.accepted, v_now, p_publisher, v_now
        FROM (SELECT unnest(outbox) AS id, unnest(p_project) AS project, unnest(p_job) AS job,
                     unnest(finished) AS target, unnest(o_class) AS class, unnest(o_reply_to) AS reply_to,
                     unnest(o_correlation_id) AS correlation_id, unnest(o_traceparent) AS traceparent,
                     unnest(p_accepted) AS accepted) u
        WHERE u.target IS NOT NULL;
    END IF;
    IF v_jobs AND v_parks THEN
        DELETE FROM outlay.parked k USING (SELECT unnest(p_project) AS project, unnest(p_job) AS job,
                                                  unnest(finished) AS target) u
        WHERE u.target > 0 AND k.project_id = u.project AND k.job_id = u.job;
    END IF;
    IF v_jobs AND v_cancels THEN
        DELETE FROM outlay.cancel_request k USING (SELECT unnest(p_project) AS project, unnest(p_job) AS job,
                                                          unnest(finished) AS target) u
        WHERE u.target > 0 AND k.project_id = u.project AND k.job_id = u.job;
    END IF;
END $$;
