//! `outlay budget`: what each project may spend, what it has, and what is left.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{self, dollars_nearest, dollars_or};
use super::{Global, project};
use crate::app::{self, Admin, Failed};
use crate::policy::budget::Window;
use crate::types::ledger::{Project, WindowKind};
use crate::types::{NanoUsd, Wall};

/// What to do with caps.
#[derive(Debug, Subcommand)]
pub(crate) enum BudgetCommand {
    /// List all projects with what is committed of each cap
    List,
    /// Show each open window of a project: cap, spend, holds, room and when it starts anew
    Show {
        /// The project
        project: String,
    },
    /// Set caps, for the open windows and all to come
    Set(SetArgs),
    /// Lift caps
    Unset(UnsetArgs),
}

/// Arguments of `budget set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The project
    project: String,
    #[command(flatten)]
    caps: CapFlags,
}

/// At least one cap. A struct of its own, because the derived group holds every field beside it.
#[derive(Debug, Default, Args)]
#[group(required = true, multiple = true)]
struct CapFlags {
    /// The most that a calendar day may cost
    #[arg(long, value_name = "USD", allow_hyphen_values = true)]
    day: Option<String>,
    /// The most that a calendar month may cost
    #[arg(long, value_name = "USD", allow_hyphen_values = true)]
    month: Option<String>,
    /// The most that the project may cost ever
    #[arg(long, value_name = "USD", allow_hyphen_values = true)]
    total: Option<String>,
}

/// Arguments of `budget unset`.
#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    /// The project
    project: String,
    #[command(flatten)]
    lifted: LiftFlags,
}

/// At least one kind of window.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct LiftFlags {
    /// Lift the cap of the day
    #[arg(long)]
    day: bool,
    /// Lift the cap of the month
    #[arg(long)]
    month: bool,
    /// Lift the cap of the total
    #[arg(long)]
    total: bool,
}

/// A window as `budget show --json` prints it; `null` is "no bound" and "no end".
#[derive(Debug, Serialize)]
struct WindowView {
    kind: WindowKind,
    starts_at: Wall,
    resets_at: Option<Wall>,
    cap_usd: Option<NanoUsd>,
    spent_usd: NanoUsd,
    presumed_usd: NanoUsd,
    held_usd: NanoUsd,
    room_usd: Option<NanoUsd>,
    overshoot_usd: NanoUsd,
}

/// A project with its open windows.
#[derive(Debug, Serialize)]
struct BudgetView {
    project: Project,
    windows: Vec<WindowView>,
}

/// One cap before and after.
#[derive(Debug, Serialize)]
struct ChangeView {
    window: WindowKind,
    from_usd: Option<NanoUsd>,
    to_usd: Option<NanoUsd>,
}

/// What `set` and `unset` answer.
#[derive(Debug, Serialize)]
struct ChangesView {
    project: String,
    changes: Vec<ChangeView>,
    warnings: Vec<String>,
}

pub(super) async fn run(global: &Global, command: &BudgetCommand) -> Result<(), Failed> {
    // A mistyped amount is told before a store is asked for.
    let wanted = match command {
        BudgetCommand::Set(args) => caps_wanted(&args.caps)?,
        BudgetCommand::Unset(args) => caps_lifted(&args.lifted),
        BudgetCommand::List | BudgetCommand::Show { .. } => Vec::new(),
    };
    let admin = app::open_admin(&global.options(), false).await?;
    match command {
        BudgetCommand::List => list(global, &admin).await,
        BudgetCommand::Show { project } => show(global, &admin, project).await,
        BudgetCommand::Set(SetArgs { project, .. }) | BudgetCommand::Unset(UnsetArgs { project, .. }) => {
            change(global, &admin, project, &wanted).await
        }
    }
}

/// The caps that the arguments ask for.
fn caps_wanted(flags: &CapFlags) -> Result<Vec<(WindowKind, Option<NanoUsd>)>, Failed> {
    let mut wanted = Vec::new();
    let flags =
        [(WindowKind::Day, &flags.day), (WindowKind::Month, &flags.month), (WindowKind::Total, &flags.total)];
    for (kind, text) in flags {
        if let Some(text) = text {
            wanted.push((kind, Some(amount(&format!("--{}", kind.as_str()), text)?)));
        }
    }
    Ok(wanted)
}

fn caps_lifted(flags: &LiftFlags) -> Vec<(WindowKind, Option<NanoUsd>)> {
    let flags =
        [(WindowKind::Day, flags.day), (WindowKind::Month, flags.month), (WindowKind::Total, flags.total)];
    flags.into_iter().filter(|(_, lifted)| *lifted).map(|(kind, _)| (kind, None)).collect()
}

/// Reads an amount of at least zero.
///
/// # Errors
/// Names the flag it was given for.
pub(super) fn amount(flag: &str, text: &str) -> Result<NanoUsd, Failed> {
    NanoUsd::parse_cap(text).map_err(|error| Failed::usage(format!("{flag}: {error}")))
}

/// `$5.00 a day, $50.00 a month`, or that there is none.
pub(super) fn caps_in_words(project: &Project) -> String {
    let words =
        [(WindowKind::Day, " a day"), (WindowKind::Month, " a month"), (WindowKind::Total, " in total")];
    let caps: Vec<_> = words
        .iter()
        .filter_map(|(kind, word)| project.caps.get(*kind).map(|cap| dollars_nearest(cap) + word))
        .collect();
    match (caps.is_empty(), project.uncapped) {
        (false, _) => caps.join(", "),
        (true, true) => "uncapped on purpose".to_owned(),
        (true, false) => "none".to_owned(),
    }
}

async fn list(global: &Global, admin: &Admin) -> Result<(), Failed> {
    let mut all = Vec::new();
    for project in admin.directory.projects().await? {
        let windows = admin.directory.windows(&project.id).await?;
        all.push((project, windows));
    }
    if global.json {
        let views: Vec<_> = all.into_iter().map(|(project, windows)| view(project, &windows)).collect();
        return output::print_json(&views);
    }
    if all.is_empty() {
        output::say("no projects yet: `outlay run` creates those that the configuration names");
        return Ok(());
    }
    let rows: Vec<_> = all.iter().map(|(project, windows)| list_row(project, windows)).collect();
    output::table(&["project", "state", "day", "month", "total"], &rows)
}

/// Per kind of window what is committed of the cap.
fn list_row(project: &Project, windows: &[Window]) -> Vec<String> {
    let of = |kind| match windows.iter().find(|window| window.kind == kind) {
        None => "-".to_owned(),
        Some(window) => {
            let committed = dollars_nearest(window.committed());
            window.cap.map_or_else(
                || format!("{committed}, no cap"),
                |cap| format!("{committed} of {}", dollars_nearest(cap)),
            )
        }
    };
    let mut row = vec![project.id.to_string(), project::state(project)];
    row.extend(WindowKind::STANDING.map(of));
    row
}

async fn show(global: &Global, admin: &Admin, name: &str) -> Result<(), Failed> {
    let project = project::find(admin, name).await?;
    let windows = admin.directory.windows(&project.id).await?;
    if global.json {
        return output::print_json(&view(project, &windows));
    }
    let headers = ["window", "cap", "spent", "presumed", "held", "room", "starts anew", "overshoot"];
    output::table(&headers, &show_rows(&project, &windows))?;
    if let Some(reason) = &project.stopped {
        output::say(&format!("{name} is stopped: {reason}; `outlay project resume {name}` lets it go on"));
    }
    if windows.iter().any(|window| window.presumed > NanoUsd::ZERO) {
        output::say(
            "presumed: the bill of a call that ended without one is unknown, so its whole hold counts; \
             `outlay ledger presumed list` shows them",
        );
    }
    Ok(())
}

fn show_rows(project: &Project, windows: &[Window]) -> Vec<Vec<String>> {
    let zone = output::zone_of(&project.time_zone);
    let row = |window: &Window| {
        vec![
            window.kind.as_str().to_owned(),
            dollars_or(window.cap, "no cap"),
            dollars_nearest(window.spent),
            dollars_nearest(window.presumed),
            dollars_nearest(window.held),
            dollars_or(window.cap.map(|_| window.room()), "no cap"),
            window.ends_at.map_or_else(|| "never".to_owned(), |at| output::time_in(at, &zone)),
            dollars_nearest(window.overshoot),
        ]
    };
    windows.iter().map(row).collect()
}

fn view(project: Project, windows: &[Window]) -> BudgetView {
    let window = |window: &Window| WindowView {
        kind: window.kind,
        starts_at: window.starts_at,
        resets_at: window.ends_at,
        cap_usd: window.cap,
        spent_usd: window.spent,
        presumed_usd: window.presumed,
        held_usd: window.held,
        room_usd: window.cap.map(|_| window.room()),
        overshoot_usd: window.overshoot,
    };
    BudgetView { project, windows: windows.iter().map(window).collect() }
}

async fn change(
    global: &Global,
    admin: &Admin,
    name: &str,
    wanted: &[(WindowKind, Option<NanoUsd>)],
) -> Result<(), Failed> {
    let before = project::find(admin, name).await?;
    let who = app::user_name();
    let mut changes = Vec::new();
    for &(window, to_usd) in wanted {
        if !admin.directory.set_cap(&before.id, window, to_usd, &who).await? {
            return Err(Failed::usage(format!("project `{name}` is gone")));
        }
        let from_usd = before.caps.get(window);
        // Told one by one: should the next one fail, the reader knows what has changed already.
        if !global.json {
            let (from, to) = (dollars_or(from_usd, "no cap"), dollars_or(to_usd, "no cap"));
            output::print(&format!("{name}: {} cap {from} -> {to}", window.as_str()))?;
        }
        changes.push(ChangeView { window, from_usd, to_usd });
    }
    let after = project::find(admin, name).await?;
    let warnings = warnings(&after, &admin.directory.windows(&after.id).await?);
    if global.json {
        return output::print_json(&ChangesView { project: name.to_owned(), changes, warnings });
    }
    for warning in warnings {
        output::say(&format!("warning: {warning}"));
    }
    Ok(())
}

/// What somebody who has just changed caps should know.
fn warnings(project: &Project, windows: &[Window]) -> Vec<String> {
    let zone = output::zone_of(&project.time_zone);
    let below = |window: &Window| {
        let cap = window.cap.filter(|cap| *cap < window.committed())?;
        let until = window.ends_at.map_or_else(
            || "until the cap is raised".to_owned(),
            |at| format!("before {}", output::time_in(at, &zone)),
        );
        Some(format!(
            "{} of this {} is committed already ({} spent, {} presumed, {} held), above the cap of {}: \
             nothing is recalled, and nothing new is admitted {until}",
            dollars_nearest(window.committed()),
            window.kind.as_str(),
            dollars_nearest(window.spent),
            dollars_nearest(window.presumed),
            dollars_nearest(window.held),
            dollars_nearest(cap),
        ))
    };
    let mut warnings: Vec<_> = windows.iter().filter_map(below).collect();
    if !project.caps.is_capped() {
        warnings.push(format!("{} has no cap left: nothing bounds what it spends", project.id));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::budget::Period;
    use crate::types::WindowId;
    use crate::types::ledger::{Caps, OnCap};

    const DOLLAR: i64 = 1_000_000_000;

    fn project(day: Option<i64>) -> Project {
        Project {
            id: "inbox".into(),
            time_zone: "Europe/Berlin".into(),
            on_cap: OnCap::Park,
            uncapped: false,
            caps: Caps { day: day.map(|cap| NanoUsd(cap * DOLLAR)), month: None, total: None },
            stopped: None,
        }
    }

    fn window(cap: Option<i64>) -> Window {
        let ends_at: jiff::Timestamp = "2026-11-21T23:00:00Z".parse().unwrap();
        let period = Period { starts_at: Wall(0), ends_at: Some(ends_at.into()) };
        let cap = cap.map(|cap| NanoUsd(cap * DOLLAR));
        Window {
            held: NanoUsd(DOLLAR / 2),
            spent: NanoUsd(2 * DOLLAR),
            presumed: NanoUsd(DOLLAR),
            ..Window::empty(WindowId(1), "inbox".into(), WindowKind::Day, period, cap)
        }
    }

    #[test]
    fn show_tells_cap_sums_room_and_reset_in_the_projects_zone() {
        let expected =
            ["day", "$5.00", "$2.00", "$1.00", "$0.50", "$1.50", "2026-11-22 00:00:00 CET", "$0.00"];
        assert_eq!(show_rows(&project(Some(5)), &[window(Some(5))]), [expected.map(str::to_owned)]);
        let uncapped = &show_rows(&project(None), &[window(None)])[0];
        assert_eq!((uncapped[1].as_str(), uncapped[5].as_str()), ("no cap", "no cap"));
    }

    #[test]
    fn list_shows_what_is_committed_of_each_cap() {
        let row = list_row(&project(Some(5)), &[window(Some(5))]);
        assert_eq!(row, ["inbox", "running", "$3.50 of $5.00", "-", "-"]);
    }

    #[test]
    fn a_cap_below_what_is_committed_warns_and_recalls_nothing() {
        let warned = warnings(&project(Some(3)), &[window(Some(3))]);
        assert_eq!(
            warned,
            [
                "$3.50 of this day is committed already ($2.00 spent, $1.00 presumed, $0.50 held), above the cap of \
              $3.00: nothing is recalled, and nothing new is admitted before 2026-11-22 00:00:00 CET"
            ]
        );
        assert!(warnings(&project(Some(5)), &[window(Some(5))]).is_empty());
        assert!(warnings(&project(None), &[window(None)])[0].contains("no cap left"));
    }

    #[test]
    fn bad_money_names_its_flag() {
        let flags = |day: &str| CapFlags { day: Some(day.into()), ..CapFlags::default() };
        assert_eq!(caps_wanted(&flags("5")), Ok(vec![(WindowKind::Day, Some(NanoUsd(5 * DOLLAR)))]));
        for bad in ["5,00", "-1", "$5", "1e3"] {
            let failed = caps_wanted(&flags(bad)).unwrap_err();
            assert_eq!(failed.code, 2);
            assert!(failed.message.starts_with("--day: `"), "{}", failed.message);
        }
    }

    #[test]
    fn the_command_line_is_consistent_and_set_wants_at_least_one_cap() {
        use clap::{CommandFactory as _, Parser as _};
        crate::cli::Cli::command().debug_assert();
        let parses = |line: &str| crate::cli::Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parses("outlay budget set p --day 5 --total 9"));
        assert!(parses("outlay budget unset p --day --month"));
        assert!(!parses("outlay budget set p"));
        assert!(!parses("outlay budget unset p"));
        let id = "00000000-0000-0000-0000-000000000000";
        assert!(parses(&format!("outlay ledger presumed settle {id} --amount 0.01 --why invoice")));
        assert!(parses("outlay ledger presumed void --all --why invoice"));
        assert!(!parses("outlay ledger presumed void --why invoice"));
        assert!(!parses(&format!("outlay ledger presumed void {id} --all --why invoice")));
    }

    #[test]
    fn json_holds_exact_decimal_strings() {
        let json = serde_json::to_value(view(project(Some(5)), &[window(Some(5))])).unwrap();
        assert_eq!(json["project"]["caps"]["day"], "5");
        assert_eq!(json["windows"][0]["room_usd"], "1.5");
        assert_eq!(json["windows"][0]["kind"], "day");
        assert_eq!(json["windows"][0]["resets_at"], "2026-11-21T23:00:00Z");
    }
}
