//! An admin's day: a stop, its end, a pause, a loop that was none, and a job that is asked after.

use std::time::{Duration, Instant};

use outlay_loadtest::rig::{Rig, job_body};

use super::driver::Browser;
use super::{console, sign_in, token};
use crate::e2e::{PATIENCE, ids, rig, sender};

const MORE: &str = "[defaults]\ncache_ttl = \"none\"\n[guard]\nrelease_step = \"100ms\"\n";

/// No call begins a second after `since`: counted at the provider, which outlay does not ask.
async fn is_still_after(rig: &Rig, since: Instant) {
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(since.elapsed())).await;
    let calls = rig.provider.stats().calls;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.provider.stats().calls, calls, "calls begin more than a second after the stop");
}

/// Types caps and goes on to the page that tells what they will do.
async fn wish_total(browser: &Browser, console: &str, usd: &str) -> String {
    browser.go(&format!("{console}/projects/p")).await;
    browser.fill("#cap-total", usd).await;
    browser.click("#caps ~ .panel button").await;
    browser.text("main").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_stops_raises_pauses_releases_and_finds() {
    let shape = |options: &mut outlay_loadtest::rig::RigOptions| {
        options.more = MORE.to_owned();
        options.provider.latency.base_ms = 250.0;
    };
    let Some(rig) = rig(shape).await else { return };
    let Some(browser) = Browser::start(true).await else { return };
    let worker = rig.worker().await.expect("a worker");
    let console = console(&worker);
    let token = token(&rig, &["--name", "anna", "--role", "admin"]).await;
    sign_in(&browser, &console, &token).await;

    let jobs = 4_000_u64;
    sender(&rig).await.send_all(ids("mail", jobs as usize), "p").await.expect("sent");
    rig.until(PATIENCE, |counts| counts.results > 100).await.expect("under way");
    let told = wish_total(&browser, &console, "0.0001").await;
    assert!(told.contains("Calls stop at once") && told.contains("$1,000,000.00 →"), "{told}");
    browser.click("#save").await;
    browser.until("[role=status]", |text| text.contains("The caps are changed")).await;
    let stopped = Instant::now();
    browser.until("[data-live]", |text| text.contains("cap reached")).await;
    is_still_after(&rig, stopped).await;
    let counts = rig.until(PATIENCE, |c| c.held == 0 && c.results + c.parked == jobs).await.expect("parked");
    assert!(counts.parked > 1_000, "{counts:?}");
    // The page shows the parked jobs by itself.
    browser.until("#waiting ~ .panel", |text| text.contains("total cap")).await;
    browser.go(&console).await;
    browser.until(".todo", |text| text.contains("p: ") && text.contains("cap in total is used")).await;

    let told = wish_total(&browser, &console, "1000").await;
    assert!(told.contains("Calls go on") && told.contains("jobs wait for this cap"), "{told}");
    browser.click("#save").await;
    let counts = rig.until(PATIENCE * 2, |c| c.results > counts.results + 300).await.expect("they go on");
    assert!(counts.parked < jobs, "{counts:?}");

    browser.go(&format!("{console}/projects/p")).await;
    browser.click(".head .huge").await;
    assert!(browser.text("main").await.contains("No new call begins from this moment on"));
    browser.fill("#reason", "a look at the prompts").await;
    browser.click("#pause").await;
    browser.until("[role=status]", |text| text.contains("Paused")).await;
    is_still_after(&rig, Instant::now()).await;
    browser.until("[data-live]", |text| text.contains("Paused: a look at the prompts")).await;
    browser.click(".head .huge").await;
    browser.until("[role=status]", |text| text.contains("Resumed")).await;
    rig.until(PATIENCE * 2, |c| c.results == jobs).await.expect("all of them");

    release_a_loop(&rig, &browser, &console, jobs).await;
    find_a_job(&browser, &console).await;
    assert_eq!(browser.complaints().await, [""; 0]);
    let events = rig.json(&["events", "--limit", "40"]).await.ok();
    if let Some(events) = events {
        assert!(events.to_string().contains("anna"), "{events}");
    }
    let logs = rig.logs().concat();
    assert!(
        !logs.contains(&token) && !browser.source().await.contains(&token),
        "a token stays where it is typed"
    );
    worker.stop(PATIENCE).await.expect("it ends");
    rig.audit().await.expect("the books");
    rig.close().await.expect("closed");
}

/// Identical jobs are taken for a loop, and let go as planned.
async fn release_a_loop(rig: &Rig, browser: &Browser, console: &str, before: u64) {
    let sender = sender(rig).await;
    let same = 400_u64;
    for n in 0..same {
        let id = format!("same-{n:05}");
        let body = format!(
            r#"{{"id":"{id}","project":"p","task":"t","messages":[{{"role":"user","content":"the same again"}}]}}"#
        );
        sender.send(&id, &body).await.expect("sent");
    }
    let all = |c: &outlay_loadtest::rig::Counts| c.held == 0 && c.results + c.parked == before + same;
    let counts = rig.until(PATIENCE, all).await.expect("held");
    assert!(counts.parked > 0, "{counts:?}");
    browser.go(console).await;
    browser.until(".todo", |text| text.contains("the loop guard")).await;
    browser.click(".todo a[href$='#waiting']").await;
    browser.choose("#label-0", "planned").await;
    browser.click("#release-0").await;
    browser.until("[role=status]", |text| text.contains("Released")).await;
    let counts = rig.until(PATIENCE * 2, |c| c.results == before + same).await.expect("all come back");
    assert_eq!((counts.parked, counts.done), (0, before + same), "{counts:?}");
    sender.send("asked-after", &job_body("asked-after", "p")).await.expect("sent");
    rig.until(PATIENCE, |c| c.results == before + same + 1).await.expect("a result");
}

async fn find_a_job(browser: &Browser, console: &str) {
    browser.go(&format!("{console}/jobs")).await;
    browser.fill("#id", "asked-after").await;
    browser.click("main form button").await;
    browser.until("h1", |text| text == "asked-after").await;
    let told = browser.text("main").await;
    assert!(told.contains("It went to m at") && told.contains("the only eligible model"), "{told}");
    assert!(told.contains("settled: cost $") && told.contains("done"), "{told}");
}
