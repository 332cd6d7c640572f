//! How far a run is, while it goes on: a line that changes on a terminal, a new line now and then elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use super::sample::Sample;
use outlay::chart::{amount, duration};

/// Seconds between two plain lines.
const PLAIN_EVERY_S: f64 = 5.0;
/// Seconds over which the rate is taken.
const RATE_OVER_S: f64 = 3.0;

/// Writes to standard error; standard output is for the outcome.
pub(super) struct Live {
    bar: Option<ProgressBar>,
    jobs: Option<u64>,
    /// When how many had ended, oldest first.
    ended: Vec<(f64, u64)>,
    told_s: f64,
    last: String,
}

impl Live {
    pub(super) fn new(jobs: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = jobs.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template = if jobs.is_some() { "{bar:24} {msg}" } else { "{spinner} {msg}" };
            // The template is a constant; a plain bar would do as well.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, jobs, ended: Vec::new(), told_s: 0.0, last: String::new() }
    }

    pub(super) fn show(&mut self, sample: &Sample) {
        self.last = self.line(sample);
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.ended.last().map_or(0, |(_, ended)| *ended));
                bar.set_message(self.last.clone());
            }
            None if sample.at_s - self.told_s >= PLAIN_EVERY_S => {
                self.told_s = sample.at_s;
                eprintln!("{}", self.last);
            }
            None => {}
        }
    }

    /// What a sample says, with the rate of the last seconds.
    fn line(&mut self, sample: &Sample) -> String {
        let at = duration(sample.at_s.round());
        let Some(seen) = &sample.seen else { return format!("{at}  the database does not answer") };
        let ended = seen.done + seen.failed;
        self.ended.push((sample.at_s, ended));
        let old = self.ended.iter().rposition(|(at, _)| *at <= sample.at_s - RATE_OVER_S);
        self.ended.drain(..old.unwrap_or(0));
        let (then_s, then) = self.ended[0];
        let rate = ended.saturating_sub(then) as f64 / (sample.at_s - then_s).max(0.25);
        let of = self.jobs.map_or(String::new(), |jobs| format!(" of {}", amount(jobs as f64, "")));
        let in_flight = sample.in_flight.map_or("?".into(), |count| amount(count as f64, ""));
        format!(
            "{at}  done {}{of}, failed {}, parked {}, in flight {in_flight}, {}, {}",
            amount(seen.done as f64, ""),
            amount(seen.failed as f64, ""),
            amount(seen.parked as f64, ""),
            amount(rate.round(), "jobs/s"),
            amount(seen.cost_nano_usd as f64 / 1e9, "$"),
        )
    }

    /// Leaves the last line standing.
    pub(super) fn end(self) {
        match self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{}", self.last);
            }
            None => eprintln!("{}", self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Seen;
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_fast() {
        let mut live =
            Live { bar: None, jobs: Some(4000), ended: Vec::new(), told_s: 0.0, last: String::new() };
        let sample = |at_s, done| Sample {
            at_s,
            seen: Some(Seen { done, failed: 1, parked: 2, cost_nano_usd: 1_500_000_000, ..Seen::default() }),
            in_flight: Some(32),
        };
        live.line(&sample(60.0, 1000));
        let line = live.line(&sample(62.0, 1800));
        assert_eq!(line, "1m02s  done 1,800 of 4,000, failed 1, parked 2, in flight 32, 400 jobs/s, $1.50");
        let down = live.line(&Sample { at_s: 63.0, seen: None, in_flight: None });
        assert_eq!(down, "1m03s  the database does not answer");
    }
}
