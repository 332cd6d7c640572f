//! What the simulation's queue is filled with.

use std::sync::Arc;

use outlay::ports::queue::{Delivery, Payload, Receipt};
use outlay::types::Job;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::world::PROJECT;
use crate::support;

/// Jobs of the one project.
pub(super) fn jobs(n: u32) -> Vec<Arc<Job>> {
    let body = |n: u32| u8::try_from(n % 251).expect("small");
    (0..n).map(|n| support::job(PROJECT, &format!("job-{n}"), body(n))).collect()
}

fn delivery(job: &Arc<Job>, redelivered: bool) -> Delivery {
    Delivery {
        payload: Payload::Job(Arc::clone(job)),
        redelivered,
        redriven: false,
        receipt: Receipt(0),
        place: None,
    }
}

/// Every job once, and one in five a second time at some later place.
pub(super) fn with_duplicates(jobs: &[Arc<Job>], seed: u64) -> Vec<Delivery> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut deliveries: Vec<_> = jobs.iter().map(|job| delivery(job, false)).collect();
    for job in jobs.iter().enumerate().filter(|(n, _)| n % 5 == 0) {
        let at = rng.random_range(job.0..=deliveries.len());
        deliveries.insert(at.max(job.0 + 1), delivery(job.1, at % 2 == 0));
    }
    deliveries
}

/// Every job once.
pub(super) fn first(jobs: &[Arc<Job>]) -> Vec<Delivery> {
    jobs.iter().map(|job| delivery(job, false)).collect()
}

/// Every job again.
pub(super) fn again(jobs: &[Arc<Job>]) -> Vec<Delivery> {
    jobs.iter().map(|job| delivery(job, true)).collect()
}
