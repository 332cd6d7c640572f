//! Whose job is next: lanes share 8:3:1, the projects of a lane take turns.

use std::collections::{HashMap, VecDeque};

use super::topology::{LANES, index};
use crate::types::ProjectId;
use crate::types::job::Class;

/// What each lane gets of the slots while all of them have work; none of them starves.
const WEIGHTS: [i32; 3] = [8, 3, 1];

/// How many turns of others pass, at most, before what was spilled has one.
const TURNS_BEFORE_SPILLED: usize = 16;

/// Deliveries that wait for a slot.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    lanes: [Lane<T>; 3],
    /// A lane with no more than this many waiting has room for what was spilled.
    low_water: usize,
}

#[derive(Debug)]
struct Lane<T> {
    credit: i32,
    /// The projects that have something waiting, in the order of their turns.
    turns: VecDeque<ProjectId>,
    waiting: HashMap<ProjectId, VecDeque<T>>,
    len: usize,
    /// What came back from the spill queue, oldest first.
    spilled: VecDeque<T>,
    turns_since_spilled: usize,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            credit: 0,
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            len: 0,
            spilled: VecDeque::new(),
            turns_since_spilled: 0,
        }
    }
}

impl<T> Lanes<T> {
    pub(super) fn new(low_water: usize) -> Self {
        Self { lanes: [Lane::default(), Lane::default(), Lane::default()], low_water }
    }

    pub(super) fn push(&mut self, lane: Class, project: &ProjectId, item: T) {
        let lane = &mut self.lanes[index(lane)];
        lane.len += 1;
        if let Some(waiting) = lane.waiting.get_mut(project) {
            waiting.push_back(item);
        } else {
            lane.turns.push_back(project.clone());
            lane.waiting.insert(project.clone(), VecDeque::from([item]));
        }
    }

    pub(super) fn push_spilled(&mut self, lane: Class, item: T) {
        self.lanes[index(lane)].spilled.push_back(item);
    }

    /// The next one: smooth weighted round robin over the lanes that have something.
    pub(super) fn pop(&mut self) -> Option<T> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (n, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| !lane.is_empty()) {
            lane.credit += WEIGHTS[n];
            total += WEIGHTS[n];
            best = best.or(Some(n));
        }
        for (n, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| !lane.is_empty()) {
            best = best.filter(|best| self.lanes[*best].credit >= lane.credit).or(Some(n));
        }
        let lane = &mut self.lanes[best?];
        lane.credit -= total;
        let popped = lane.pop(self.low_water);
        if lane.is_empty() {
            // What it has not used is not saved up.
            lane.credit = 0;
        }
        popped
    }

    /// How many wait in a lane, those from its spill queue apart.
    pub(super) fn len(&self, lane: Class) -> usize {
        self.lanes[index(lane)].len
    }

    pub(super) fn spilled(&self, lane: Class) -> usize {
        self.lanes[index(lane)].spilled.len()
    }

    /// The project with the most waiting in a lane, how many, and how many projects there are.
    pub(super) fn biggest(&self, lane: Class) -> Option<(ProjectId, usize, usize)> {
        let lane = &self.lanes[index(lane)];
        let biggest = lane.waiting.iter().max_by_key(|(_, waiting)| waiting.len())?;
        Some((biggest.0.clone(), biggest.1.len(), lane.waiting.len()))
    }

    /// Takes all of a project but its first `reserve`, oldest first.
    pub(super) fn take_beyond(&mut self, lane: Class, project: &ProjectId, reserve: usize) -> Vec<T> {
        let lane = &mut self.lanes[index(lane)];
        let Some(waiting) = lane.waiting.get_mut(project) else { return Vec::new() };
        let taken: Vec<T> = waiting.drain(reserve.min(waiting.len())..).collect();
        lane.len -= taken.len();
        if waiting.is_empty() {
            lane.waiting.remove(project);
            lane.turns.retain(|other| other != project);
        }
        taken
    }

    /// Takes everything for which `wanted` holds.
    pub(super) fn take_if(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for lane in &mut self.lanes {
            let of_projects = lane.waiting.values_mut();
            for waiting in of_projects.chain(std::iter::once(&mut lane.spilled)) {
                let (out, stay) = std::mem::take(waiting).into_iter().partition(&wanted);
                *waiting = stay;
                taken.extend::<VecDeque<T>>(out);
            }
            lane.waiting.retain(|_, waiting| !waiting.is_empty());
            lane.turns.retain(|project| lane.waiting.contains_key(project));
            lane.len = lane.waiting.values().map(VecDeque::len).sum();
        }
        taken
    }

    /// All that waits.
    pub(super) fn total(&self) -> usize {
        LANES.iter().map(|lane| self.len(*lane) + self.spilled(*lane)).sum()
    }
}

impl<T> Lane<T> {
    fn is_empty(&self) -> bool {
        self.len == 0 && self.spilled.is_empty()
    }

    fn pop(&mut self, low_water: usize) -> Option<T> {
        let turns_before =
            if self.len <= low_water { self.turns.len() } else { self.turns.len().max(TURNS_BEFORE_SPILLED) };
        if !self.spilled.is_empty() && self.turns_since_spilled >= turns_before {
            self.turns_since_spilled = 0;
            return self.spilled.pop_front();
        }
        self.turns_since_spilled += 1;
        let project = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&project)?;
        let popped = waiting.pop_front();
        self.len -= usize::from(popped.is_some());
        if waiting.is_empty() {
            self.waiting.remove(&project);
        } else {
            self.turns.push_back(project);
        }
        popped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(of: &[(Class, &str, usize)]) -> Lanes<(Class, String)> {
        let mut lanes = Lanes::new(4);
        for (lane, project, count) in of {
            for _ in 0..*count {
                lanes.push(*lane, &ProjectId::from(*project), (*lane, (*project).to_owned()));
            }
        }
        lanes
    }

    #[test]
    fn lanes_share_8_to_3_to_1_and_none_starves() {
        let mut lanes = filled(&LANES.map(|lane| (lane, "p", 100)));
        let first: Vec<Class> = (0..12).filter_map(|_| lanes.pop()).map(|(lane, _)| lane).collect();
        let count = |lane| first.iter().filter(|other| **other == lane).count();
        assert_eq!(LANES.map(count), [8, 3, 1]);
        // Smooth: the others are not kept until the first has had all of its share.
        assert!(first[..6].iter().any(|lane| *lane != Class::Interactive));
    }

    #[test]
    fn an_idle_lane_saves_nothing_up() {
        let mut lanes = filled(&[(Class::Bulk, "p", 50), (Class::Interactive, "p", 1)]);
        while lanes.pop().is_some() {}
        for _ in 0..20 {
            lanes.push(Class::Interactive, &"p".into(), (Class::Interactive, String::new()));
            lanes.push(Class::Bulk, &"p".into(), (Class::Bulk, String::new()));
        }
        let first: Vec<_> =
            (0..9).filter_map(|_| lanes.pop()).filter(|(lane, _)| *lane == Class::Bulk).collect();
        assert_eq!(first.len(), 1);
    }

    #[test]
    fn projects_take_turns() {
        let mut lanes = filled(&[(Class::Standard, "noisy", 100), (Class::Standard, "quiet", 2)]);
        let first: Vec<String> = (0..5).filter_map(|_| lanes.pop()).map(|(_, project)| project).collect();
        assert_eq!(first, ["noisy", "quiet", "noisy", "quiet", "noisy"]);
    }

    #[test]
    fn what_was_spilled_waits_for_room_but_not_for_ever() {
        let spilled = (Class::Bulk, "spilled".to_owned());
        let mut lanes = filled(&[(Class::Bulk, "p", 40)]);
        lanes.push_spilled(Class::Bulk, spilled.clone());
        let at = (0..40).position(|_| lanes.pop() == Some(spilled.clone()));
        assert_eq!(at, Some(TURNS_BEFORE_SPILLED));
        let mut lanes = filled(&[(Class::Bulk, "p", 2)]);
        lanes.push_spilled(Class::Bulk, spilled.clone());
        let at = (0..3).position(|_| lanes.pop() == Some(spilled.clone()));
        assert_eq!(at, Some(1));
    }

    #[test]
    fn a_reserve_stays_and_the_rest_goes_in_order() {
        let mut lanes = Lanes::new(4);
        for n in 0..10 {
            lanes.push(Class::Bulk, &"p".into(), n);
        }
        assert_eq!(lanes.biggest(Class::Bulk), Some(("p".into(), 10, 1)));
        assert_eq!(lanes.take_beyond(Class::Bulk, &"p".into(), 7), [7, 8, 9]);
        assert_eq!(lanes.take_if(|n| n % 2 == 0), [0, 2, 4, 6]);
        assert_eq!((lanes.len(Class::Bulk), lanes.total()), (3, 3));
        assert_eq!(lanes.take_beyond(Class::Bulk, &"p".into(), 0), [1, 3, 5]);
        assert_eq!(lanes.pop(), None);
        assert_eq!(lanes.biggest(Class::Bulk), None);
    }
}
