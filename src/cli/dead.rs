//! `outlay dead`: messages that were given up, each with the reason.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::Global;
use super::output::{self, clean};
use crate::app::{self, Dead, DeadWhich, Failed};
use crate::types::Wall;
use crate::types::job::Class;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List dead letters, the oldest first
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show one with its body
    Show {
        /// The message's id
        id: String,
    },
    /// Send dead letters back into their lanes, once what killed them is mended
    Redrive(Selection),
    /// Throw dead letters away
    Discard(Selection),
}

/// Which dead letters.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Selection {
    /// Their messages' ids
    ids: Vec<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl Selection {
    fn which(&self) -> DeadWhich {
        if self.all { DeadWhich::All } else { DeadWhich::Ids(self.ids.clone()) }
    }
}

pub(super) async fn run(global: &Global, command: &DeadCommand) -> Result<(), Failed> {
    let dead = app::dead_letters(&global.options()).await?;
    match command {
        DeadCommand::List { limit } => {
            list(global, &dead.list(&DeadWhich::All, *limit).await.map_err(Failed::from)?)
        }
        DeadCommand::Show { id } => {
            let found = dead.show(id).await.map_err(Failed::from)?;
            let Some(letter) = found else {
                return Err(Failed { code: 1, message: format!("there is no dead letter `{id}`") });
            };
            show(global, &letter)
        }
        DeadCommand::Redrive(selection) => {
            let moved = dead.redrive(&selection.which()).await.map_err(Failed::from)?;
            told(global, "redriven", moved, "sent back into their lanes")
        }
        DeadCommand::Discard(selection) => {
            let gone = dead.discard(&selection.which()).await.map_err(Failed::from)?;
            told(global, "discarded", gone, "thrown away")
        }
    }
}

/// A dead letter as `--json` prints it; its body only when it is asked for by name.
#[derive(Debug, Serialize)]
struct View<'a> {
    id: Option<&'a str>,
    project: Option<&'a str>,
    lane: Class,
    reason: &'a str,
    first_enqueued: Option<Wall>,
    attempt: u32,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

impl<'a> View<'a> {
    fn of(letter: &'a Dead, with_body: bool) -> Self {
        Self {
            id: letter.id.as_deref(),
            project: letter.project.as_deref(),
            lane: letter.lane,
            reason: &letter.reason,
            first_enqueued: letter.first_enqueued,
            attempt: letter.attempt,
            bytes: letter.body.len(),
            body: with_body.then(|| String::from_utf8_lossy(&letter.body).into_owned()),
        }
    }
}

fn told(global: &Global, field: &str, n: u64, words: &str) -> Result<(), Failed> {
    if global.json {
        return output::print_json(&json!({ field: n }));
    }
    output::print(&format!(
        "{} {words}",
        output::count(usize::try_from(n).unwrap_or(usize::MAX), "dead letter")
    ))
}

fn list(global: &Global, letters: &[Dead]) -> Result<(), Failed> {
    if global.json {
        return output::print_json(&letters.iter().map(|letter| View::of(letter, false)).collect::<Vec<_>>());
    }
    if letters.is_empty() {
        output::say("no dead letters");
        return Ok(());
    }
    let row = |letter: &Dead| {
        vec![
            clean(letter.id.as_deref().unwrap_or("-")),
            letter.lane.as_str().to_owned(),
            clean(&letter.reason),
            letter.body.len().to_string(),
        ]
    };
    output::table(&["message", "lane", "reason", "bytes"], &letters.iter().map(row).collect::<Vec<_>>())
}

fn show(global: &Global, letter: &Dead) -> Result<(), Failed> {
    if global.json {
        return output::print_json(&View::of(letter, true));
    }
    output::print(&format!("message {}", clean(letter.id.as_deref().unwrap_or("without an id"))))?;
    output::print(&format!("lane    {}", letter.lane.as_str()))?;
    output::print(&format!("reason  {}", clean(&letter.reason)))?;
    output::print(&output::clean_lines(&String::from_utf8_lossy(&letter.body)))
}
