//! Who of those that wait for a provider goes next.
//!
//! A line for each model, in it a line for each project. Projects take turns by deficit round-robin,
//! in the variant in which whoever has any credit left may go and pays afterwards (a "surplus round
//! robin"): a large request then has not to wait until enough credit has come together. Models take
//! turns in the same way, each with as much credit as it has projects waiting. Within a project the
//! earliest deadline is first. A request that is a good part of a minute's limit would be overtaken
//! by small ones for ever; after [`PATIENCE`] it is the head of its project.
//!
//! Costs and credits are nanoseconds at the pace of the limit.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::types::{Mono, ProjectId};

/// Credit of one turn: far below what a turn's call costs under most limits.
const QUANTUM: i64 = 10_000_000;
/// The cost of a call that only needs a slot.
pub const COST_OF_A_SLOT: u64 = 10_000_000;
/// How long a large request gives way to small ones of its project.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// A job without a deadline queues as if it had this one.
const DEADLINE_ASSUMED: Duration = Duration::from_secs(3600);

/// What asks for a place.
#[derive(Debug, Clone, Copy)]
pub struct Joining<'a> {
    /// Which model's line.
    pub line: usize,
    /// Who pays.
    pub project: &'a ProjectId,
    /// Nanoseconds at the pace of the limit.
    pub cost: u64,
    /// Whether it is a good part of a minute's limit.
    pub large: bool,
    /// When its answer stops being useful.
    pub deadline: Option<Mono>,
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    line: usize,
    large: bool,
    order: (Mono, u64),
}

/// Somebody who waits, found by [`Dispatch::next`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    project: ProjectId,
    place: Place,
}

impl Head {
    /// Which model's line it stands in.
    #[must_use]
    pub fn line(&self) -> usize {
        self.place.line
    }

    /// Whether it is a good part of a minute's limit.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.place.large
    }
}

/// All who wait for one provider.
#[derive(Debug)]
pub struct Dispatch<T> {
    lines: Vec<Line<T>>,
    turns: Turns<usize>,
    numbers: u64,
    waiting: usize,
    /// Projects that wait, counted once for each line.
    flows: usize,
    cost: u64,
}

#[derive(Debug)]
struct Line<T> {
    flows: HashMap<ProjectId, Flow<T>>,
    turns: Turns<ProjectId>,
    cost: u64,
}

#[derive(Debug)]
struct Flow<T> {
    small: BTreeMap<(Mono, u64), Waiting<T>>,
    /// By the time of joining.
    large: BTreeMap<(Mono, u64), Waiting<T>>,
    cost: u64,
    /// What the small ones are to be served before a large one may overtake them again.
    owed_to_small: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    cost: u64,
    due: Mono,
    joined: Mono,
}

impl<T> Dispatch<T> {
    /// Nobody waits in any of `lines` lines.
    #[must_use]
    pub fn new(lines: usize) -> Self {
        let line = || Line { flows: HashMap::new(), turns: Turns::default(), cost: 0 };
        Self {
            lines: (0..lines).map(|_| line()).collect(),
            turns: Turns::default(),
            numbers: 0,
            waiting: 0,
            flows: 0,
            cost: 0,
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Queues up.
    ///
    /// # Panics
    /// When there is no such line.
    pub fn join(&mut self, joining: &Joining<'_>, item: T, now: Mono) -> Place {
        let Joining { line, project, cost, large, deadline } = *joining;
        let due = deadline.unwrap_or(now + DEADLINE_ASSUMED);
        self.numbers += 1;
        let order = (if large { now } else { due }, self.numbers);
        self.turns.join(&line, now);
        let in_line = &mut self.lines[line];
        in_line.turns.join(project, now);
        let flow = match in_line.flows.get_mut(project) {
            Some(flow) => flow,
            None => in_line.flows.entry(project.clone()).or_default(),
        };
        self.flows += usize::from(flow.is_empty());
        flow.queue(large).insert(order, Waiting { item, cost, due, joined: now });
        flow.cost += cost;
        in_line.cost += cost;
        self.cost += cost;
        self.waiting += 1;
        Place { line, large, order }
    }

    /// Leaves without having been served; `None` for whoever is not there any more.
    pub fn leave(&mut self, project: &ProjectId, place: Place, now: Mono) -> Option<T> {
        self.remove(project, place, now).map(|waiting| waiting.item)
    }

    /// Takes the head out, served: its project pays.
    pub fn take(&mut self, head: &Head, now: Mono) -> Option<T> {
        let place = head.place;
        let line = self.lines.get_mut(place.line)?;
        let flow = line.flows.get_mut(&head.project)?;
        let cost = flow.queue(place.large).get(&place.order)?.cost;
        if !place.large {
            flow.owed_to_small = flow.owed_to_small.saturating_sub(cost);
        } else if !flow.small.is_empty() {
            flow.owed_to_small = flow.owed_to_small.saturating_add(cost);
        }
        line.turns.pay(&head.project, cost);
        self.turns.pay(&place.line, cost);
        self.remove(&head.project, place, now).map(|waiting| waiting.item)
    }

    /// Takes the head out unserved.
    pub fn dismiss(&mut self, head: &Head, now: Mono) -> Option<T> {
        self.leave(&head.project, head.place, now)
    }

    fn remove(&mut self, project: &ProjectId, place: Place, now: Mono) -> Option<Waiting<T>> {
        let line = self.lines.get_mut(place.line)?;
        let flow = line.flows.get_mut(project)?;
        let waiting = flow.queue(place.large).remove(&place.order)?;
        flow.cost -= waiting.cost;
        line.cost -= waiting.cost;
        self.cost -= waiting.cost;
        self.waiting -= 1;
        if flow.is_empty() {
            self.flows -= 1;
            line.flows.remove(project);
            line.turns.leave(project, now);
            if line.flows.is_empty() {
                self.turns.leave(&place.line, now);
            }
        }
        Some(waiting)
    }

    /// Whose turn it is among the lines that are `open`. The same one is told until it was taken, or
    /// somebody in its project is more urgent.
    pub fn next(&mut self, now: Mono, open: impl Fn(usize) -> bool) -> Option<Head> {
        let lines = &self.lines;
        let weight = |line: &usize| i64::try_from(lines[*line].turns.len()).unwrap_or(1);
        let line = *self.turns.next(|line| open(*line), weight)?;
        let in_line = &mut self.lines[line];
        let project = in_line.turns.next(|_| true, |_| 1)?.clone();
        let (large, order) = in_line.flows.get(&project)?.head(now)?;
        Some(Head { project, place: Place { line, large, order } })
    }

    /// What a head asked for.
    #[must_use]
    pub fn get(&self, head: &Head) -> Option<&T> {
        let flow = self.lines.get(head.place.line)?.flows.get(&head.project)?;
        let queue = if head.place.large { &flow.large } else { &flow.small };
        queue.get(&head.place.order).map(|waiting| &waiting.item)
    }

    /// The first small request of each project beside `head`, whoever has most credit first: what may
    /// go while a large one waits for room, if it does not make it wait any longer.
    #[must_use]
    pub fn beside(&self, head: &Head) -> Vec<Head> {
        let mut heads = Vec::new();
        for (line, in_line) in self.lines.iter().enumerate() {
            for turn in &in_line.turns.present {
                let first = in_line.flows.get(&turn.key).and_then(|flow| flow.small.keys().next());
                let place = first.map(|order| Place { line, large: false, order: *order });
                if let Some(place) = place.filter(|place| *place != head.place) {
                    heads.push((turn.credit, Head { project: turn.key.clone(), place }));
                }
            }
        }
        heads.sort_by_key(|(credit, _)| std::cmp::Reverse(*credit));
        heads.into_iter().map(|(_, head)| head).collect()
    }

    /// Everything that waits in one line.
    pub fn in_line(&self, line: usize) -> impl Iterator<Item = &T> {
        let flows = self.lines.get(line).into_iter().flat_map(|line| line.flows.values());
        flows.flat_map(|flow| flow.small.values().chain(flow.large.values())).map(|waiting| &waiting.item)
    }

    /// The work that is done before a newcomer of `project`: what its project waits for, and as much
    /// of every other one's, but not more than there is. In nanoseconds at the pace of the limit.
    #[must_use]
    pub fn ahead(&self, line: usize, project: &ProjectId) -> u64 {
        self.ahead_of(line, project, self.flows, self.cost)
    }

    /// The same within its own line, where that has a limit of its own.
    #[must_use]
    pub fn ahead_in_line(&self, line: usize, project: &ProjectId) -> u64 {
        let Some(in_line) = self.lines.get(line) else { return 0 };
        self.ahead_of(line, project, in_line.flows.len(), in_line.cost)
    }

    fn ahead_of(&self, line: usize, project: &ProjectId, flows: usize, all: u64) -> u64 {
        let own = self.lines.get(line).and_then(|line| line.flows.get(project)).map(|flow| flow.cost);
        let others = flows.saturating_sub(usize::from(own.is_some()));
        let own = own.unwrap_or(0);
        // Every other project may have one call before this one's turn, whatever that call costs.
        let theirs = own.saturating_add(COST_OF_A_SLOT).saturating_mul(others as u64);
        all.min(own.saturating_add(theirs))
    }
}

impl<T> Default for Flow<T> {
    fn default() -> Self {
        Self { small: BTreeMap::new(), large: BTreeMap::new(), cost: 0, owed_to_small: 0 }
    }
}

impl<T> Flow<T> {
    fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    fn queue(&mut self, large: bool) -> &mut BTreeMap<(Mono, u64), Waiting<T>> {
        if large { &mut self.large } else { &mut self.small }
    }

    fn head(&self, now: Mono) -> Option<(bool, (Mono, u64))> {
        let small = self.small.keys().next().copied();
        // Whoever has waited longest or is most urgent; the former are few, so a scan is cheap.
        let urgent = self.large.iter().min_by_key(|(order, waiting)| (waiting.due, order.1));
        let Some(small) = small else { return urgent.map(|(order, _)| (true, *order)) };
        if let Some((order, waiting)) = self.large.iter().next()
            && now.since(waiting.joined) >= PATIENCE
            && self.owed_to_small == 0
        {
            return Some((true, *order));
        }
        match urgent {
            Some((order, waiting)) if (waiting.due, order.1) < small => Some((true, *order)),
            _ => Some((false, small)),
        }
    }
}

/// Deficit round-robin over keys.
#[derive(Debug)]
struct Turns<K> {
    present: Vec<Turn<K>>,
    /// Who left in debt, and when: a debt fades at the pace at which it was made.
    absent: HashMap<K, (i64, Mono)>,
}

#[derive(Debug)]
struct Turn<K> {
    key: K,
    credit: i64,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { present: Vec::new(), absent: HashMap::new() }
    }
}

impl<K: Eq + std::hash::Hash + Clone> Turns<K> {
    /// More debts than this are looked through for faded ones.
    const ABSENT_MAX: usize = 1024;

    fn len(&self) -> usize {
        self.present.len()
    }

    fn join(&mut self, key: &K, now: Mono) {
        if self.present.iter().any(|turn| turn.key == *key) {
            return;
        }
        let debt = self.absent.remove(key).map_or(0, |(debt, since)| faded(debt, since, now));
        self.present.push(Turn { key: key.clone(), credit: QUANTUM + debt });
    }

    fn leave(&mut self, key: &K, now: Mono) {
        let Some(at) = self.present.iter().position(|turn| turn.key == *key) else { return };
        let turn = self.present.remove(at);
        // The credit that came with joining does not come again with each joining.
        let debt = (turn.credit - QUANTUM).min(0);
        if debt < 0 {
            if self.absent.len() >= Self::ABSENT_MAX {
                self.absent.retain(|_, (debt, since)| faded(*debt, *since, now) < 0);
            }
            self.absent.insert(turn.key, (debt, now));
        }
    }

    /// The first that has credit; when nobody has any, all are given as many turns as the least
    /// indebted one needs.
    fn next(&mut self, eligible: impl Fn(&K) -> bool, weight: impl Fn(&K) -> i64) -> Option<&K> {
        let at = |turns: &[Turn<K>]| turns.iter().position(|turn| turn.credit > 0 && eligible(&turn.key));
        if at(&self.present).is_none() {
            let eligible = self.present.iter().filter(|turn| eligible(&turn.key));
            let rounds =
                eligible.map(|turn| -turn.credit / (QUANTUM * weight(&turn.key).max(1)) + 1).min()?;
            for turn in &mut self.present {
                // Whoever may not go now does not save up for later either.
                let credit = turn.credit.saturating_add(rounds * QUANTUM * weight(&turn.key).max(1));
                turn.credit = credit.min(turn.credit.max(QUANTUM * weight(&turn.key).max(1)));
            }
        }
        at(&self.present).map(|at| &self.present[at].key)
    }

    fn pay(&mut self, key: &K, cost: u64) {
        let Some(at) = self.present.iter().position(|turn| turn.key == *key) else { return };
        let turn = &mut self.present[at];
        turn.credit = turn.credit.saturating_sub(i64::try_from(cost).unwrap_or(i64::MAX));
        if turn.credit <= 0 {
            self.present[at..].rotate_left(1);
        }
    }
}

fn faded(debt: i64, since: Mono, now: Mono) -> i64 {
    let gone = i64::try_from(now.since(since).as_nanos()).unwrap_or(i64::MAX);
    debt.saturating_add(gone).min(0)
}

#[cfg(test)]
mod tests;
