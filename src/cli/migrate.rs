//! `outlay migrate`: creates the store or brings it up to date, without running anything.

use std::cell::RefCell;

use serde_json::json;

use super::{Global, output};
use crate::app::{self, Failed};

pub(super) async fn run(global: &Global) -> Result<(), Failed> {
    // Opening with leave to create applies every migration that the store lacks.
    let admin = app::open_admin(&global.options(), true).await?;
    // One line for each day that the sums have reached.
    let told = RefCell::new(None);
    app::catch_up(&admin, |to| {
        let day = to.timestamp().strftime("%Y-%m-%d").to_string();
        if told.replace(Some(day.clone())) != Some(day.clone()) {
            output::say(&format!("hourly sums reach {day}"));
        }
    })
    .await?;
    let projects = admin.directory.projects().await?.len();
    let version = env!("CARGO_PKG_VERSION");
    let store = &admin.place;
    if global.json {
        return output::print_json(&json!({ "store": store, "outlay": version, "projects": projects }));
    }
    output::print(&format!("{store} is ready for outlay {version} ({})", output::count(projects, "project")))
}
