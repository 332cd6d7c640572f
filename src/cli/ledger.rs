//! `outlay ledger`: whether the books are right, and closing calls whose bill nobody knows.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::output::{self, count, dollars_nearest};
use super::{Global, budget};
use crate::app::{self, Admin, Failed};
use crate::policy::restore::{Presumed, Presumption};
use crate::ports::reports::{AttemptRow, Finding};
use crate::types::ledger::{Resolution, Resolved};
use crate::types::{AttemptId, NanoUsd, ProjectId};

/// A younger call may still be running at the provider, and then be billed.
const VOID_AFTER: Duration = Duration::from_secs(3600);

/// What to do with the ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Check that each window's sums are those of its calls; exit code 1 if not
    Check,
    /// Check everything that must hold between the tables; exit code 1 if something does not
    Verify,
    /// Say what was spent after the backup that this store was put back from
    Restored(RestoredArgs),
    /// Show and close calls whose bill is unknown
    #[command(subcommand)]
    Presumed(PresumedCommand),
}

/// What to do with presumed spend.
#[derive(Debug, Subcommand)]
pub(crate) enum PresumedCommand {
    /// List the calls whose bill is unknown, the oldest first
    List,
    /// Enter what the provider's invoice shows for a call
    Settle {
        #[command(flatten)]
        which: Which,
        /// What each of the calls was billed
        #[arg(long, value_name = "USD", allow_hyphen_values = true)]
        amount: String,
    },
    /// Enter that the provider's invoice shows nothing for a call at least an hour old
    Void {
        #[command(flatten)]
        which: Which,
    },
}

/// What was spent since a backup, as far as a person knows.
#[derive(Debug, Args)]
pub(crate) struct RestoredArgs {
    /// Count this much as presumed spend of a project, in every window since the backup
    #[arg(long, value_name = "PROJECT=USD", required_unless_present = "nothing")]
    presume: Vec<String>,
    /// Nothing was spent since
    #[arg(long, conflicts_with = "presume")]
    nothing: bool,
    /// From when on it is not known [default: the last that the store knows of]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Where you know it from, for the event log
    #[arg(long, value_name = "TEXT")]
    why: String,
}

/// Which calls to close, and why.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The calls, by attempt id
    #[arg(value_name = "ATTEMPT", required_unless_present = "all", conflicts_with = "all")]
    attempts: Vec<Uuid>,
    /// Every call whose bill is unknown
    #[arg(long)]
    all: bool,
    /// Where you know it from, for the event log
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// With --all: do it, not only tell what would be done
    #[arg(long)]
    yes: bool,
}

/// What `check` and `verify` answer.
#[derive(Debug, Serialize)]
struct CheckView<'a> {
    clean: bool,
    open_windows: usize,
    projects: usize,
    findings: &'a [Finding],
}

/// What became of one call that was to be closed.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ClosedView {
    attempt: AttemptId,
    closed: bool,
    pub(super) message: String,
}

pub(super) async fn run(global: &Global, command: &LedgerCommand) -> Result<u8, Failed> {
    // A mistyped amount is told before a store is asked for.
    let resolution = match command {
        LedgerCommand::Presumed(PresumedCommand::Settle { amount, .. }) => {
            Resolution::Settle(budget::amount("--amount", amount)?)
        }
        _ => Resolution::Void,
    };
    if let LedgerCommand::Restored(args) = command {
        return restored(global, args).await;
    }
    let admin = app::open_admin(&global.options(), false).await?;
    match command {
        LedgerCommand::Restored(_) => Ok(0),
        LedgerCommand::Check => {
            let findings = admin.reports.check().await?;
            report(global, &admin, &findings).await
        }
        LedgerCommand::Verify => {
            let findings = admin.reports.verify().await?;
            report(global, &admin, &findings).await
        }
        LedgerCommand::Presumed(PresumedCommand::List) => list(global, &admin).await,
        LedgerCommand::Presumed(PresumedCommand::Settle { which, .. } | PresumedCommand::Void { which }) => {
            close(global, &admin, which, resolution).await
        }
    }
}

async fn restored(global: &Global, args: &RestoredArgs) -> Result<u8, Failed> {
    let amount = |text: &String| {
        let wrong = || Failed::usage(format!("--presume {text}: write PROJECT=USD such as inbox=12.50"));
        let (project, usd) =
            text.rsplit_once('=').filter(|(project, _)| !project.is_empty()).ok_or_else(wrong)?;
        Ok((ProjectId::from(project), budget::amount("--presume", usd)?))
    };
    let amounts = args.presume.iter().map(amount).collect::<Result<Vec<_>, Failed>>()?;
    let admin = app::open_admin(&global.options(), false).await?;
    let now = admin.clock.now().wall;
    let since = args.since.as_ref().map(|text| output::since(text, now)).transpose()?;
    let what = Presumption { since, amounts, who: app::user_name(), why: args.why.clone() };
    match admin.reconcile.presume_restored(&what).await? {
        Presumed::UnknownProject(project) => {
            Err(Failed::usage(format!("--presume {project}: there is no such project; nothing was changed")))
        }
        Presumed::NotRestored => Err(Failed {
            code: 1,
            message: "nothing shows that this store was put back from a backup; if it was, give --since"
                .to_owned(),
        }),
        Presumed::Since(since) if global.json => {
            let view = |(project, amount): &(ProjectId, NanoUsd)| json!({ "project": project, "presumed_usd": amount });
            let presumed: Vec<_> = what.amounts.iter().map(view).collect();
            output::print_json(&json!({ "since": since, "presumed": presumed }))?;
            Ok(0)
        }
        Presumed::Since(since) => {
            for (project, amount) in &what.amounts {
                let line = format!("{project}: ${amount} is presumed spent, in every window since {since}");
                output::print(&output::clean(&line))?;
            }
            if what.amounts.is_empty() {
                output::print(&format!("nothing was spent since {since}"))?;
            }
            Ok(0)
        }
    }
}

async fn report(global: &Global, admin: &Admin, findings: &[Finding]) -> Result<u8, Failed> {
    let projects = admin.directory.projects().await?;
    let mut open_windows = 0;
    for project in &projects {
        open_windows += admin.directory.windows(&project.id).await?.len();
    }
    let (clean, projects) = (findings.is_empty(), projects.len());
    if global.json {
        output::print_json(&CheckView { clean, open_windows, projects, findings })?;
    } else if clean {
        output::print(&clean_sentence(open_windows, projects))?;
    } else {
        let row = |f: &Finding| vec![f.rule.to_owned(), f.subject.clone(), f.message.clone()];
        output::table(&["rule", "of", "what is wrong"], &findings.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(u8::from(!clean))
}

fn clean_sentence(open_windows: usize, projects: usize) -> String {
    format!(
        "clean: {} of {} open, and every sum is that of its calls",
        count(open_windows, "window"),
        count(projects, "project")
    )
}

async fn list(global: &Global, admin: &Admin) -> Result<u8, Failed> {
    let presumed = admin.reports.presumed().await?;
    if global.json {
        output::print_json(&presumed)?;
        return Ok(0);
    }
    if presumed.is_empty() {
        output::say("no call is presumed: every bill is known");
        return Ok(0);
    }
    let headers = ["attempt", "job", "provider", "model", "hold", "outcome", "begun", "detail"];
    output::table(&headers, &presumed.iter().map(row).collect::<Vec<_>>())?;
    output::say(&format!("{}, holding {}", count(presumed.len(), "call"), dollars_nearest(sum(&presumed))));
    Ok(0)
}

fn row(attempt: &AttemptRow) -> Vec<String> {
    vec![
        attempt.attempt.to_string(),
        attempt.job.to_string(),
        attempt.provider.to_string(),
        attempt.model.to_string(),
        dollars_nearest(attempt.hold_usd),
        attempt.outcome.map_or("interrupted", |outcome| outcome.as_str()).to_owned(),
        output::time_utc(attempt.begun_at),
        attempt.detail.clone().unwrap_or_default(),
    ]
}

fn sum(attempts: &[AttemptRow]) -> NanoUsd {
    attempts.iter().map(|attempt| attempt.counted_usd).sum()
}

async fn close(global: &Global, admin: &Admin, which: &Which, resolution: Resolution) -> Result<u8, Failed> {
    let attempts = if which.all {
        let presumed = admin.reports.presumed().await?;
        if !which.yes && !presumed.is_empty() {
            return Err(Failed::usage(would_close(&presumed, resolution)));
        }
        presumed.iter().map(|attempt| attempt.attempt).collect()
    } else {
        which.attempts.iter().copied().map(AttemptId).collect::<Vec<_>>()
    };
    let who = app::user_name();
    let mut closed = Vec::new();
    for attempt in attempts {
        // One refusal keeps none of the others from being closed.
        let answer = admin.reconcile.resolve(attempt, resolution, VOID_AFTER, &who, &which.why).await?;
        let view = told(attempt, resolution, &answer);
        if !global.json {
            output::say(&view.message);
        }
        closed.push(view);
    }
    if global.json {
        output::print_json(&closed)?;
    } else if closed.is_empty() {
        output::say("no call is presumed: every bill is known");
    }
    Ok(u8::from(closed.iter().any(|view| !view.closed)))
}

fn would_close(presumed: &[AttemptRow], resolution: Resolution) -> String {
    let how = match resolution {
        Resolution::Settle(amount) => format!("settle each at {}", dollars_nearest(amount)),
        Resolution::Void => "void all of them".to_owned(),
    };
    format!(
        "--all names {} holding {}; add --yes to {how}, or look first: `outlay ledger presumed list`",
        count(presumed.len(), "call"),
        dollars_nearest(sum(presumed))
    )
}

pub(super) fn told(attempt: AttemptId, resolution: Resolution, answer: &Resolved) -> ClosedView {
    let what = match (answer, resolution) {
        (Resolved::Closed, Resolution::Settle(amount)) => format!("settled at {}", dollars_nearest(amount)),
        (Resolved::Closed, Resolution::Void) => "void: its hold is given back".to_owned(),
        (Resolved::Unknown, _) => "refused: there is no such call".to_owned(),
        (Resolved::NotPresumed(state), _) => {
            format!("refused: it is {}, and only a presumed call can be closed", state.as_str())
        }
        (Resolved::TooEarly(why), _) => format!("refused: {why}"),
    };
    ClosedView { attempt, closed: *answer == Resolved::Closed, message: format!("{attempt} {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ledger::HoldState;
    use crate::types::{JobKey, Wall};

    fn attempt() -> AttemptRow {
        AttemptRow {
            attempt: AttemptId(Uuid::nil()),
            job: JobKey { project: "inbox".into(), id: "mail-1".into() },
            generation: 1,
            n: 1,
            provider: "sim".into(),
            model: "small-a".into(),
            price_version: 1,
            state: HoldState::Presumed,
            hold_usd: NanoUsd(4_000_000),
            counted_usd: NanoUsd(4_000_000),
            outcome: None,
            usage: None,
            model_served: None,
            begun_at: Wall(0),
            ended_at: None,
            provider_ms: None,
            detail: None,
            explanation: String::new(),
        }
    }

    #[test]
    fn a_presumed_call_is_one_row() {
        let expected = [
            "00000000-0000-0000-0000-000000000000",
            "inbox/mail-1",
            "sim",
            "small-a",
            "$0.004",
            "interrupted",
            "1970-01-01 00:00:00 UTC",
            "",
        ];
        assert_eq!(row(&attempt()), expected);
    }

    #[test]
    fn each_answer_is_told_and_only_closed_counts_as_done() {
        let id = AttemptId(Uuid::nil());
        let settle = Resolution::Settle(NanoUsd(1_000_000));
        for (answer, part) in [
            (Resolved::Closed, "settled at $0.001"),
            (Resolved::Unknown, "refused: there is no such call"),
            (Resolved::NotPresumed(HoldState::Held), "refused: it is held"),
            (Resolved::TooEarly("it is 3 minutes old".into()), "refused: it is 3 minutes old"),
        ] {
            let view = told(id, settle, &answer);
            assert!(view.message.contains(part), "{}", view.message);
            assert_eq!(view.closed, answer == Resolved::Closed);
        }
    }

    #[test]
    fn all_needs_a_yes_and_tells_what_is_at_stake() {
        let text = would_close(&[attempt(), attempt()], Resolution::Void);
        assert!(text.starts_with("--all names 2 calls holding $0.008; add --yes to void all"), "{text}");
    }

    #[test]
    fn clean_books_say_what_was_looked_at() {
        assert_eq!(
            clean_sentence(6, 1),
            "clean: 6 windows of 1 project open, and every sum is that of its calls"
        );
    }
}
