-- Identical jobs: who goes first, and who was answered by whom.

-- The latest job that led those of its content, for each choice of models. Whether it still leads is not
-- written here: it follows from its session, its result and its parking.
CREATE TABLE outlay.cache_lead (
    project_id text COLLATE "C" NOT NULL,
    content    bytea NOT NULL CHECK (length(content) = 32),
    pins       text COLLATE "C" NOT NULL,   -- the choice of models; empty for none
    job_id     text COLLATE "C" NOT NULL,
    body_hash  bytea NOT NULL CHECK (length(body_hash) = 32),
    worker_id  uuid NOT NULL,               -- the session that works on it
    led_at     bigint NOT NULL,             -- when it last said so
    keep_until bigint NOT NULL,             -- by then its answer is too old for anybody
    PRIMARY KEY (project_id, content, pins)
);
CREATE INDEX cache_lead_old ON outlay.cache_lead (keep_until);

-- Jobs that got the answer of another.
CREATE TABLE outlay.cache_hit (
    project_id text COLLATE "C" NOT NULL,
    job_id     text COLLATE "C" NOT NULL,
    task       text NOT NULL,
    provider   text NOT NULL,
    model      text NOT NULL,
    followed   boolean NOT NULL,            -- it waited for the answer
    at         bigint NOT NULL,
    PRIMARY KEY (job_id, project_id)
);
CREATE INDEX cache_hit_at ON outlay.cache_hit (at);

-- Where the leaders of a content stand, as `policy::cache::Standing::of` has it; half an hour is its
-- `LEAD_MAX`.
CREATE FUNCTION outlay.cache_standing(p_project text, p_content bytea, p_now bigint)
RETURNS TABLE (pins text, job_id text, leads boolean, answer bigint, model text, answered_at bigint)
-- Stable: it sees the same rows as the statement that asks.
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT l.pins, l.job_id,
           r.result_seq IS NULL AND l.led_at > p_now - 1800000000 AND coalesce(j.body_hash = l.body_hash, true)
               AND EXISTS (SELECT 1 FROM outlay.worker w WHERE w.worker_id = l.worker_id AND w.alive)
               AND NOT EXISTS (SELECT 1 FROM outlay.parked k WHERE k.project_id = l.project_id
                   AND k.job_id = l.job_id AND k.released_at IS NULL),
           CASE WHEN r.status = 'done' AND j.body_hash = l.body_hash THEN r.result_seq END, r.model, r.written_at
    FROM outlay.cache_lead l
    LEFT JOIN LATERAL (
        SELECT j.generation, j.body_hash FROM outlay.job j
        WHERE j.project_id = l.project_id AND j.job_id = l.job_id ORDER BY j.generation DESC LIMIT 1) j ON true
    LEFT JOIN LATERAL (
        SELECT r.result_seq, r.status, r.model, r.written_at FROM outlay.result r
        WHERE r.project_id = l.project_id AND r.job_id = l.job_id AND r.generation = j.generation LIMIT 1) r ON true
    WHERE l.project_id = p_project AND l.content = p_content;
END $$;

-- Whether identical jobs have an answer: one after the other under a lock of its own, as
-- `policy::cache::decide` does. Answers 0 go on, 1 an answer and whose, 2 follow whom, 3 lead. `p_models`
-- are lists as JSON. What is written here may be lost with a crash of the database: then a job is paid
-- for twice, so nobody waits for the disk.
CREATE FUNCTION outlay.ask_cache(
    p_worker uuid, p_now bigint, p_project text[], p_job text[], p_task text[], p_hash bytea[], p_content bytea[],
    p_pins text[], p_models text[], p_ttl bigint[], p_keep bigint[], p_followed boolean[],
    OUT code integer[], OUT leader text[], OUT body text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_size constant integer := cardinality(p_job);
    v_now bigint;
    v_job record;
    v_found record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('outlay.cache', 0));
    PERFORM set_config('synchronous_commit', 'off', true);
    v_now := coalesce(p_now, outlay.now_us());
    code := array_fill(0, ARRAY[v_size]);
    leader := array_fill(NULL::text, ARRAY[v_size]);
    body := leader;
    FOR i IN 1..v_size LOOP
        SELECT j.generation, j.body_hash INTO v_job FROM outlay.job j
        WHERE j.project_id = p_project[i] AND j.job_id = p_job[i] ORDER BY j.generation DESC LIMIT 1;
        CONTINUE WHEN FOUND AND (v_job.body_hash <> p_hash[i] OR EXISTS (
            SELECT 1 FROM outlay.result r
            WHERE r.project_id = p_project[i] AND r.job_id = p_job[i] AND r.generation = v_job.generation));
        CONTINUE WHEN EXISTS (
            SELECT 1 FROM outlay.cancel_request c WHERE c.project_id = p_project[i] AND c.job_id = p_job[i]);

        -- One statement, because each has its own view of the rows: a leader that ends between two would
        -- have no answer for the one and lead no more for the other.
        SELECT s.job_id, s.is_answer, r.body, r.provider, r.model INTO v_found
        FROM (
            SELECT s.*, coalesce(s.answer IS NOT NULL AND s.answered_at > v_now - p_ttl[i] AND s.model IN (
                SELECT m.id FROM json_array_elements_text(p_models[i]::json) AS m (id)), false) AS is_answer
            FROM outlay.cache_standing(p_project[i], p_content[i], v_now) s) s
        LEFT JOIN outlay.result r ON s.is_answer AND r.result_seq = s.answer
        WHERE s.is_answer OR (s.leads AND (p_pins[i] = '' OR s.pins = p_pins[i]))
        ORDER BY NOT s.is_answer, CASE WHEN s.is_answer THEN s.answered_at END DESC,
                 NOT s.is_answer AND s.job_id <> p_job[i], NOT s.is_answer AND s.pins <> p_pins[i], s.pins
        LIMIT 1;
        IF FOUND AND v_found.is_answer THEN
            code[i] := 1;
            leader[i] := v_found.job_id;
            body[i] := v_found.body;
            INSERT INTO outlay.cache_hit (project_id, job_id, task, provider, model, followed, at)
            VALUES (p_project[i], p_job[i], p_task[i], v_found.provider, v_found.model,
                    p_followed[i] OR EXISTS (
                        SELECT 1 FROM outlay.parked k WHERE k.project_id = p_project[i] AND k.job_id = p_job[i]
                          AND k.reason::json->>'why' = 'following'), v_now)
            ON CONFLICT (job_id, project_id) DO UPDATE SET provider = excluded.provider, model = excluded.model,
                followed = excluded.followed, at = excluded.at;
            -- It has led before: what it is going to say is no answer of its own.
            DELETE FROM outlay.cache_lead l
            WHERE l.project_id = p_project[i] AND l.content = p_content[i] AND l.job_id = p_job[i];
            CONTINUE;
        END IF;
        IF FOUND AND v_found.job_id <> p_job[i] THEN
            code[i] := 2;
            leader[i] := v_found.job_id;
            CONTINUE;
        END IF;
        code[i] := 3;
        -- A second delivery takes nothing away from a session that is calling for it.
        CONTINUE WHEN FOUND AND v_job.generation IS NOT NULL AND EXISTS (
            SELECT 1 FROM outlay.attempt a WHERE a.project_id = p_project[i] AND a.job_id = p_job[i]
              AND a.generation = v_job.generation AND a.state = 'held');
        INSERT INTO outlay.cache_lead (project_id, content, pins, job_id, body_hash, worker_id, led_at, keep_until)
        VALUES (p_project[i], p_content[i], p_pins[i], p_job[i], p_hash[i], p_worker, v_now, v_now + p_keep[i])
        ON CONFLICT (project_id, content, pins) DO UPDATE SET job_id = excluded.job_id,
            body_hash = excluded.body_hash, worker_id = excluded.worker_id, led_at = excluded.led_at,
            keep_until = excluded.keep_until;
    END LOOP;
END $$;
