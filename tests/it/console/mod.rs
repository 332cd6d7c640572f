//! The console in a real browser, before real workers.

mod driver;
mod plain;
mod screens;
mod story;

use outlay_loadtest::rig::{Rig, Worker};

use self::driver::Browser;

/// A token made on the command line, as people make theirs.
async fn token(rig: &Rig, arguments: &[&str]) -> String {
    let made = rig.outlay(&[&["token", "create"], arguments].concat()).await.expect("run");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let said = String::from_utf8(made.stdout).expect("a text");
    let is_token = |word: &&str| word.starts_with("outlay_");
    said.split_whitespace().find(is_token).unwrap_or_else(|| panic!("no token in {said}")).to_owned()
}

/// Where the console of a worker is.
fn console(worker: &Worker) -> String {
    format!("http://{}", worker.admin())
}

/// Signs in as anybody would.
async fn sign_in(browser: &Browser, console: &str, token: &str) {
    browser.go(&format!("{console}/")).await;
    assert!(browser.url().await.ends_with("/sign-in"), "whoever is not signed in is led to the sign-in");
    browser.fill("#token", token).await;
    browser.click("main button").await;
    browser.until("h1", |text| text == "Overview").await;
}
