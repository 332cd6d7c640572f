//! How often something has come lately, to this process and to the others.
//!
//! Most contents come once and must cost next to nothing: they are counted here alone, in two
//! generations of a map, the older of which is dropped when the younger is full. What has come a few
//! times is counted with the fleet: this process keeps what it has not told yet beside the sums that
//! it was told last.

use std::collections::HashMap;
use std::time::Duration;

use super::fingerprint::Print;
use super::spend::bucket;
use crate::types::{JobId, ProjectId, Wall};

/// Buckets of a window: the span that is counted is at most a tenth shorter than the window.
const BUCKETS: u32 = 10;
/// How many contents one generation remembers; some forty bytes each.
const COLD_MAX: usize = 1 << 17;
/// How many are counted with the fleet at once; those that have not come for longest make room.
const HOT_MAX: usize = 1 << 14;
/// Examples that are kept for the evidence.
const EXAMPLES: usize = 5;

/// Counts of one rule.
#[derive(Debug)]
pub struct Tallies {
    width: Duration,
    limit: u32,
    young: HashMap<Print, Cold>,
    old: HashMap<Print, Cold>,
    hot: HashMap<Print, Hot>,
}

/// What has come so rarely that nobody else needs to know.
#[derive(Debug, Clone, Copy)]
struct Cold {
    since: Wall,
    count: u32,
    peak: u64,
}

/// What is counted with the fleet.
#[derive(Debug)]
struct Hot {
    project: ProjectId,
    buckets: Vec<Bucket>,
    peak: u64,
    /// How many this process has counted.
    serial: u64,
    /// When it came last.
    last: Wall,
    examples: Vec<JobId>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    at: Wall,
    /// As the fleet told.
    told: u64,
    /// Counted here since.
    untold: u64,
}

/// What a job's coming changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How often it has come within the window, as far as this process knows: never too much.
    pub count: u64,
    /// Which it was of those that this process has counted: with what comes later, it says how many
    /// came before.
    pub serial: u64,
    /// Enough is untold that the fleet has to be asked before the answer counts.
    pub ask: bool,
}

impl Tallies {
    /// For a rule that parks above `limit` within `window`.
    #[must_use]
    pub fn new(limit: u32, window: Duration) -> Self {
        let width = (window / BUCKETS).max(Duration::from_millis(1));
        Self { width, limit, young: HashMap::new(), old: HashMap::new(), hot: HashMap::new() }
    }

    /// From when on buckets count.
    #[must_use]
    pub fn since(&self, now: Wall) -> Wall {
        bucket(now, self.width) - self.width * (BUCKETS - 1)
    }

    /// One more has come. With a `size` it counts only if none of those before it was as large.
    pub fn count(
        &mut self,
        print: Print,
        job: (&ProjectId, &JobId),
        size: Option<u64>,
        factor: u32,
        now: Wall,
    ) -> Counted {
        let since = self.since(now);
        if !self.hot.contains_key(&print) {
            let cold = self.cold(print, size, since, now);
            if cold.count < self.rare() {
                return Counted { count: u64::from(cold.count), serial: 0, ask: false };
            }
            self.warm(print, cold, job.0, now);
            return self.noted(print, job.1, factor, since);
        }
        let at = bucket(now, self.width);
        if let Some(hot) = self.hot.get_mut(&print) {
            let grows = size.is_none_or(|size| size > hot.peak);
            if grows {
                hot.peak = size.unwrap_or(0);
                hot.bucket(at).untold += 1;
                hot.serial += 1;
            }
            hot.last = now;
        }
        self.noted(print, job.1, factor, since)
    }

    /// How often `print` has come within the window, as far as this process knows, and how many this
    /// process has counted itself.
    #[must_use]
    pub fn known(&self, print: Print, now: Wall) -> (u64, u64) {
        let since = self.since(now);
        self.hot.get(&print).map_or((0, 0), |hot| (hot.count(since), hot.serial))
    }

    /// Ids of jobs that it came with.
    #[must_use]
    pub fn examples(&self, print: Print) -> Vec<String> {
        self.hot
            .get(&print)
            .map_or_else(Vec::new, |hot| hot.examples.iter().map(ToString::to_string).collect())
    }

    /// What has not been told yet of one of them, with whose it is.
    #[must_use]
    pub fn untold(&self, print: Print) -> Option<(ProjectId, Vec<(Wall, i64)>)> {
        let hot = self.hot.get(&print)?;
        let untold = hot.buckets.iter().filter(|bucket| bucket.untold > 0);
        let untold = untold.map(|bucket| (bucket.at, i64::try_from(bucket.untold).unwrap_or(i64::MAX)));
        Some((hot.project.clone(), untold.collect()))
    }

    /// All of which something is untold; those that have not come within the window are forgotten.
    pub fn all_untold(&mut self, now: Wall) -> Vec<Print> {
        let since = self.since(now);
        self.hot.retain(|_, hot| hot.last >= since);
        let has = |hot: &Hot| hot.buckets.iter().any(|bucket| bucket.untold > 0);
        self.hot.iter().filter(|(_, hot)| has(hot)).map(|(print, _)| *print).collect()
    }

    /// `told` has reached the fleet, whose sums now are `sums`.
    pub fn told(&mut self, print: Print, told: &[(Wall, i64)], sums: &[(Wall, i64)]) {
        let Some(hot) = self.hot.get_mut(&print) else { return };
        for (at, n) in told {
            let bucket = hot.bucket(*at);
            bucket.untold = bucket.untold.saturating_sub(u64::try_from(*n).unwrap_or(0));
        }
        for (at, n) in sums {
            hot.bucket(*at).told = u64::try_from(*n).unwrap_or(0);
        }
    }

    /// Below this many the fleet need not know.
    fn rare(&self) -> u32 {
        (self.limit / 16).max(1)
    }

    fn cold(&mut self, print: Print, size: Option<u64>, since: Wall, now: Wall) -> Cold {
        let known = self.young.get(&print).or_else(|| self.old.get(&print)).copied();
        let known = known.filter(|cold| cold.since >= since);
        let mut cold = known.unwrap_or(Cold { since: now, count: 0, peak: 0 });
        if size.is_none_or(|size| size > cold.peak) {
            cold.count += 1;
            cold.peak = size.unwrap_or(0);
        }
        if self.young.len() >= COLD_MAX && !self.young.contains_key(&print) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(print, cold);
        cold
    }

    fn warm(&mut self, print: Print, cold: Cold, project: &ProjectId, now: Wall) {
        self.young.remove(&print);
        self.old.remove(&print);
        if self.hot.len() >= HOT_MAX {
            let oldest = self.hot.iter().min_by_key(|(_, hot)| hot.last).map(|(print, _)| *print);
            oldest.map(|print| self.hot.remove(&print));
        }
        let at = bucket(now, self.width);
        let first = Bucket { at, told: 0, untold: u64::from(cold.count) };
        let hot = Hot {
            project: project.clone(),
            buckets: vec![first],
            peak: cold.peak,
            serial: u64::from(cold.count),
            last: now,
            examples: Vec::new(),
        };
        self.hot.insert(print, hot);
    }

    /// The nearer to the limit, the more often the fleet is asked: at the limit for every job.
    fn noted(&mut self, print: Print, job: &JobId, factor: u32, since: Wall) -> Counted {
        let limit = u64::from(self.limit).saturating_mul(u64::from(factor));
        let Some(hot) = self.hot.get_mut(&print) else { return Counted { count: 0, serial: 0, ask: false } };
        if hot.examples.len() < EXAMPLES {
            hot.examples.push(job.clone());
        }
        hot.buckets.retain(|bucket| bucket.at >= since);
        let count = hot.count(since);
        let untold: u64 = hot.buckets.iter().map(|bucket| bucket.untold).sum();
        // Above the limit there is nothing to ask: sums only grow until their window has passed.
        let ask = count <= limit && untold >= ((limit - count) / 16).max(1);
        Counted { count, serial: hot.serial, ask }
    }
}

impl Hot {
    fn bucket(&mut self, at: Wall) -> &mut Bucket {
        let place = match self.buckets.iter().position(|bucket| bucket.at == at) {
            Some(place) => place,
            None => {
                self.buckets.push(Bucket { at, told: 0, untold: 0 });
                self.buckets.len() - 1
            }
        };
        &mut self.buckets[place]
    }

    fn count(&self, since: Wall) -> u64 {
        let within = self.buckets.iter().filter(|bucket| bucket.at >= since);
        within.map(|bucket| bucket.told + bucket.untold).sum()
    }
}
