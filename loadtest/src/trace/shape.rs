//! What is made of a trace before it is sent: faster, more of it, by other projects, with deadlines, with
//! repetitions. The same trace, shape and seed give the same plan.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Exp};

use super::{Cut, Trace, TraceError};

/// How far back a repeated job reaches.
const REPEATS_AMONG: usize = 1_000;

/// What is made of a trace.
#[derive(Debug, Clone, Args)]
pub struct Shape {
    /// Let time pass so many times faster
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub speed: f64,
    /// Send so many times as many jobs; a part of them where it is below 1
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub scale: f64,
    /// Spread over so many projects; the trace's own tenants if absent
    #[arg(long, value_name = "N")]
    pub projects: Option<u32>,
    /// Deadlines from arrival, such as 20s, or shares of several: 10s=0.2,2m=0.8; none for no deadline
    #[arg(long, default_value = "20s")]
    pub deadlines: Deadlines,
    /// Share of the jobs, 0 to 1, that repeat an earlier one
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub duplicates: f64,
    /// When jobs come: as recorded, or at the recorded mean rate as a Poisson process
    #[arg(long, value_enum, default_value_t = Arrivals::Recorded)]
    pub arrivals: Arrivals,
    /// Start so far into the trace
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = span)]
    pub from: Duration,
    /// Take so much of the trace, in its own time
    #[arg(long = "for", value_name = "SPAN", value_parser = span)]
    pub length: Option<Duration>,
    /// What everything drawn is drawn from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// When jobs come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// At the recorded times.
    Recorded,
    /// At the recorded mean rate.
    Poisson,
}

/// Which deadlines jobs have: spans and their shares, which add up to 1. An absent span is no deadline.
#[derive(Debug, Clone, PartialEq)]
pub struct Deadlines(Vec<(Option<Duration>, f64)>);

/// A job that is going to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// When, since the start.
    pub at: Duration,
    /// Whose.
    pub project: Arc<str>,
    /// What it asks: equal numbers are equal prompts.
    pub content: u64,
    /// Length of the prompt.
    pub input_tokens: u32,
    /// Length of the answer.
    pub output_tokens: u32,
    /// Counted from when it is sent.
    pub deadline: Option<Duration>,
}

impl Shape {
    /// The part of the trace that is read.
    #[must_use]
    pub fn cut(&self) -> Cut {
        Cut { from: self.from, length: self.length, seed: self.seed }
    }

    /// What is sent, in order.
    ///
    /// # Errors
    /// When nothing is left to be sent.
    pub fn plan(&self, trace: &Trace) -> Result<Vec<Planned>, TraceError> {
        let random = &mut SmallRng::seed_from_u64(self.seed);
        let span = trace.span().as_secs_f64();
        let mut plan: Vec<Planned> =
            Vec::with_capacity((trace.arrivals.len() as f64 * self.scale) as usize + 1);
        for (n, arrival) in trace.arrivals.iter().enumerate() {
            // So many whole copies, and one more by chance.
            let copies = self.scale.floor() as u64 + u64::from(random.random::<f64>() < self.scale.fract());
            for copy in 0..copies {
                // Copies of one request do not come at the same instant: that is no traffic anybody has.
                let shift = if copy == 0 {
                    0.0
                } else {
                    random.random::<f64>() * (span / trace.arrivals.len() as f64)
                };
                let project = match self.projects {
                    Some(projects) => format!("project-{}", random.random_range(0..projects.max(1))).into(),
                    None => Arc::clone(&arrival.tenant),
                };
                plan.push(Planned {
                    at: Duration::from_secs_f64((arrival.at.as_secs_f64() + shift) / self.speed),
                    project,
                    content: n as u64 * 1_000_000 + copy,
                    input_tokens: arrival.input_tokens.max(1),
                    output_tokens: arrival.output_tokens.max(1),
                    deadline: self.deadlines.draw(random),
                });
            }
        }
        if plan.is_empty() {
            return Err(TraceError(format!("{}: --scale {} leaves no job", trace.name, self.scale)));
        }
        plan.sort_by_key(|planned| planned.at);
        if self.arrivals == Arrivals::Poisson {
            self.spread(&mut plan, span / self.speed, random);
        }
        for n in 1..plan.len() {
            if random.random::<f64>() < self.duplicates {
                let earlier = random.random_range(n.saturating_sub(REPEATS_AMONG)..n);
                let Planned { content, input_tokens, output_tokens, ref project, .. } = plan[earlier];
                let project = Arc::clone(project);
                plan[n] = Planned { content, input_tokens, output_tokens, project, ..plan[n].clone() };
            }
        }
        Ok(plan)
    }

    fn spread(&self, plan: &mut [Planned], span_s: f64, random: &mut SmallRng) {
        let rate = plan.len() as f64 / span_s.max(1e-3);
        let Ok(law) = Exp::new(rate) else { return };
        let mut at = 0.0;
        for planned in plan {
            planned.at = Duration::from_secs_f64(at);
            at += law.sample(random);
        }
    }
}

impl Deadlines {
    fn draw(&self, random: &mut SmallRng) -> Option<Duration> {
        let mut left = random.random::<f64>();
        for (deadline, share) in &self.0 {
            left -= share;
            if left < 0.0 {
                return *deadline;
            }
        }
        self.0.last().and_then(|(deadline, _)| *deadline)
    }
}

impl FromStr for Deadlines {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |text: &str| match text {
            "none" => Ok(None),
            text => span(text).map(Some),
        };
        let mut all = Vec::new();
        for part in text.split(',') {
            let (deadline, of_all) = part.split_once('=').unwrap_or((part, "1"));
            all.push((one(deadline.trim())?, share(of_all.trim())?));
        }
        let sum: f64 = all.iter().map(|(_, share)| share).sum();
        if (sum - 1.0).abs() > 1e-6 {
            return Err(format!("the shares add up to {sum}, not to 1"));
        }
        Ok(Self(all))
    }
}

/// A time such as 30s, 5m, 2h or 500ms.
///
/// # Errors
/// When it is none.
pub fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 30s, 5m, 2h or 500ms");
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("has to be above 0".to_owned()) }
}

fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("has to be within 0 to 1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::trace::Arrival;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        shape: Shape,
    }

    fn shape(words: &str) -> Result<Shape, String> {
        let words = std::iter::once("x").chain(words.split_whitespace());
        Command::try_parse_from(words).map(|command| command.shape).map_err(|error| error.to_string())
    }

    fn trace(n: u64) -> Trace {
        let arrival = |n| Arrival {
            at: Duration::from_secs(n),
            tenant: "a".into(),
            input_tokens: n as u32,
            output_tokens: 2,
        };
        Trace { name: "t".into(), arrivals: (0..n).map(arrival).collect() }
    }

    #[test]
    fn as_it_is_unless_told_otherwise() {
        let plan = shape("").expect("defaults").plan(&trace(10)).expect("a plan");
        assert_eq!(plan.len(), 10);
        assert_eq!((plan[9].at, &*plan[9].project), (Duration::from_secs(9), "a"));
        assert_eq!(plan[3].deadline, Some(Duration::from_secs(20)));
        let mut contents: Vec<_> = plan.iter().map(|planned| planned.content).collect();
        contents.dedup();
        assert_eq!(contents.len(), 10);
    }

    #[test]
    fn faster_more_and_repeated() {
        let shape = shape("--speed 2 --scale 2.5 --projects 3 --duplicates 0.5 --deadlines 1s=0.5,none=0.5")
            .expect("ok");
        let plan = shape.plan(&trace(2_000)).expect("a plan");
        assert_eq!(plan, shape.plan(&trace(2_000)).expect("again"), "the same seed");
        assert!((4_800..5_200).contains(&plan.len()), "{}", plan.len());
        assert!(plan.last().expect("one").at <= Duration::from_secs(1_001));
        assert!(plan.is_sorted_by_key(|planned| planned.at));
        let distinct: std::collections::HashSet<_> = plan.iter().map(|planned| planned.content).collect();
        assert!((2_300..2_700).contains(&distinct.len()), "{}", distinct.len());
        let projects: std::collections::HashSet<_> = plan.iter().map(|planned| &planned.project).collect();
        assert_eq!(projects.len(), 3);
        let with = plan.iter().filter(|planned| planned.deadline.is_some()).count();
        assert!((2_300..2_700).contains(&with), "{with}");
    }

    #[test]
    fn poisson_keeps_the_rate() {
        let plan = shape("--arrivals poisson").expect("ok").plan(&trace(4_000)).expect("a plan");
        let last = plan.last().expect("one").at.as_secs();
        assert!((3_700..4_300).contains(&last), "{last}");
        let gaps: Vec<_> = plan.windows(2).map(|two| two[1].at - two[0].at).collect();
        let short = gaps.iter().filter(|gap| **gap < Duration::from_millis(693)).count();
        assert!((1_850..2_150).contains(&short), "half of the gaps are below ln 2 of the mean: {short}");
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            "--speed 0",
            "--scale -1",
            "--scale nan",
            "--duplicates 1.5",
            "--deadlines 5",
            "--deadlines 1s=0.5",
            "--for x",
        ] {
            shape(words).expect_err(words);
        }
        let error = shape("--scale 0.000001").expect("ok").plan(&trace(3)).expect_err("nothing").to_string();
        assert!(error.contains("--scale"), "{error}");
    }
}
