//! `outlay feedback`: how good a job's answer was, for the routing of those that follow.

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use super::{Global, jobs, output};
use crate::app::{self, Failed};
use crate::types::evidence::{Feedback, Noted, Share};
use crate::types::{JobId, JobKey, ModelId, TaskId};

/// Arguments of `outlay feedback`.
#[derive(Debug, Args)]
pub(crate) struct FeedbackArgs {
    /// The job's id
    job: String,
    /// How good its answer was: 0 for useless, 1 for perfect
    #[arg(long, value_name = "0..1")]
    score: Share,
    /// Its project [default: the only one, where there is only one]
    #[arg(long, value_name = "P")]
    project: Option<String>,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// What was counted.
#[derive(Debug, Serialize)]
struct Counted<'a> {
    job: &'a JobKey,
    score: Share,
    task: &'a TaskId,
    model: &'a ModelId,
}

pub(super) async fn run(global: &Global, args: &FeedbackArgs) -> Result<(), Failed> {
    let admin = app::open_admin(&global.options(), false).await?;
    let project = jobs::project_of(&admin, args.project.as_deref(), &args.job).await?;
    let feedback = Feedback {
        id: Uuid::now_v7().to_string(),
        job: JobKey { project, id: JobId::from(args.job.as_str()) },
        score: args.score,
        note: args.note.clone(),
        who: app::user_name(),
    };
    let job = &feedback.job;
    match admin.shared.feedback(&feedback).await? {
        Noted::Counted { task, model } if global.json => {
            output::print_json(&Counted { job, score: feedback.score, task: &task, model: &model })
        }
        Noted::Counted { task, model } => {
            let score = feedback.score.fraction();
            output::print(&output::clean(&format!("{score} counts for {model} at the task {task}")))
        }
        // Its id is new each time.
        Noted::Repeated => Ok(()),
        Noted::Unknown => {
            Err(Failed { code: 1, message: format!("{job} has no result that could be scored") })
        }
        Noted::NotAnswered => {
            Err(Failed { code: 1, message: format!("{job} ended without an answer: see `outlay explain`") })
        }
    }
}
