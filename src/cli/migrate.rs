//! `outlay migrate`: creates the store or brings it up to date, without running anything.

use serde_json::json;

use super::{Global, output};
use crate::app::{self, Failed};

pub(super) async fn run(global: &Global) -> Result<(), Failed> {
    let options = global.options();
    // Opening with leave to create applies every migration that the store lacks.
    let admin = app::open_admin(&options, true).await?;
    let projects = admin.directory.projects().await?.len();
    let version = env!("CARGO_PKG_VERSION");
    let store = match options.store {
        Some(url) => url,
        None => app::load_config(&options)?.store_url.clone(),
    };
    let store = without_password(&store);
    if global.json {
        return output::print_json(&json!({ "store": store, "outlay": version, "projects": projects }));
    }
    output::print(&format!("{store} is ready for outlay {version} ({})", output::count(projects, "project")))
}

/// The URL as it may be shown: `postgres://user:secret@host` loses the secret.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    // The last @ ends the password, which may hold others.
    match authority.rsplit_once('@').map(|(login, _)| login).and_then(|login| login.split_once(':')) {
        Some((user, password)) => {
            let after = &rest[user.len() + 1 + password.len()..];
            format!("{scheme}://{user}:***{after}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(without_password("sqlite:outlay.db"), "sqlite:outlay.db");
        assert_eq!(without_password("postgres://host/db"), "postgres://host/db");
        assert_eq!(without_password("postgres://me@host/db"), "postgres://me@host/db");
        assert_eq!(without_password("postgres://me:s@e:t@host/db"), "postgres://me:***@host/db");
    }
}
