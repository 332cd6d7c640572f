//! `outlay doctor` after real work, with each of its conditions made in the real store.

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use super::{PATIENCE, ids, rig, sender};

/// Work that was done, and everything that may be wrong with it.
const CONDITIONS: &[&str] = &[
    // Another model would have been in time for next to nothing.
    "INSERT INTO outlay.model_price (model, version, input, cached_input, cache_write, output, since) \
     VALUES ('other', 1, 1, 1, 1, 1, 0)",
    "UPDATE outlay.attempt SET explanation = jsonb_set(explanation::jsonb, '{offers}', (explanation::jsonb->'offers') \
       || '[{\"model\": \"other\", \"provider\": \"mock\", \"cost_usd\": \"1\", \"finish_ms\": 1, \"lost\": {\"why\": \"dearer\"}}]')",
    // What a dollar buys was halved from one week to the next.
    "INSERT INTO outlay.spend_hour SELECT outlay.now_us() / 3600000000 * 3600000000 - weeks * 604800000000, 'p', 't', \
       'mock', 'w', 100, 0, 0, 1000000000, 0, 0, 0, tokens, 0, 0, 0, 0 FROM (VALUES (1, 1000), (2, 2000)) AS v (weeks, tokens)",
    // One content was led twice.
    "INSERT INTO outlay.cache_lead SELECT 'p', sha256('x'), pins, 'job-00001', sha256('x'), gen_random_uuid(), \
       outlay.now_us(), outlay.now_us() FROM unnest(ARRAY['', 'm']) AS u (pins)",
    // A bill that nobody knows for eight days.
    "INSERT INTO outlay.attempt (attempt_id, project_id, job_id, generation, attempt_no, task, worker_id, windows, \
       provider, model, price_version, hold, counted, state, begun_at, ended_at, outcome, explanation) \
     SELECT '00000000-0000-0000-0000-000000000001', 'p', 'lost', 1, 1, 't', gen_random_uuid(), '{}', 'mock', 'm', 1, 7, 7, \
       'presumed', outlay.now_us() - 691200000000, outlay.now_us(), 'timeout', '{}'",
    "INSERT INTO outlay.rollup_open SELECT 'lost', 'p', '00000000-0000-0000-0000-000000000001', 'presumed', 0, 't', \
       'mock', 'm', 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0",
    "UPDATE outlay.budget_window SET presumed = presumed + 7 WHERE project_id = '*' AND kind = 'total'",
    // Prices that nobody has looked at for a hundred days.
    "UPDATE outlay.model_price SET since = since - 8640000000000, effective_at = effective_at - 8640000000000 WHERE model = 'm'",
    // Half of the jobs a second late, so that no other model could have helped them.
    "UPDATE outlay.result SET body = jsonb_set(body::jsonb, '{timing,deadline_margin_ms}', '-1000')::text WHERE job_id < 'job-00050'",
    // A budget that is used up.
    "UPDATE outlay.budget_window SET cap = spent + presumed, ceiling = greatest(spent + presumed, spent + presumed + held) \
     WHERE project_id = 'p' AND kind = 'total'",
    // A session that was silent for half a minute.
    "UPDATE outlay.worker SET alive = true, heartbeat_at = outlay.now_us() - 30000000",
];

fn found<'a>(told: &'a Value, id: &str) -> &'a Value {
    let findings = told["findings"].as_array().expect("findings");
    findings.iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("no {id} in {told:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_condition_is_found_in_a_real_store() {
    let Some(rig) = rig(|_| {}).await else { return };
    let worker = rig.worker().await.expect("a worker");
    let jobs = 100;
    sender(&rig).await.send_all(ids("job", jobs), "p").await.expect("sent");
    rig.until(PATIENCE, |c| c.results == jobs as u64 && c.outbox == 0).await.expect("all");
    assert!(worker.stop(PATIENCE).await.expect("it ends").success());

    let well = rig.json(&["doctor"]).await.expect("a diagnosis");
    let findings = well["findings"].as_array().expect("findings");
    let loud =
        findings.iter().filter(|finding| matches!(finding["severity"].as_str(), Some("warn" | "alarm")));
    assert_eq!(loud.count(), 0, "{well:#}");
    let strict = rig.outlay(&["doctor", "--strict"]).await.expect("run");
    assert_eq!(strict.status.code(), Some(0), "{}", String::from_utf8_lossy(&strict.stdout));

    let mut conn = PgConnection::connect(rig.database_url()).await.expect("a connection");
    for sql in CONDITIONS {
        sqlx::raw_sql(*sql).execute(&mut conn).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    }
    sender(&rig).await.send_all(ids("waits", 7), "p").await.expect("sent");
    let ill = rig.json(&["doctor"]).await.expect("a diagnosis");
    for (id, severity, value, unit) in [
        ("routing_deviation", "alarm", "50.0", "percent of jobs"),
        ("tokens_per_dollar", "alarm", "1000", "tokens per dollar"),
        ("cache_dilution", "warn", "2.00", "copies per content"),
        ("presumed_money", "alarm", "0.000000007", "USD"),
        ("price_age", "alarm", "100", "days"),
        ("deadline_margin", "warn", "-1.0", "seconds"),
        ("deadline_late", "alarm", "100.0", "percent of jobs with a deadline"),
        ("budget_lasts", "alarm", "0", "hours left"),
        ("clock_skew", "ok", "0.0", "seconds"),
    ] {
        let finding = found(&ill, id);
        let seen = [&finding["severity"], &finding["value"], &finding["unit"]];
        assert_eq!(seen, [severity, value, unit], "{finding:#}");
        assert!(finding["meaning"].as_str().is_some_and(|text| !text.is_empty()), "{finding:#}");
        assert_eq!(finding["advice"] == "", severity == "ok", "{finding:#}");
    }
    assert_eq!(found(&ill, "heartbeat_age")["severity"], "warn");
    let waiting: u64 = ill["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter(|finding| finding["id"] == "queue_lag")
        .map(|finding| finding["value"].as_str().expect("a number").parse::<u64>().expect("a number"))
        .sum();
    assert_eq!(waiting, 7);
    assert_eq!(ill["findings"][0]["severity"], "alarm", "the worst comes first");
    let strict = rig.outlay(&["doctor", "--strict", "--skip-queue"]).await.expect("run");
    assert_eq!(strict.status.code(), Some(1));
    let said = String::from_utf8_lossy(&strict.stdout);
    assert!(said.contains("alarm  routing_deviation: 50.0 percent of jobs"), "{said}");

    let away = rig.outlay(&["doctor", "--store", "postgres://root@127.0.0.1:1/none"]).await.expect("run");
    assert_eq!(away.status.code(), Some(4), "{}", String::from_utf8_lossy(&away.stderr));

    // What analysts are given says the same.
    let week = "SELECT tokens_per_dollar FROM outlay.tokens_per_dollar_by_week WHERE model = 'w' ORDER BY week DESC LIMIT 1";
    let per_dollar: i64 = sqlx::query_scalar(week).fetch_one(&mut conn).await.expect("a week");
    assert_eq!(per_dollar, 1000);
    conn.close().await.expect("closed");
    rig.close().await.expect("closed");
}
