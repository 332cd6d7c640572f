//! `outlay jobs`: what the store knows of jobs, and what a person does to those that wait.

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::output::{self, clean};
use super::{Global, explain, project};
use crate::app::{self, Admin, Failed};
use crate::ports::jobs::{Cancel, JobFilter, JobRow, JobState, ReleaseFilter};
use crate::ports::reports::ParkedRow;
use crate::types::guard::{GuardLabel, GuardRule};
use crate::types::ledger::ParkReason;
use crate::types::{JobId, JobKey, ProjectId, Status};

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs that the store knows, the newest first
    List {
        /// Only this project's
        #[arg(long, value_name = "P")]
        project: Option<String>,
        /// Only jobs in this state
        #[arg(long, value_enum)]
        state: Option<StateArg>,
        /// Only what was accepted since: an instant, a date, or a span back such as 24h
        #[arg(long, value_name = "T")]
        since: Option<String>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// Tell everything about a job: where it stands, its calls, why it waits
    Show(explain::ExplainArgs),
    /// End a job that nobody wants any more
    Cancel {
        /// The job's id
        job: String,
        /// Its project [default: the only one, where there is only one]
        #[arg(long, value_name = "P")]
        project: Option<String>,
    },
    /// Let parked jobs go, whatever they wait for; they go as room allows
    Release {
        /// Their ids
        #[arg(required_unless_present_any = ["project", "all", "rule", "key"])]
        jobs: Vec<String>,
        /// All of this project's, or those of the ids that are its
        #[arg(long, value_name = "P")]
        project: Option<String>,
        /// All parked jobs of all projects
        #[arg(long, conflicts_with_all = ["jobs", "project"])]
        all: bool,
        /// What the loop guard parked, and what it was. A loop's rule stays as it is; anything else's looks
        /// away for a day and is half as strict afterwards
        #[arg(long = "as", value_enum, value_name = "LABEL")]
        label: Option<LabelArg>,
        /// Only what this rule of the loop guard parked
        #[arg(long, value_name = "RULE", requires = "label")]
        rule: Option<String>,
        /// Only what it parked for this content, beginning or lineage
        #[arg(long, value_name = "KEY", requires = "label")]
        key: Option<String>,
    },
}

/// A job's state, as it is asked for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum StateArg {
    /// In the queue, or being worked on
    Open,
    /// Waiting outside the queue
    Parked,
    /// Answered
    Done,
    /// Given up
    Failed,
    /// Its deadline passed
    Expired,
    /// Stopped by a person
    Cancelled,
}

impl From<StateArg> for JobState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Open => Self::Open,
            StateArg::Parked => Self::Parked,
            StateArg::Done => Self::Ended(Status::Done),
            StateArg::Failed => Self::Ended(Status::Failed),
            StateArg::Expired => Self::Ended(Status::Expired),
            StateArg::Cancelled => Self::Ended(Status::Cancelled),
        }
    }
}

pub(super) async fn run(global: &Global, command: &JobsCommand) -> Result<(), Failed> {
    if let JobsCommand::Show(args) = command {
        return explain::run(global, args).await;
    }
    let admin = app::open_admin(&global.options(), false).await?;
    match command {
        JobsCommand::Show(_) => Ok(()),
        JobsCommand::List { project, state, since, limit } => {
            let filter = JobFilter {
                project: of(&admin, project.as_deref()).await?,
                state: state.map(Into::into),
                since: match since {
                    Some(text) => Some(output::since(text, admin.clock.now().wall)?),
                    None => None,
                },
            };
            list(global, &admin.jobs.list(&filter, *limit).await?)
        }
        JobsCommand::Cancel { job, project } => {
            let project = project_of(&admin, project.as_deref(), job).await?;
            cancel(global, &admin, JobKey { project, id: JobId::from(job.as_str()) }).await
        }
        JobsCommand::Release { jobs, project, label, rule, key, .. } => {
            let which = ReleaseFilter {
                ids: jobs.iter().map(|id| JobId::from(id.as_str())).collect(),
                project: of(&admin, project.as_deref()).await?,
                label: label.map(Into::into),
                rule: rule.as_deref().map(guard_rule).transpose()?,
                key: key.clone(),
                step: admin.release_step,
            };
            refuse_guarded(&admin, &which).await?;
            let released = admin.jobs.release(&which, &app::user_name()).await?;
            if global.json {
                return output::print_json(&json!({ "released": released }));
            }
            let jobs = output::count(usize::try_from(released).unwrap_or(usize::MAX), "parked job");
            output::print(&match label {
                None => format!("{jobs} let go; a worker sends them back as room allows"),
                Some(_) => format!(
                    "{jobs} let go, what led to that is noted; a worker sends them back a tenth at a time, and \
                     a run takes them up when it is run again"
                ),
            })
        }
    }
}

/// What a person says a trip of the loop guard was.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LabelArg {
    /// A loop
    Loop,
    /// Meant to be so
    Planned,
    /// Nothing worth stopping
    FalsePositive,
}

impl From<LabelArg> for GuardLabel {
    fn from(label: LabelArg) -> Self {
        match label {
            LabelArg::Loop => Self::Loop,
            LabelArg::Planned => Self::Planned,
            LabelArg::FalsePositive => Self::FalsePositive,
        }
    }
}

fn guard_rule(word: &str) -> Result<GuardRule, Failed> {
    GuardRule::ALL.iter().copied().find(|rule| rule.as_str() == word).ok_or_else(|| {
        let rules: Vec<_> = GuardRule::ALL.iter().map(|rule| rule.as_str()).collect();
        Failed::usage(format!("--rule {word}: no rule of the loop guard; there are {}", rules.join(", ")))
    })
}

/// What the guard parked needs a label; whoever asks for such jobs by name is told so.
async fn refuse_guarded(admin: &Admin, which: &ReleaseFilter) -> Result<(), Failed> {
    if which.label.is_some() {
        return Ok(());
    }
    let labelled = ReleaseFilter { label: Some(GuardLabel::Loop), ..which.clone() };
    let parked = admin.reports.parked(which.project.as_ref()).await?;
    let held = |row: &&ParkedRow| {
        matches!(row.reason, ParkReason::Guard { .. }) && labelled.means(&row.job, &row.reason)
    };
    let others = parked.iter().any(|row| which.means(&row.job, &row.reason));
    let Some(first) = parked.iter().find(held).filter(|_| !others) else { return Ok(()) };
    Err(Failed::usage(format!(
        "{}: {}; say what it was with --as loop, planned or false-positive",
        first.job,
        first.reason.sentence()
    )))
}

async fn of(admin: &Admin, name: Option<&str>) -> Result<Option<ProjectId>, Failed> {
    match name {
        Some(name) => Ok(Some(project::find(admin, name).await?.id)),
        None => Ok(None),
    }
}

/// The project that a person named, or the only one that has the job.
pub(super) async fn project_of(admin: &Admin, named: Option<&str>, job: &str) -> Result<ProjectId, Failed> {
    match of(admin, named).await? {
        Some(project) => Ok(project),
        None => only_project(admin, job).await,
    }
}

/// The project of a job that is named by its id alone.
async fn only_project(admin: &Admin, job: &str) -> Result<ProjectId, Failed> {
    let found = admin.reports.history(&JobId::from(job), None).await?;
    let mut projects: Vec<_> = found.into_iter().map(|job| job.key.project).collect();
    if projects.is_empty() {
        projects = admin.directory.projects().await?.into_iter().map(|project| project.id).collect();
        projects.retain(|project| *project != ProjectId::account());
    }
    match projects.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failed::usage("the store has no projects yet, so it has no jobs either")),
        several => {
            let names: Vec<_> = several.iter().map(ProjectId::as_str).collect();
            Err(Failed::usage(format!("whose job `{job}`? Say --project, one of {}", names.join(", "))))
        }
    }
}

fn list(global: &Global, rows: &[JobRow]) -> Result<(), Failed> {
    if global.json {
        return output::print_json(&rows);
    }
    if rows.is_empty() {
        output::say("no such jobs");
        return Ok(());
    }
    let row = |row: &JobRow| {
        let why = row.parked.as_ref().map_or_else(String::new, |reason| match reason.until() {
            Some(until) => format!("{}, until {}", reason.sentence(), output::time_utc(until)),
            None => reason.sentence(),
        });
        vec![
            clean(row.job.id.as_str()),
            row.job.project.to_string(),
            row.task.to_string(),
            row.state.as_str().to_owned(),
            output::time_utc(row.accepted_at),
            row.attempts.to_string(),
            clean(&why),
        ]
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    output::table(&["job", "project", "task", "state", "accepted", "calls", "waits for"], &rows)
}

async fn cancel(global: &Global, admin: &Admin, key: JobKey) -> Result<(), Failed> {
    let outcome = admin.jobs.cancel(&key, &app::user_name()).await?;
    if global.json {
        let (cancelled, state) = match outcome {
            Cancel::Cancelled => (true, "cancelled"),
            Cancel::Noted => (true, "noted"),
            Cancel::Finished(status) => (false, status.as_str()),
        };
        return output::print_json(&json!({
            "id": key.id, "project": key.project, "cancelled": cancelled, "state": state,
        }));
    }
    output::print(&match outcome {
        Cancel::Cancelled => format!("{} is cancelled; a call under way runs to its end", key.id),
        Cancel::Noted => {
            format!("the store has not seen {} yet; it is cancelled when it comes", key.id)
        }
        Cancel::Finished(status) => format!("{} is {} already", key.id, status.as_str()),
    })
}
