//! A set of budget windows in memory: what a store reads, changes by the rules and writes back.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::tz::TimeZone;

use super::budget::{self, Change, Fit, Period, Window};
use crate::types::ledger::{Caps, OnCap, Project, WindowKind};
use crate::types::{NanoUsd, ProjectId, Wall, WindowId};

/// A project whose time zone has been found.
#[derive(Debug, Clone)]
pub struct Payer {
    /// The project.
    pub project: Project,
    /// Where its days and months turn.
    pub zone: TimeZone,
}

impl Payer {
    /// Finds the project's time zone.
    ///
    /// # Errors
    /// When there is no time zone of that name; the message names both.
    pub fn new(project: Project) -> Result<Self, String> {
        match TimeZone::get(&project.time_zone) {
            Ok(zone) => Ok(Self { project, zone }),
            Err(_) => Err(format!("project `{}`: there is no time zone `{}`", project.id, project.time_zone)),
        }
    }

    /// The account as long as nobody has said anything about it: no cap, days in UTC.
    #[must_use]
    pub fn account() -> Self {
        let project = Project {
            id: ProjectId::account(),
            time_zone: "UTC".to_owned(),
            on_cap: OnCap::Park,
            uncapped: true,
            caps: Caps::default(),
            stopped: None,
        };
        Self { project, zone: TimeZone::UTC }
    }
}

/// Windows by id, with what was opened and what was changed since they were read.
#[derive(Debug, Clone, Default)]
pub struct Book {
    windows: BTreeMap<WindowId, Window>,
    standing: HashMap<(ProjectId, WindowKind, Wall), WindowId>,
    id_next: i64,
    opened: BTreeSet<WindowId>,
    touched: BTreeSet<WindowId>,
}

impl Book {
    /// A book of `windows`; new ones are numbered from `id_next`.
    #[must_use]
    pub fn new(windows: impl IntoIterator<Item = Window>, id_next: i64) -> Self {
        let mut book = Self { id_next, ..Self::default() };
        for window in windows {
            book.insert(window);
        }
        book
    }

    /// All windows, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Window> {
        self.windows.values()
    }

    /// Opens the window of one run.
    pub fn open_run(&mut self, cap: Option<NanoUsd>) -> WindowId {
        self.open(ProjectId::account(), WindowKind::Run, Period { starts_at: Wall(0), ends_at: None }, cap)
    }

    /// The standing windows of a project that `[now, until]` reaches into; missing ones are opened.
    pub fn standing(&mut self, payer: &Payer, now: Wall, until: Wall) -> Vec<WindowId> {
        let mut found = Vec::with_capacity(WindowKind::STANDING.len());
        for kind in WindowKind::STANDING {
            for period in budget::periods(kind, now, until, &payer.zone) {
                let key = (payer.project.id.clone(), kind, period.starts_at);
                let id = match self.standing.get(&key) {
                    Some(id) => *id,
                    None => self.open(key.0, kind, period, payer.project.caps.get(kind)),
                };
                found.push(id);
            }
        }
        found
    }

    /// Every window that a call is charged to: the account's, the run's, then the project's.
    pub fn charged(
        &mut self,
        account: &Payer,
        run: Option<WindowId>,
        payer: &Payer,
        now: Wall,
        until: Wall,
    ) -> Vec<WindowId> {
        let mut ids = self.standing(account, now, until);
        ids.extend(run);
        if payer.project.id != account.project.id {
            ids.extend(self.standing(payer, now, until));
        }
        ids
    }

    /// Whether `hold` fits all of `ids`.
    #[must_use]
    pub fn fit(&self, ids: &[WindowId], hold: NanoUsd) -> Fit {
        budget::fit(ids.iter().filter_map(|id| self.windows.get(id)), hold)
    }

    /// Adds a hold that was found to fit.
    pub fn hold(&mut self, ids: &[WindowId], hold: NanoUsd) {
        // A call that costs nothing fits even where a cap was lowered below what is committed.
        if hold > NanoUsd::ZERO {
            self.change(ids, |window| window.hold(hold));
        }
    }

    /// Moves an attempt's money in each of its windows.
    pub fn apply(&mut self, ids: &[WindowId], change: Change) {
        self.change(ids, |window| window.apply(change));
    }

    /// Gives every window of a kind that is not over at `now` another cap.
    pub fn set_cap(&mut self, project: &ProjectId, kind: WindowKind, cap: Option<NanoUsd>, now: Wall) {
        let open =
            |w: &&Window| w.kind == kind && w.project == *project && w.ends_at.is_none_or(|end| end > now);
        let ids: Vec<_> = self.windows.values().filter(open).map(|w| w.id).collect();
        self.change(&ids, |window| window.cap = cap);
    }

    /// Windows that were opened since the book was made, as they are now.
    pub fn opened(&self) -> impl Iterator<Item = &Window> {
        self.opened.iter().filter_map(|id| self.windows.get(id))
    }

    /// Windows whose sums or cap changed since the book was made.
    pub fn touched(&self) -> impl Iterator<Item = &Window> {
        self.touched.iter().filter_map(|id| self.windows.get(id))
    }

    /// The windows with these ids, in their order.
    pub fn pick(&self, ids: &[WindowId]) -> impl Iterator<Item = &Window> {
        ids.iter().filter_map(|id| self.windows.get(id))
    }

    fn change(&mut self, ids: &[WindowId], by: impl Fn(&mut Window)) {
        for id in ids {
            if let Some(window) = self.windows.get_mut(id) {
                by(window);
                self.touched.insert(*id);
            }
        }
    }

    fn open(
        &mut self,
        project: ProjectId,
        kind: WindowKind,
        period: Period,
        cap: Option<NanoUsd>,
    ) -> WindowId {
        let id = WindowId(self.id_next);
        self.insert(Window::empty(id, project, kind, period, cap));
        self.opened.insert(id);
        id
    }

    fn insert(&mut self, window: Window) {
        self.id_next = self.id_next.max(window.id.0 + 1);
        // Run windows start together and are told apart by their session.
        if window.kind != WindowKind::Run {
            self.standing.insert((window.project.clone(), window.kind, window.starts_at), window.id);
        }
        self.windows.insert(window.id, window);
    }
}
