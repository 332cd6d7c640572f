//! The process's environment: the only place that reads it.

/// Which configuration file to read, where `--config` doesn't say.
pub const CONFIG: &str = "OUTLAY_CONFIG";
/// Overrides `[store] url`.
pub const STORE_URL: &str = "OUTLAY_STORE_URL";
/// Overrides `[queue] url`.
pub const QUEUE_URL: &str = "OUTLAY_QUEUE_URL";

/// A variable that is set to something, by name.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a variable of this process. An empty one counts as not set: that is how a shell or a
/// compose file passes on what it doesn't have.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one home of environment reading")]
pub fn process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
