//! The console without a script: whoever blocks them, or whose browser is old, can do the same.

use std::time::Instant;

use super::driver::Browser;
use super::{console, sign_in, token};
use crate::e2e::{PATIENCE, rig};

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_caps_and_pause_work_without_a_script() {
    let Some(rig) = rig(|_| {}).await else { return };
    let Some(browser) = Browser::start(false).await else { return };
    let worker = rig.worker().await.expect("a worker");
    let console = console(&worker);
    let anna = token(&rig, &["--name", "anna", "--role", "admin"]).await;
    sign_in(&browser, &console, &anna).await;

    browser.go(&format!("{console}/projects/p")).await;
    browser.fill("#cap-day", "2.50").await;
    browser.click("#caps ~ .panel button").await;
    assert!(browser.text("main").await.contains("no cap → $2.50"));
    browser.click("#save").await;
    browser.until("[role=status]", |text| text.contains("The caps are changed")).await;
    let shown = rig.json(&["budget", "show", "p"]).await.expect("the budget");
    assert_eq!(shown["project"]["caps"]["day"], "2.5", "{shown}");

    browser.fill("#cap-day", "a lot").await;
    browser.click("#caps ~ .panel button").await;
    assert!(browser.text("main").await.contains("Nothing was changed"));
    assert!(!browser.has("#save").await);

    browser.go(&format!("{console}/projects/p")).await;
    browser.click(".head .huge").await;
    browser.click("#pause").await;
    browser.until("main", |text| text.contains("Paused: paused in the console")).await;
    browser.click(".head .huge").await;
    browser.until("main", |text| text.contains("New calls may begin")).await;

    browser.click(".me button").await;
    browser.until("h1", |text| text == "Sign in").await;
    browser.go(&console).await;
    assert!(browser.url().await.ends_with("/sign-in"), "the session is over");
    worker.stop(PATIENCE).await.expect("it ends");
    rig.close().await.expect("closed");
}

/// Two admins look at the same caps; the second one to save hears of the first.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_admins_the_second_hears_of_the_first() {
    let Some(rig) = rig(|_| {}).await else { return };
    let (Some(one), Some(two)) = (Browser::start(true).await, Browser::start(true).await) else { return };
    let worker = rig.worker().await.expect("a worker");
    let console = console(&worker);
    for (browser, name) in [(&one, "anna"), (&two, "ben")] {
        let token = token(&rig, &["--name", name, "--role", "admin"]).await;
        sign_in(browser, &console, &token).await;
        browser.go(&format!("{console}/projects/p")).await;
        browser.fill("#cap-month", if name == "anna" { "10" } else { "20" }).await;
        browser.click("#caps ~ .panel button").await;
        browser.text("#save").await;
    }
    one.click("#save").await;
    one.until("[role=status]", |text| text.contains("The caps are changed")).await;
    two.click("#save").await;
    let told = two.until("main", |text| text.contains("Somebody else changed these caps")).await;
    assert!(told.contains("$10.00 → $20.00"), "{told}");
    let shown = rig.json(&["budget", "show", "p"]).await.expect("the budget");
    assert_eq!(shown["project"]["caps"]["month"], "10");
    two.click("#save").await;
    two.until("[role=status]", |text| text.contains("The caps are changed")).await;
    worker.stop(PATIENCE).await.expect("it ends");
    rig.close().await.expect("closed");
}

/// A viewer finds no button that would be refused, a project's admin nothing of other projects, and a guesser no
/// word that helps.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_sees_what_they_may() {
    let projects = "[[project]]\nid = \"p\"\nbudget = { total = \"10\" }\n\
                    [[project]]\nid = \"q\"\nbudget = { total = \"10\" }\n";
    let Some(rig) = rig(|options| options.projects = projects.to_owned()).await else { return };
    let Some(browser) = Browser::start(true).await else { return };
    let worker = rig.worker().await.expect("a worker");
    let console = console(&worker);
    let began = Instant::now();
    browser.go(&console).await;
    browser.fill("#token", "outlay_0000000000000000000000000000000000000000000000000000000000000000").await;
    browser.click("main button").await;
    assert_eq!(browser.text("#why").await, "This token is not valid.");

    let viewer = token(&rig, &["--name", "vera", "--role", "viewer"]).await;
    sign_in(&browser, &console, &viewer).await;
    for page in ["/projects/p", "/models", "/jobs", "/events", "/alerts", "/fleet", "/doctor"] {
        browser.go(&format!("{console}{page}")).await;
        assert!(!browser.has("main form[method=post]").await, "{page}: {}", browser.source().await);
        assert!(!browser.has("#caps").await, "{page}");
    }
    browser.go(&format!("{console}/projects/p/pause")).await;
    assert!(browser.text("main").await.contains("does not allow this"));
    browser.click("a[href='/']").await;
    browser.click(".me button").await;

    let scoped = token(&rig, &["--name", "paul", "--role", "admin", "--project", "p"]).await;
    sign_in(&browser, &console, &scoped).await;
    let told = browser.text("main").await;
    assert!(!browser.has("a[href='/projects/q']").await && !told.contains("All projects together"), "{told}");
    browser.go(&format!("{console}/projects/q")).await;
    assert!(browser.text("main").await.contains("There is no project q"));
    browser.go(&format!("{console}/projects/p")).await;
    assert!(browser.has("#caps").await);
    eprintln!("looked at in {:?}", began.elapsed());
    worker.stop(PATIENCE).await.expect("it ends");
    rig.close().await.expect("closed");
}
