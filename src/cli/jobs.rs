//! `outlay jobs`: what the store knows of jobs, and what a person does to those that wait.

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::output::{self, clean};
use super::{Global, explain, project};
use crate::app::{self, Admin, Failed};
use crate::ports::jobs::{Cancel, JobFilter, JobRow, JobState, ReleaseFilter};
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
        #[arg(required_unless_present_any = ["project", "all"])]
        jobs: Vec<String>,
        /// All of this project's, or those of the ids that are its
        #[arg(long, value_name = "P")]
        project: Option<String>,
        /// All parked jobs of all projects
        #[arg(long, conflicts_with_all = ["jobs", "project"])]
        all: bool,
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
            let project = match of(&admin, project.as_deref()).await? {
                Some(project) => project,
                None => only_project(&admin, job).await?,
            };
            cancel(global, &admin, JobKey { project, id: JobId::from(job.as_str()) }).await
        }
        JobsCommand::Release { jobs, project, .. } => {
            let which = ReleaseFilter {
                ids: jobs.iter().map(|id| JobId::from(id.as_str())).collect(),
                project: of(&admin, project.as_deref()).await?,
            };
            let released = admin.jobs.release(&which, &app::user_name()).await?;
            if global.json {
                return output::print_json(&json!({ "released": released }));
            }
            let jobs = output::count(usize::try_from(released).unwrap_or(usize::MAX), "parked job");
            output::print(&format!("{jobs} let go; a worker sends them back as room allows"))
        }
    }
}

async fn of(admin: &Admin, name: Option<&str>) -> Result<Option<ProjectId>, Failed> {
    match name {
        Some(name) => Ok(Some(project::find(admin, name).await?.id)),
        None => Ok(None),
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
