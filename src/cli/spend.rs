//! `outlay spend`: what was spent, summed over calls; what is held or only presumed stands apart.

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Global;
use super::output::{self, dollars_nearest};
use crate::app::{self, Failed};
use crate::ports::reports::{SpendBy, SpendRow};
use crate::types::{NanoUsd, Usage, Wall};

/// Arguments of `outlay spend`.
#[derive(Debug, Args)]
pub(crate) struct SpendArgs {
    /// What to sum by; days and weeks are those of each project's time zone
    #[arg(long, value_enum, default_value_t = By::Project)]
    by: By,
    /// Only calls begun since an instant, a date (UTC) or for a span such as 24h
    #[arg(long, value_name = "T")]
    since: Option<String>,
}

/// The `--by` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Project,
    Task,
    Model,
    Provider,
    Outcome,
    Day,
    Week,
}

impl By {
    fn port(self) -> SpendBy {
        match self {
            Self::Project => SpendBy::Project,
            Self::Task => SpendBy::Task,
            Self::Model => SpendBy::Model,
            Self::Provider => SpendBy::Provider,
            Self::Outcome => SpendBy::Outcome,
            Self::Day => SpendBy::Day,
            Self::Week => SpendBy::Week,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Task => "task",
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Outcome => "outcome",
            Self::Day => "day",
            Self::Week => "week",
        }
    }

    /// Whether every job is in one row only, so that the rows' jobs may be added up.
    fn parts_jobs(self) -> bool {
        matches!(self, Self::Project | Self::Task)
    }
}

/// The line below the rows.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Total {
    attempts: u64,
    /// `null` where one job can be in several rows.
    jobs: Option<u64>,
    spent_usd: NanoUsd,
    presumed_usd: NanoUsd,
    held_usd: NanoUsd,
    usage: Usage,
    /// Jobs that got the answer of an identical one.
    cached: u64,
    /// Those of them that waited for it.
    followed: u64,
}

/// The report as JSON.
#[derive(Debug, Serialize)]
struct SpendView<'a> {
    by: By,
    since: Option<Wall>,
    rows: &'a [SpendRow],
    total: Total,
}

pub(super) async fn run(global: &Global, args: &SpendArgs) -> Result<(), Failed> {
    let admin = app::open_admin(&global.options(), false).await?;
    let now = admin.clock.now().wall;
    let since = args.since.as_deref().map(|text| output::since(text, now)).transpose()?;
    let rows = admin.reports.spend(args.by.port(), since).await?;
    let total = total(args.by, &rows);
    if global.json {
        return output::print_json(&SpendView { by: args.by, since, rows: &rows, total });
    }
    let mut headers = vec![
        args.by.word(),
        "calls",
        "jobs",
        "spent",
        "presumed",
        "held",
        "tokens in",
        "cached",
        "tokens out",
    ];
    let mut lines = lines(&rows, &total);
    if total.cached > 0 {
        headers.extend(["jobs answered again", "of those waited"]);
        let counts =
            rows.iter().map(|row| [row.cached, row.followed]).chain([[total.cached, total.followed]]);
        for (line, counts) in lines.iter_mut().zip(counts) {
            line.extend(counts.map(|count| count.to_string()));
        }
    }
    output::table(&headers, &lines)?;
    if total.presumed_usd > NanoUsd::ZERO {
        output::say(&format!(
            "{} is presumed: those calls ended without a bill, so their whole holds count until they are \
             reconciled; see `outlay ledger presumed list`",
            dollars_nearest(total.presumed_usd)
        ));
    }
    Ok(())
}

fn total(by: By, rows: &[SpendRow]) -> Total {
    let mut total = Total::default();
    for row in rows {
        total.attempts += row.attempts;
        total.spent_usd = total.spent_usd.saturating_add(row.spent_usd);
        total.presumed_usd = total.presumed_usd.saturating_add(row.presumed_usd);
        total.held_usd = total.held_usd.saturating_add(row.held_usd);
        total.usage += row.usage;
        total.cached += row.cached;
        total.followed += row.followed;
    }
    total.jobs = by.parts_jobs().then(|| rows.iter().map(|row| row.jobs).sum());
    total
}

fn lines(rows: &[SpendRow], total: &Total) -> Vec<Vec<String>> {
    let line = |key: &str, attempts: u64, jobs: Option<u64>, money: [NanoUsd; 3], usage: &Usage| {
        let mut cells = vec![key.to_owned(), attempts.to_string()];
        cells.push(jobs.map_or_else(|| "-".to_owned(), |jobs| jobs.to_string()));
        cells.extend(money.map(dollars_nearest));
        let tokens = [usage.input_tokens, usage.cached_input_tokens, usage.output_tokens];
        cells.extend(tokens.map(|n| n.to_string()));
        cells
    };
    let of_row = |row: &SpendRow| {
        let money = [row.spent_usd, row.presumed_usd, row.held_usd];
        line(&row.key, row.attempts, Some(row.jobs), money, &row.usage)
    };
    let money = [total.spent_usd, total.presumed_usd, total.held_usd];
    let last = line("total", total.attempts, total.jobs, money, &total.usage);
    rows.iter().map(of_row).chain([last]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str) -> SpendRow {
        SpendRow {
            key: key.into(),
            attempts: 3,
            jobs: 2,
            spent_usd: NanoUsd(431_000),
            presumed_usd: NanoUsd(20_000_000),
            held_usd: NanoUsd::ZERO,
            usage: Usage { input_tokens: 812, output_tokens: 96, ..Usage::default() },
            cached: 4,
            followed: 1,
        }
    }

    #[test]
    fn the_total_adds_up_and_keeps_presumed_money_apart() {
        let rows = [row("a"), row("b")];
        let total = total(By::Project, &rows);
        let lines = lines(&rows, &total);
        assert_eq!(lines[0], ["a", "3", "2", "$0.000431", "$0.02", "$0.00", "812", "0", "96"]);
        assert_eq!(lines[2], ["total", "6", "4", "$0.000862", "$0.04", "$0.00", "1624", "0", "192"]);
    }

    #[test]
    fn jobs_that_can_be_in_several_rows_are_not_added_up() {
        assert_eq!(total(By::Model, &[row("a"), row("b")]).jobs, None);
        assert_eq!(total(By::Task, &[]).jobs, Some(0));
    }

    #[test]
    fn json_names_are_stable_and_money_is_text() {
        let rows = [row("a")];
        let view = SpendView { by: By::Day, since: None, rows: &rows, total: total(By::Day, &rows) };
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["by"], "day");
        assert_eq!(json["rows"][0]["spent_usd"], "0.000431");
        assert_eq!(json["total"]["presumed_usd"], "0.02");
        assert_eq!((&json["rows"][0]["cached"], &json["total"]["followed"]), (&4.into(), &1.into()));
    }
}
