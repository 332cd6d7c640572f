//! What nobody can beat: a lower bound on the cost of giving every job a valid answer, computed with full
//! knowledge of how long each call takes, what it brings and when providers are down.
//!
//! Each job takes its cheapest call that brings a valid answer before the deadline; it may begin at any
//! instant between. Limits couple the jobs: of the calls that begin within one minute of the clock, a
//! provider lets through at most its limit. That coupling is relaxed with a price on each provider's minute
//! (Lagrange multipliers): for *any* prices that are not negative, the sum of each job's cheapest choice,
//! less what the limits themselves are worth, is at most the cost of the best plan. Prices are raised where
//! a minute is overbooked, by steps of a subgradient method (Held, Wolfe, Crowder 1974), and the best bound
//! is kept. Identical jobs of a project count once, because one answer serves them all. A job that nothing
//! can answer in time is counted at its cheapest late answer, and at nothing where there is none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use outlay::types::catalogue::Offer;

use crate::record::Allowance;
use crate::trace::Planned;
use crate::world::World;

const ROUNDS: u32 = 200;

/// The bound, and how it came about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    pub(super) nano_usd: i64,
    /// What it would be without limits.
    pub(super) unlimited_nano_usd: i64,
    /// Jobs that no call could answer in time.
    pub(super) too_late: u64,
}

/// A call that would answer a job in time.
struct Choice {
    cost: f64,
    provider: usize,
    tokens: f64,
    /// Minutes of the clock within which it may begin.
    minutes: Vec<u64>,
}

pub(super) fn lower_bound(
    plan: &[Planned],
    offers: &[Arc<Offer>],
    world: &World,
    limits: &[Allowance],
    output_tokens_max: u32,
) -> Bound {
    let mut fixed = 0.0;
    let mut too_late = 0;
    let mut jobs: Vec<Vec<Choice>> = Vec::with_capacity(plan.len());
    let mut known = HashSet::new();
    for planned in plan {
        if !known.insert((Arc::clone(&planned.project), planned.content)) {
            continue;
        }
        let mut late: Option<f64> = None;
        let mut options = Vec::new();
        for offer in offers {
            let fate = world.fate(planned, offer, output_tokens_max);
            if !fate.is_valid || fate.takes > offer.timeout {
                continue;
            }
            let cost = fate.cost.0 as f64;
            late = Some(late.map_or(cost, |least: f64| least.min(cost)));
            let provider = limits.iter().position(|limit| limit.provider == offer.provider.as_str());
            let minutes = begins(planned, fate.takes, offer.provider.as_str(), world);
            let tokens = (fate.input_tokens + fate.output_tokens) as f64;
            if let (Some(provider), false) = (provider, minutes.is_empty()) {
                options.push(Choice { cost, provider, tokens, minutes });
            }
        }
        if options.is_empty() {
            too_late += 1;
            fixed += late.unwrap_or(0.0);
        } else {
            jobs.push(options);
        }
    }
    let (bound, unlimited) = relax(&jobs, limits);
    // Downwards: a bound that is rounded up would be none.
    let nano = |value: f64| (value + fixed).floor() as i64;
    Bound { nano_usd: nano(bound), unlimited_nano_usd: nano(unlimited), too_late }
}

/// The minutes within which the call may begin so that it ends in time and finds its provider up.
fn begins(planned: &Planned, takes: Duration, provider: &str, world: &World) -> Vec<u64> {
    // Without a deadline any time will do, but a plan has to end: a day after the last arrival.
    let patience = planned.deadline.unwrap_or(Duration::from_secs(86_400));
    let Some(slack) = patience.checked_sub(takes) else { return Vec::new() };
    let (first, last) = (planned.at, planned.at + slack);
    let minute = |at: Duration| at.as_secs() / 60;
    // Beyond this a job has more room than any bound needs to know.
    let last = last.min(first + Duration::from_secs(3_600));
    (minute(first)..=minute(last))
        .filter(|at| {
            let (from, to) =
                (Duration::from_secs(at * 60).max(first), Duration::from_secs(at * 60 + 60).min(last));
            !world.is_down_throughout(provider, from, to)
        })
        .collect()
}

/// The best bound found, and the one without limits.
fn relax(jobs: &[Vec<Choice>], limits: &[Allowance]) -> (f64, f64) {
    let unlimited: f64 = jobs.iter().map(|options| least(options.iter().map(|option| option.cost))).sum();
    let mut prices: HashMap<(usize, u64), (f64, f64)> = HashMap::new();
    let (mut best, mut pace) = (unlimited, 1.0);
    let mut rounds_without = 0;
    for round in 0..ROUNDS {
        let mut used: HashMap<(usize, u64), (f64, f64)> = HashMap::new();
        let mut sum = 0.0;
        for options in jobs {
            let mut chosen = (f64::INFINITY, 0, 0, 0.0);
            for option in options {
                for minute in &option.minutes {
                    let (request, token) =
                        prices.get(&(option.provider, *minute)).copied().unwrap_or_default();
                    let cost = option.cost + request + token * option.tokens;
                    if cost < chosen.0 {
                        chosen = (cost, option.provider, *minute, option.tokens);
                    }
                }
            }
            sum += chosen.0;
            let used = used.entry((chosen.1, chosen.2)).or_default();
            *used = (used.0 + 1.0, used.1 + chosen.3);
        }
        let worth = |(key, price): (&(usize, u64), &(f64, f64))| {
            let limit = &limits[key.0];
            // What has no limit is never overbooked, and so has no price.
            let of = |price: f64, limit: Option<u64>| limit.map_or(0.0, |limit| price * limit as f64);
            of(price.0, limit.requests_per_minute) + of(price.1, limit.tokens_per_minute)
        };
        let bound = sum - prices.iter().map(worth).sum::<f64>();
        if bound > best {
            (best, rounds_without) = (bound, 0);
        } else {
            rounds_without += 1;
            if rounds_without >= 10 {
                (pace, rounds_without) = (pace / 2.0, 0);
            }
        }
        if !reprice(&mut prices, &used, limits, pace * unlimited * 0.05) && round == 0 {
            break;
        }
    }
    (best, unlimited)
}

/// Moves each price by how far its minute is over or under its limit; says whether any minute was over.
fn reprice(
    prices: &mut HashMap<(usize, u64), (f64, f64)>,
    used: &HashMap<(usize, u64), (f64, f64)>,
    limits: &[Allowance],
    gap: f64,
) -> bool {
    let over = |used: f64, limit: Option<u64>| limit.map_or(0.0, |limit| used - limit as f64);
    let mut steps: HashMap<(usize, u64), (f64, f64)> = HashMap::new();
    for key in used.keys().chain(prices.keys()) {
        let (requests, tokens) = used.get(key).copied().unwrap_or_default();
        let limit = &limits[key.0];
        let mut step = (over(requests, limit.requests_per_minute), over(tokens, limit.tokens_per_minute));
        let price = prices.get(key).copied().unwrap_or_default();
        // A free minute with room stays free.
        if price.0 <= 0.0 {
            step.0 = step.0.max(0.0);
        }
        if price.1 <= 0.0 {
            step.1 = step.1.max(0.0);
        }
        steps.insert(*key, step);
    }
    let is_over = steps.values().any(|step| step.0 > 0.0 || step.1 > 0.0);
    // Requests and tokens are of different sizes, so each kind has its own length of step.
    let square = |of: fn(&(f64, f64)) -> f64| steps.values().map(|step| of(step) * of(step)).sum::<f64>();
    let (requests, tokens) = (square(|step| step.0), square(|step| step.1));
    let part = |sum: f64| if sum > 0.0 { gap / sum } else { 0.0 };
    for (key, step) in steps {
        let price = prices.entry(key).or_default();
        price.0 = (price.0 + part(requests) * step.0).max(0.0);
        price.1 = (price.1 + part(tokens) * step.1).max(0.0);
    }
    is_over
}

fn least(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(cost: f64, provider: usize, minutes: &[u64]) -> Choice {
        Choice { cost, provider, tokens: 100.0, minutes: minutes.to_vec() }
    }

    fn limits(requests_per_minute: Option<u64>, tokens_per_minute: Option<u64>) -> Vec<Allowance> {
        let free = Allowance { provider: "b".into(), requests_per_minute: None, tokens_per_minute: None };
        vec![Allowance { provider: "a".into(), requests_per_minute, tokens_per_minute }, free]
    }

    #[test]
    fn without_limits_each_job_takes_its_cheapest_call() {
        let jobs = vec![vec![option(1.0, 0, &[0]), option(5.0, 1, &[0])], vec![option(5.0, 1, &[0])]];
        assert_eq!(relax(&jobs, &limits(None, None)), (6.0, 6.0));
    }

    #[test]
    fn a_limit_makes_the_rest_pay_the_next_price() {
        // Ten jobs, room for four in their minute: 4 x 1 + 6 x 5. The relaxation is exact here.
        let jobs: Vec<_> = (0..10).map(|_| vec![option(1.0, 0, &[0]), option(5.0, 1, &[0])]).collect();
        for limits in [limits(Some(4), None), limits(None, Some(400))] {
            let (bound, unlimited) = relax(&jobs, &limits);
            assert_eq!(unlimited, 10.0);
            assert!((32.0..=34.0 + 1e-9).contains(&bound), "{bound}");
        }
    }

    #[test]
    fn the_next_minute_is_as_good() {
        let jobs: Vec<_> = (0..8).map(|_| vec![option(1.0, 0, &[0, 1]), option(5.0, 1, &[0])]).collect();
        let (bound, _) = relax(&jobs, &limits(Some(4), None));
        assert!((7.9..=8.0 + 1e-9).contains(&bound), "{bound}");
    }
}
