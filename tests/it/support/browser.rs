//! The browser of the machine, what moves it, and the checker of accessibility: skipped loudly where they are
//! missing, unless they have to be there.

use std::path::PathBuf;

/// The browser.
pub(crate) fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    found("OUTLAY_TEST_CHROMIUM", &names, "Chromium")
}

/// What moves it.
pub(crate) fn chromedriver() -> Option<PathBuf> {
    found("OUTLAY_TEST_CHROMEDRIVER", &["chromedriver"], "chromedriver")
}

/// The text of axe-core, which `scripts/test.sh` fetches.
pub(crate) fn axe() -> Option<String> {
    let named = std::env::var_os("OUTLAY_TEST_AXE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let usual = home.join(".cache/outlay-test-tools/node_modules/axe-core/axe.min.js");
    let text = std::fs::read_to_string(named.unwrap_or(usual)).ok();
    if text.is_none() {
        missing("axe-core", "OUTLAY_TEST_AXE");
    }
    text
}

fn found(variable: &str, names: &[&str], what: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let mut usual = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = named.or_else(|| usual.find(|path| path.is_file()));
    if found.is_none() {
        missing(what, variable);
    }
    found
}

fn missing(what: &str, variable: &str) {
    let why = format!("no {what}: `scripts/test.sh` brings it, or say where it is in {variable}");
    assert!(std::env::var_os("REQUIRE_SERVICES").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
}
