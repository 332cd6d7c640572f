//! What several pages ask the ports for: projects with their open windows and the pace of their money.

use std::collections::HashMap;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::frame::{Refusal, Visitor};
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::policy::budget::{Window, period};
use crate::policy::burn_down::{BurnDown, Hours, burn_down};
use crate::policy::wording::zone_of;
use crate::ports::StoreError;
use crate::ports::figures::{Fresh, Grain, SpendAsk};
use crate::types::ledger::{Caps, OnCap, Project, WindowKind};
use crate::types::{NanoUsd, ProjectId, Wall, WindowId};

/// How far back hours are asked for: a day of any time zone, and what the pace needs.
const BACK: Duration = Duration::from_secs(32 * 3600);

/// A project, its windows that are open now, and where they go.
pub(super) struct Account {
    pub(super) project: Project,
    pub(super) zone: TimeZone,
    /// Day, month and total, each with its course where it has a cap.
    pub(super) windows: Vec<(Window, Option<BurnDown>)>,
}

impl Account {
    /// The window of a kind; every account has each of the standing ones.
    pub(super) fn window(&self, kind: WindowKind) -> Option<&(Window, Option<BurnDown>)> {
        self.windows.iter().find(|(window, _)| window.kind == kind)
    }
}

/// All accounts that somebody may look at, by name: projects, and the account over all of them where it has a
/// cap or the visitor sees everything. Sums come from the hourly rollup and windows in one question a kind, so
/// that this costs the same however much happened.
pub(super) async fn accounts(parts: &Parts, visitor: &Visitor) -> Result<Vec<Account>, Refusal> {
    let now = parts.clock.now().wall;
    let mut projects = projects(parts, visitor).await?;
    projects.retain(|project| may_see(visitor, &project.id));
    let hours = hours(parts, visitor.own(), now).await?;
    let mut open: HashMap<(ProjectId, WindowKind), Window> = HashMap::new();
    for kind in WindowKind::STANDING {
        for window in parts.figures.past_windows(visitor.own(), kind, now).await? {
            // A call that can run past midnight opens the next day too.
            if window.starts_at <= now {
                open.insert((window.project.clone(), kind), window);
            }
        }
    }
    let account = |project: Project| {
        let zone = zone_of(&project.time_zone);
        let window = |kind: WindowKind| {
            let found = open.get(&(project.id.clone(), kind)).cloned();
            let window = found.unwrap_or_else(|| unopened(&project, kind, &zone, now));
            let used = hours.get(&project.id).map_or(&[][..], Vec::as_slice);
            let course = burn_down(&window, Hours { since: now - BACK, used }, now);
            (window, course)
        };
        let windows = WindowKind::STANDING.map(window).into_iter().collect();
        Account { zone: zone.clone(), windows, project }
    };
    Ok(projects.into_iter().map(account).collect())
}

/// One account by its name; nothing where there is none, or none that this visitor may know of.
pub(super) async fn account(parts: &Parts, visitor: &Visitor, name: &str) -> Result<Account, Refusal> {
    let id = ProjectId::from(name);
    let missing = || Refusal::NotFound(format!("There is no project {name} that you may look at."));
    if !may_see(visitor, &id) {
        return Err(missing());
    }
    let found = projects(parts, visitor).await?.into_iter().find(|project| project.id == id);
    let project = found.ok_or_else(missing)?;
    let now = parts.clock.now().wall;
    let zone = zone_of(&project.time_zone);
    let hours = hours(parts, (!is_account(&id)).then_some(&id), now).await?;
    let used = hours.get(&id).map_or(&[][..], Vec::as_slice);
    let windows = parts.directory.windows(&id).await?.into_iter();
    let windows = windows.filter(|window| window.kind != WindowKind::Run).map(|window| {
        let course = burn_down(&window, Hours { since: now - BACK, used }, now);
        (window, course)
    });
    Ok(Account { windows: windows.collect(), project, zone })
}

/// All projects, and the account over them for those who may see it: it bounds all of them even where nothing
/// was ever configured for it.
async fn projects(parts: &Parts, visitor: &Visitor) -> Result<Vec<Project>, Refusal> {
    let mut projects = parts.directory.projects().await?;
    if visitor.may(Action::Read, None) && !projects.iter().any(|project| is_account(&project.id)) {
        let id = ProjectId::account();
        let windows = parts.directory.windows(&id).await?;
        let cap = |kind: WindowKind| {
            windows.iter().find(|window| window.kind == kind).and_then(|window| window.cap)
        };
        let [day, month, total] = WindowKind::STANDING.map(cap);
        projects.push(Project {
            id,
            time_zone: "UTC".to_owned(),
            on_cap: OnCap::Park,
            uncapped: false,
            caps: Caps { day, month, total },
            stopped: None,
        });
    }
    Ok(projects)
}

/// What people call a project, or the account over all of them.
pub(super) fn title(id: &ProjectId) -> String {
    if is_account(id) { "all projects".to_owned() } else { id.to_string() }
}

/// Whether this is the account over all projects.
pub(super) fn is_account(id: &ProjectId) -> bool {
    id.as_str() == ProjectId::ACCOUNT
}

fn may_see(visitor: &Visitor, id: &ProjectId) -> bool {
    if is_account(id) { visitor.may(Action::Read, None) } else { visitor.sees(id) }
}

/// What projects used by the hour lately, and all of them together under the account's name.
async fn hours(
    parts: &Parts,
    only: Option<&ProjectId>,
    now: Wall,
) -> Result<HashMap<ProjectId, Vec<(Wall, NanoUsd)>>, StoreError> {
    let ask = SpendAsk {
        since: Some(now - BACK),
        until: None,
        project: only.cloned(),
        by: Grain { hour: true, project: true, ..Grain::default() },
        fresh: Fresh::Rolled,
    };
    let mut used: HashMap<ProjectId, Vec<(Wall, NanoUsd)>> = HashMap::new();
    for sum in parts.figures.spend_sums(&ask).await?.sums {
        let (Some(hour), Some(project)) = (sum.hour, sum.project) else { continue };
        let amount = sum.spent_usd + sum.presumed_usd;
        used.entry(ProjectId::account()).or_default().push((hour, amount));
        used.entry(project).or_default().push((hour, amount));
    }
    Ok(used)
}

/// The window of a project that nothing was charged to yet.
fn unopened(project: &Project, kind: WindowKind, zone: &TimeZone, now: Wall) -> Window {
    Window::empty(WindowId(0), project.id.clone(), kind, period(kind, now, zone), project.caps.get(kind))
}
