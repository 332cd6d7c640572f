//! `outlay project`: what the store knows of its projects, and their stop switch.

use clap::Subcommand;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::output::{self, clean};
use super::{Global, budget};
use crate::app::{self, Admin, Failed};
use crate::types::evidence::Pin;
use crate::types::ledger::{OnCap, Project};

/// What to do with projects.
#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// List all projects
    List,
    /// Show one project, and which models its jobs keep to
    Show {
        /// The project
        project: String,
    },
    /// Stop a project: no further call is made for it, and its jobs are parked
    Pause {
        /// The project
        project: String,
        /// Why, for whoever asks later
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a stopped project go on
    Resume {
        /// The project
        project: String,
    },
}

/// What `show` answers.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    project: &'a Project,
    pins: &'a [Pin],
}

/// What `pause` and `resume` answer.
#[derive(Debug, Serialize)]
struct Switched<'a> {
    project: &'a str,
    was_stopped: Option<&'a str>,
    stopped: Option<&'a str>,
}

pub(super) async fn run(global: &Global, command: &ProjectCommand) -> Result<(), Failed> {
    let admin = app::open_admin(&global.options(), false).await?;
    match command {
        ProjectCommand::List => list(global, &admin).await,
        ProjectCommand::Show { project } => show(global, &admin, project).await,
        ProjectCommand::Pause { project, reason } => {
            let who = app::user_name();
            let reason = reason.clone().unwrap_or_else(|| format!("paused by {who}"));
            switch(global, &admin, project, Some(&reason), &who).await
        }
        ProjectCommand::Resume { project } => switch(global, &admin, project, None, &app::user_name()).await,
    }
}

/// Looks a project up by name.
///
/// # Errors
/// An unknown one: names the nearest and lists them all.
pub(super) async fn find(admin: &Admin, name: &str) -> Result<Project, Failed> {
    let mut projects = admin.directory.projects().await?;
    if let Some(at) = projects.iter().position(|project| project.id.as_str() == name) {
        return Ok(projects.swap_remove(at));
    }
    let known: Vec<_> = projects.iter().map(|project| project.id.as_str()).collect();
    Err(output::unknown("project", name, &known))
}

async fn list(global: &Global, admin: &Admin) -> Result<(), Failed> {
    let projects = admin.directory.projects().await?;
    if global.json {
        return output::print_json(&projects);
    }
    if projects.is_empty() {
        output::say("no projects yet: `outlay run` creates those that the configuration names");
        return Ok(());
    }
    output::table(&["project", "state", "over the cap", "time zone", "caps"], &rows(&projects))
}

async fn show(global: &Global, admin: &Admin, name: &str) -> Result<(), Failed> {
    let project = find(admin, name).await?;
    let mut pins = admin.shared.pins().await?;
    pins.retain(|pin| pin.scope.project == project.id);
    if global.json {
        return output::print_json(&Shown { project: &project, pins: &pins });
    }
    output::table(
        &["project", "state", "over the cap", "time zone", "caps"],
        &rows(std::slice::from_ref(&project)),
    )?;
    if pins.is_empty() {
        return Ok(());
    }
    let zone = output::zone_of(&project.time_zone);
    output::table(&["jobs of", "keep to", "since", "switches"], &pin_rows(&pins, &zone))
}

fn pin_rows(pins: &[Pin], zone: &TimeZone) -> Vec<Vec<String>> {
    let row = |pin: &Pin| {
        vec![
            pin.scope.task.as_ref().map_or_else(|| "every task".to_owned(), ToString::to_string),
            pin.model.to_string(),
            output::time_in(pin.since, zone),
            pin.switches.to_string(),
        ]
    };
    pins.iter().map(row).collect()
}

fn rows(projects: &[Project]) -> Vec<Vec<String>> {
    let on_cap = |project: &Project| match project.on_cap {
        OnCap::Park => "park",
        OnCap::Fail => "fail",
    };
    let row = |project: &Project| {
        vec![
            project.id.to_string(),
            state(project),
            on_cap(project).to_owned(),
            project.time_zone.clone(),
            budget::caps_in_words(project),
        ]
    };
    projects.iter().map(row).collect()
}

/// `running`, or that it is stopped and why.
pub(super) fn state(project: &Project) -> String {
    match &project.stopped {
        Some(reason) => format!("stopped: {}", clean(reason)),
        None => "running".to_owned(),
    }
}

async fn switch(
    global: &Global,
    admin: &Admin,
    name: &str,
    reason: Option<&str>,
    who: &str,
) -> Result<(), Failed> {
    let project = find(admin, name).await?;
    let was = project.stopped.as_deref();
    // A project that runs already needs no second event that says so.
    let changes = reason.is_some() || was.is_some();
    if changes && !admin.directory.set_stopped(&project.id, reason, who).await? {
        return Err(Failed::usage(format!("project `{name}` is gone")));
    }
    if global.json {
        return output::print_json(&Switched { project: name, was_stopped: was, stopped: reason });
    }
    output::print(&clean(&sentence(name, was, reason)))
}

fn sentence(name: &str, was: Option<&str>, reason: Option<&str>) -> String {
    match (was, reason) {
        (None, None) => format!("{name} is not stopped"),
        (Some(was), None) => format!("{name} goes on (it was stopped: {was})"),
        (_, Some(reason)) => {
            format!(
                "{name} is stopped: {reason}. Calls under way run to their end; `outlay project resume {name}` lets it go on"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NanoUsd;
    use crate::types::ledger::Caps;

    #[test]
    fn a_row_tells_state_and_caps() {
        let project = Project {
            id: "inbox".into(),
            time_zone: "UTC".into(),
            on_cap: OnCap::Park,
            uncapped: false,
            caps: Caps { day: Some(NanoUsd(5_000_000_000)), month: None, total: None },
            stopped: Some("a bill\nabove its hold".into()),
        };
        let expected = ["inbox", "stopped: a bill above its hold", "park", "UTC", "$5.00 a day"];
        assert_eq!(rows(&[project]), [expected.map(str::to_owned)]);
    }

    #[test]
    fn resuming_what_runs_is_told_apart() {
        assert_eq!(sentence("p", None, None), "p is not stopped");
        assert_eq!(sentence("p", Some("tea"), None), "p goes on (it was stopped: tea)");
        assert!(sentence("p", None, Some("tea")).contains("outlay project resume p"));
    }
}
