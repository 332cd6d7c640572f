//! Which day or week a call began in, by its project's own calendar.

use std::collections::{BTreeMap, HashMap};

use jiff::tz::TimeZone;

use crate::types::Wall;
use crate::types::ledger::Project;

/// Microseconds of a quarter of an hour. Every time zone in use is a whole number of them away from UTC,
/// so a quarter lies within one day of any of them.
pub(crate) const QUARTER: i64 = 15 * 60 * 1_000_000;

/// Names quarters of an hour, counted from 1970, in the time zone of the project that each stands with;
/// UTC where it is not known. `format` is strftime's.
pub(crate) fn name_quarters(
    projects: &[Project],
    quarters: impl IntoIterator<Item = (String, i64)>,
    format: &str,
) -> BTreeMap<(String, i64), String> {
    let zone = |project: &Project| TimeZone::get(&project.time_zone).unwrap_or(TimeZone::UTC);
    let zones: HashMap<&str, TimeZone> =
        projects.iter().map(|project| (project.id.as_str(), zone(project))).collect();
    let name = |(project, quarter): (String, i64)| {
        let zone = zones.get(project.as_str()).cloned().unwrap_or(TimeZone::UTC);
        let at = Wall(quarter.saturating_mul(QUARTER)).timestamp().to_zoned(zone);
        ((project, quarter), at.strftime(format).to_string())
    };
    quarters.into_iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ledger::{Caps, OnCap};

    #[test]
    fn a_quarter_is_named_where_its_project_is() {
        let berlin = Project {
            id: "berlin".into(),
            time_zone: "Europe/Berlin".to_owned(),
            on_cap: OnCap::Park,
            uncapped: true,
            stopped: None,
            caps: Caps::default(),
        };
        // 2026-11-21, 23:15 UTC.
        let quarter =
            "2026-11-21T23:15:00Z".parse::<jiff::Timestamp>().expect("a time").as_microsecond() / QUARTER;
        let both = ["berlin", "elsewhere"].map(|project| (project.to_owned(), quarter));
        let named = name_quarters(&[berlin], both, "%Y-%m-%d");
        assert_eq!(named.into_values().collect::<Vec<_>>(), ["2026-11-22", "2026-11-21"]);
    }
}
