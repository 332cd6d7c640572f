-- Money's lock is held by whoever begins or ends calls, and was held while the disk wrote their commit: others
-- waited for a disk that would have taken theirs along. Here it is let go of first. A commit that does not
-- wait is visible to others before it is durable, so nobody hears of it, or acts on what he saw of it outside
-- of this database, before a later commit has waited: commits reach the disk in their order, and what waits
-- for one waits for all before it.

-- What its caller has seen, even of others, is on disk once this has committed. A commit that writes nothing
-- would wait for nothing.
CREATE FUNCTION outlay.write_down() RETURNS pg_lsn LANGUAGE plpgsql AS $$
BEGIN
    RETURN pg_logical_emit_message(true, 'outlay', '');
END $$;

-- As `begin_batch`, for whoever is in no transaction. Its end is the commit that waits.
CREATE PROCEDURE outlay.begin_calls(
    p_worker uuid, p_run bigint, p_now bigint,
    p_attempt uuid[], p_project text[], p_job text[], p_task text[], p_hash bytea[], p_accepted bigint[],
    p_provider text[], p_model text[], p_price bigint[], p_hold bigint[], p_runs bigint[],
    p_explanation text[], p_hedge boolean[],
    p_class text[], p_reply_to text[], p_correlation_id text[], p_traceparent text[], p_body bytea[],
    OUT at bigint, OUT code integer[], OUT note text[], OUT resets bigint[], OUT amount bigint[],
    OUT generation integer[], OUT attempt_no integer[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_place pg_lsn;
BEGIN
    SET LOCAL synchronous_commit = off;
    SELECT b.* INTO at, code, note, resets, amount, generation, attempt_no
    FROM outlay.begin_batch(
        p_worker, p_run, p_now, p_attempt, p_project, p_job, p_task, p_hash, p_accepted, p_provider, p_model,
        p_price, p_hold, p_runs, p_explanation, p_hedge, p_class, p_reply_to, p_correlation_id, p_traceparent, p_body
    ) b;
    COMMIT;
    v_place := outlay.write_down();
END $$;

-- As `conclude_batch`, likewise.
CREATE PROCEDURE outlay.conclude_calls(
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
    v_place pg_lsn;
BEGIN
    SET LOCAL synchronous_commit = off;
    SELECT c.* INTO finished, overshoot, outbox
    FROM outlay.conclude_batch(
        p_now, p_project, p_job, p_generation, p_attempt, p_bill, p_cost, p_outcome, p_input, p_cached,
        p_cache_write, p_output, p_reasoning, p_served, p_ms, p_detail, p_task, p_hash, p_accepted, r_task, r_status,
        r_error, r_provider, r_model, r_cost, r_presumed, r_finished_at, r_body, p_publisher, o_class, o_reply_to,
        o_correlation_id, o_traceparent
    ) c;
    COMMIT;
    v_place := outlay.write_down();
END $$;
