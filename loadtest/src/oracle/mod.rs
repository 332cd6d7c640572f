//! The oracle: what must be true after a run, by its own SQL and the provider's bill book.
//!
//! It never asks outlay's own code. Each rule is a pure function over `Books`, so that
//! `tests` can show every one of them an offence that it has to find.

mod books;
mod cap;
mod money;
mod rest;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use self::books::Books;
pub use self::watch::{Look, Watch, WindowLook};
use crate::report::Check;
use crate::rig::{Rig, dead_letters};

/// What a run was asked to do, as far as its outcome depends on it.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// Every job that the broker has confirmed, with its project.
    pub jobs: BTreeMap<String, String>,
    /// Projects whose jobs may end up parked, because their cap has no room for all of them.
    pub may_park: BTreeSet<String>,
    /// The caps that were in force, and when.
    pub caps: Vec<CapTerm>,
    /// The provider may break its own prices: then bills may be above their holds, and a window above its
    /// cap by exactly that much.
    pub may_overshoot: bool,
    /// The provider's limit, where it has one.
    pub requests_per_minute: Option<u64>,
}

/// A cap and when it may have been in force: while it is being changed, both the old and the new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapTerm {
    /// Whose.
    pub project: String,
    /// `day`, `month` or `total`.
    pub kind: String,
    /// In nano-dollars.
    pub nano_usd: i64,
    /// Since when, in microseconds since 1970.
    pub from_us: i64,
    /// Until when, as `from_us`.
    pub until_us: i64,
}

impl CapTerm {
    /// A cap that stands from the start and until it is changed.
    #[must_use]
    pub fn always(project: &str, kind: &str, nano_usd: i64) -> Self {
        Self { project: project.into(), kind: kind.into(), nano_usd, from_us: i64::MIN, until_us: i64::MAX }
    }
}

/// Examines a fleet at rest: each rule as a check, with the figures behind it or what broke it.
///
/// # Errors
/// When the database or the broker does not answer; a rule that is broken is no error.
pub async fn examine(rig: &Rig, expected: &Expectations) -> Result<Vec<Check>> {
    let books = Books::read(rig).await?;
    let dead = dead_letters(rig.amqp_url(), rig.prefix()).await?;
    let beyond = if expected.may_overshoot { cap::overshoot(&books) } else { BTreeMap::new() };
    let billed = cap::billed_beyond(&books, &expected.caps, &beyond);
    let mut checks = vec![billed, cap::begun(&books, &expected.caps)];
    checks.extend(money::checks(&books));
    checks.push(rest::no_holds(&books));
    checks.push(rest::outcomes(&books, expected));
    checks.push(rest::dead_letters(&books, &dead));
    if let Some(per_minute) = expected.requests_per_minute {
        checks.push(rest::limit(&books.bills, per_minute));
    }
    Ok(checks)
}

/// The rules that hold at any moment, at rest or not: the bills against the ledger.
///
/// # Errors
/// When the database does not answer.
pub async fn books(rig: &Rig) -> Result<Vec<Check>> {
    Ok(money::checks(&Books::read(rig).await?))
}

/// What broke a rule: how often, and the first few cases.
#[derive(Debug, Default)]
struct Finding {
    times: usize,
    told: Vec<String>,
}

impl Finding {
    const TOLD_MAX: usize = 3;

    fn add(&mut self, case: impl FnOnce() -> String) {
        self.times += 1;
        if self.told.len() < Self::TOLD_MAX {
            self.told.push(case());
        }
    }
}

/// A rule and whether it held; `figures` are told where it did.
fn check(name: &str, wrong: Finding, figures: String) -> Check {
    let detail = match wrong.times {
        0 => figures,
        n if n > wrong.told.len() => format!("{n} times, such as: {}", wrong.told.join("; ")),
        _ => wrong.told.join("; "),
    };
    Check { name: name.to_owned(), held: wrong.times == 0, detail }
}
