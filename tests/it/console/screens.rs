//! Every page at a desk and on a telephone, light and dark: pictures of them go to `target/screens/`, and whatever
//! is wider than the screen, complains in the console or keeps somebody out is a failure.

use std::time::Duration;

use outlay_loadtest::rig::{Rig, RigOptions};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::driver::{Browser, View, screens};
use super::{console, sign_in, token};
use crate::e2e::{PATIENCE, rig, sender};
use crate::support::browser::axe;

const VIEWS: [View; 4] = [
    View { width: 1280, is_dark: false },
    View { width: 1280, is_dark: true },
    View { width: 390, is_dark: false },
    View { width: 390, is_dark: true },
];

const PROJECTS: &str = r#"
[[project]]
id = "inbox"
time_zone = "Asia/Tokyo"
budget = { day = "100", month = "1000", total = "5000" }
[[project]]
id = "reports"
time_zone = "Asia/Tokyo"
budget = { day = "100" }
[[project]]
id = "archive-of-the-northern-branch"
budget = { total = "40" }
[[project]]
id = "research"
budget = { month = "250" }
"#;

const CATALOGUE: &str = r#"
[[provider]]
id = "mock"
kind = "openai"
base_url = "{provider}/v1"
max_concurrent = 64
requests_per_minute = 60000
tokens_per_minute = 9000000
[[provider]]
id = "far"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
timeout = "2s"
[[model]]
id = "small-a"
provider = "mock"
name = "m"
tier = "small"
tokenizer = "bytes"
context_tokens = 128000
max_output_tokens = 16000
input_usd_per_mtok = "3"
cached_input_usd_per_mtok = "0.3"
output_usd_per_mtok = "15"
[[model]]
id = "large-c"
provider = "mock"
name = "m"
tier = "large"
tokenizer = "bytes"
context_tokens = 200000
max_output_tokens = 16000
input_usd_per_mtok = "15"
output_usd_per_mtok = "75"
[[model]]
id = "far-away"
provider = "far"
name = "m"
tier = "small"
tokenizer = "bytes"
context_tokens = 128000
max_output_tokens = 16000
input_usd_per_mtok = "4"
output_usd_per_mtok = "16"
[[task]]
id = "email.parse"
max_output_tokens = 100
[[task]]
id = "report.write"
max_output_tokens = 200
"#;

async fn send(rig: &Rig, project: &str, task: &str, id: &str, text: &str, more: &str) {
    let body = format!(
        r#"{{"id":"{id}","project":"{project}","task":"{task}","messages":[{{"role":"user","content":"{text}"}}]{more}}}"#
    );
    sender(rig).await.send(id, &body).await.expect("sent");
}

/// A fleet that has something of everything: money at its end, a pause, a loop, a provider that is away.
async fn fill(rig: &Rig) {
    for n in 0..40 {
        let text = format!("mail {n}: when is the next delivery?");
        send(rig, "inbox", "email.parse", &format!("mail-{n}"), &text, "").await;
        let dear = if n % 4 == 0 { r#","models":["large-c"]"# } else { "" };
        send(rig, "reports", "report.write", &format!("report-{n}"), &format!("report {n}"), dear).await;
    }
    rig.until(PATIENCE, |counts| counts.results == 80).await.expect("results");
    for n in 0..160 {
        send(rig, "reports", "report.write", &format!("again-{n}"), "the same again", "").await;
    }
    rig.until(PATIENCE, |c| c.held == 0 && c.results + c.parked == 240).await.expect("a loop");
    for n in 0..8 {
        let more = r#","models":["far-away"],"deadline":"4s","max_attempts":2"#;
        send(rig, "research", "email.parse", &format!("lost-{n}"), &format!("question {n}"), more).await;
    }
    rig.until(PATIENCE, |c| c.held == 0 && c.results + c.parked == 248).await.expect("failures");
    for arguments in [
        &["project", "pause", "archive-of-the-northern-branch", "--reason", "until the contract is signed"][..],
        &["models", "quarantine", "large-c", "--reason", "bills twice what it says"],
        &["budget", "set", "inbox", "--day", "12"],
        &["budget", "set", "reports", "--day", "30", "--month", "400"],
    ] {
        let done = rig.outlay(arguments).await.expect("run");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    past(rig).await;
    send(rig, "inbox", "email.parse", "mail-over", "one more", "").await;
    rig.until(PATIENCE, |c| c.held == 0 && c.results + c.parked == 249).await.expect("over the cap");
}

/// Hours and weeks that were before: sums and windows, as if calls had been made.
async fn past(rig: &Rig) {
    let mut db = PgConnection::connect(rig.database_url()).await.expect("a connection");
    let hours = "INSERT INTO outlay.spend_hour SELECT (outlay.now_us() / 3600000000 - n) * 3600000000, p, t, 'mock', m, \
                   90, 0, 0, (1200000000 + 400000000 * sin(n))::bigint * f, 0, 0, 0, 300000, 40000, 0, 90000, 0 \
                 FROM generate_series(1, 10) n, \
                   (VALUES ('reports', 'report.write', 'large-c', 2), ('inbox', 'email.parse', 'small-a', 1)) v (p, t, m, f) \
                 ON CONFLICT DO NOTHING";
    let weeks = "INSERT INTO outlay.spend_hour SELECT (outlay.now_us() / 3600000000 - 168 * n) * 3600000000, 'reports', \
                   'report.write', 'mock', m, 400, 0, 0, 9000000000, 0, 0, 0, (2000000 / f * (1 + 0.05 * n))::bigint, \
                   0, 0, (600000 / f)::bigint, 0 \
                 FROM generate_series(1, 9) n, (VALUES ('small-a', 1), ('large-c', 4)) v (m, f) ON CONFLICT DO NOTHING";
    // What the hours of today and of the month come to.
    let windows = "UPDATE outlay.budget_window w SET spent = w.spent + s.sum, \
                     ceiling = CASE WHEN w.cap IS NOT NULL THEN greatest(w.cap, w.held + w.presumed + w.spent + s.sum) END \
                   FROM (SELECT k.window_id, sum(h.spent)::bigint AS sum FROM outlay.budget_window k \
                     JOIN outlay.spend_hour h ON h.hour >= k.starts_at AND h.model <> 'far-away' \
                       AND (h.project_id = k.project_id OR k.project_id = '*') AND h.attempts IN (90, 400) \
                     GROUP BY k.window_id) s WHERE s.window_id = w.window_id";
    let prices = "INSERT INTO outlay.model_price (model, version, input, cached_input, cache_write, output, since) \
                  SELECT model, version + 1, input - 500000, cached_input, cache_write, output + 1000000, outlay.now_us() \
                  FROM outlay.model_price WHERE model = 'small-a'";
    // Days are their hours.
    let no_days = "DELETE FROM outlay.spend_day";
    let days = "INSERT INTO outlay.spend_day SELECT hour - hour % 86400000000, project_id, task, provider, model, \
                  sum(attempts), sum(running), sum(voided), sum(spent), sum(presumed), sum(held), sum(overshoot), \
                  sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), \
                  sum(reasoning_tokens) FROM outlay.spend_hour GROUP BY 1, 2, 3, 4, 5";
    for sql in [hours, weeks, windows, prices, no_days, days] {
        sqlx::query(sql).execute(&mut db).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    }
}

/// Looks at a page in every view.
async fn look(browser: &Browser, console: &str, page: (&str, &str), axe: &str, problems: &mut Vec<String>) {
    let (name, path) = page;
    for view in VIEWS {
        let scheme = if view.is_dark { "dark" } else { "light" };
        let case = format!("{name} at {} pixels, {scheme}", view.width);
        browser.look(view, 900).await;
        browser.go(&format!("{console}{path}")).await;
        let wide = browser.run(WIDE).await;
        if wide != json!([]) {
            problems.push(format!("{case}: wider than the screen: {wide}"));
        }
        let ground = browser.run("return getComputedStyle(document.body).backgroundColor").await;
        let is_dark = ground.as_str().is_some_and(|color| color.contains("(14, 18, 24"));
        if is_dark != view.is_dark {
            problems.push(format!("{case}: its ground is {ground}"));
        }
        let found = browser.run_async(&format!("{axe};{AXE}")).await;
        if found != json!([]) {
            problems.push(format!("{case}: {found}"));
        }
        let said = browser.complaints().await;
        // A page that is not there says so in the console too.
        let said: Vec<_> =
            said.into_iter().filter(|line| !(name == "nowhere" && line.contains("404"))).collect();
        if !said.is_empty() {
            problems.push(format!("{case}: {said:?}"));
        }
        let picture = browser.picture(view).await;
        std::fs::write(screens().join(format!("{name}-{}-{scheme}.png", view.width)), picture)
            .expect("written");
    }
}

const WIDE: &str = "const root = document.documentElement, found = [];
if (root.scrollWidth > root.clientWidth) for (const e of document.body.querySelectorAll('*')) {
  const box = e.getBoundingClientRect();
  if (box.right > root.clientWidth + 1 && !e.closest('.scroll') && !e.closest('svg')) found.push(`${e.tagName}.${e.className} to ${box.right}`);
}
return root.scrollWidth > root.clientWidth ? [root.scrollWidth, ...found.slice(0, 6)] : [];";

const AXE: &str = "const done = arguments[arguments.length - 1];
axe.run(document, { resultTypes: ['violations'] }).then((found) => done(found.violations
  .filter((rule) => ['serious', 'critical'].includes(rule.impact))
  .map((rule) => `${rule.id}: ${rule.nodes.slice(0, 3).map((node) => node.html.slice(0, 160) + ' ' + (node.any[0]?.message ?? '')).join(' | ')}`)),
  (error) => done([String(error)]));";

const PAGES: [(&str, &str); 19] = [
    ("overview", "/"),
    ("project-stopped", "/projects/inbox"),
    ("project-loop", "/projects/reports"),
    ("project-paused", "/projects/archive-of-the-northern-branch"),
    ("project-account", "/projects/%2A"),
    ("caps-stop", "/projects/reports/caps?day=5&month=500&total="),
    ("caps-raise", "/projects/inbox/caps?day=40&month=1000&total=5000"),
    ("caps-wrong", "/projects/inbox/caps?day=lots&month=&total="),
    ("pause", "/projects/reports/pause"),
    ("jobs", "/jobs"),
    ("jobs-parked", "/jobs?state=parked"),
    ("job-done", "/jobs/reports/report-4"),
    ("job-failed", "/jobs/research/lost-1"),
    ("job-parked", "/jobs/inbox/mail-over"),
    ("models", "/models"),
    ("fleet", "/fleet"),
    ("events", "/events"),
    ("alerts", "/alerts"),
    ("doctor", "/doctor"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_readable_at_every_width_and_in_both_schemes() {
    let shape = |options: &mut RigOptions| {
        options.projects = PROJECTS.to_owned();
        options.catalogue = Some(CATALOGUE.to_owned());
        options.more = "[defaults]\ncache_ttl = \"none\"\n".to_owned();
    };
    let Some(rig) = rig(shape).await else { return };
    let (Some(browser), Some(axe)) = (Browser::start(true).await, axe()) else { return };
    let worker = rig.worker().await.expect("a worker");
    let console = console(&worker);
    let mut problems = Vec::new();
    look(&browser, &console, ("sign-in", "/sign-in"), &axe, &mut problems).await;
    let token = token(&rig, &["--name", "anna", "--role", "admin"]).await;
    fill(&rig).await;
    // Sums are some seconds behind; the pictures are of sums.
    tokio::time::sleep(Duration::from_secs(8)).await;
    sign_in(&browser, &console, &token).await;
    for page in PAGES {
        look(&browser, &console, page, &axe, &mut problems).await;
    }
    look(&browser, &console, ("nowhere", "/nowhere"), &axe, &mut problems).await;
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    worker.kill().expect("killed");
    rig.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_pages_say_what_to_do_next() {
    let Some(rig) = rig(|options| options.projects = String::new()).await else { return };
    let (Some(browser), Some(axe)) = (Browser::start(true).await, axe()) else { return };
    let worker = rig.worker().await.expect("a worker");
    let console = console(&worker);
    let token = token(&rig, &["--name", "anna", "--role", "admin"]).await;
    sign_in(&browser, &console, &token).await;
    let mut problems = Vec::new();
    for (name, path, command) in [
        ("empty-overview", "/", "outlay run"),
        ("empty-jobs", "/jobs", "outlay submit"),
        ("empty-alerts", "/alerts", "[[alert]]"),
    ] {
        look(&browser, &console, (name, path), &axe, &mut problems).await;
        let told = browser.text("main").await;
        assert!(told.contains(command), "{path}: {told}");
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    worker.kill().expect("killed");
    rig.close().await.expect("closed");
}
