//! Figures of the console as charts: what is left of a cap, how a job's calls lie in time, tokens for a dollar.

use jiff::tz::TimeZone;

use crate::chart::{Band, BandRow, Chart, Mark, Plot, Series, Tone, Width, svg, svg_dated};
use crate::policy::burn_down::BurnDown;
use crate::ports::reports::{AttemptRow, JobHistory};
use crate::types::ledger::HoldState;
use crate::types::{AttemptOutcome, NanoUsd, Wall};

/// A chart at both widths, for the page to show the one that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) title: String,
    pub(super) wide: String,
    pub(super) narrow: String,
}

impl Picture {
    /// Spans since the start on the horizontal axis.
    fn timed(chart: &Chart, id: &str) -> Self {
        Self {
            title: chart.title.clone(),
            wide: svg(chart, &format!("{id}-w"), Width::Wide),
            narrow: svg(chart, &format!("{id}-n"), Width::Narrow),
        }
    }

    /// Times of day or dates on it.
    fn dated(chart: &Chart, id: &str, wide: &[(f64, String)], narrow: &[(f64, String)]) -> Self {
        Self {
            title: chart.title.clone(),
            wide: svg_dated(chart, &format!("{id}-w"), Width::Wide, wide),
            narrow: svg_dated(chart, &format!("{id}-n"), Width::Narrow, narrow),
        }
    }
}

/// A figure for the eye: floats come near money only here, and nothing is computed from them.
fn dollars(amount: NanoUsd) -> f64 {
    amount.0 as f64 / 1e9
}

/// Seconds from one time to another.
fn seconds(from: Wall, to: Wall) -> f64 {
    to.0.saturating_sub(from.0) as f64 / 1e6
}

/// What is left of a cap over the day, and where it goes at the pace of the last hours.
pub(super) fn burn_down(
    title: String,
    id: &str,
    course: &BurnDown,
    cap: NanoUsd,
    zone: &TimeZone,
) -> Option<Picture> {
    let start = course.left.first()?.0;
    let (now, left) = *course.left.last()?;
    let points = course.left.iter().map(|(at, left)| (seconds(start, *at), dollars(*left))).collect();
    let mut series = vec![Series { name: "left of the cap".to_owned(), points, is_limit: false }];
    let end = course.projected();
    if let Some((at, then)) = end {
        let points = vec![(seconds(start, now), dollars(left)), (seconds(start, at), dollars(then))];
        series.push(Series { name: "at the pace of the last hours".to_owned(), points, is_limit: false });
    }
    let last = course.ends_at.or(end.map(|(at, _)| at)).unwrap_or(now);
    let whole = vec![(0.0, dollars(cap)), (seconds(start, last), dollars(cap))];
    series.push(Series { name: "cap".to_owned(), points: whole, is_limit: true });
    let mut marks = vec![Mark { at_s: seconds(start, now), label: "now".to_owned() }];
    let gone = course.too_early().filter(|at| *at > now);
    marks.extend(gone.map(|at| {
        let at_text = at.timestamp().to_zoned(zone.clone()).strftime("%H:%M").to_string();
        Mark { at_s: seconds(start, at), label: format!("gone {at_text}") }
    }));
    let chart = Chart { title, unit: "$".to_owned(), plot: Plot::Lines { series }, marks };
    let names = |hours: i64| times_of_day(start, last, hours, zone);
    Some(Picture::dated(&chart, id, &names(4), &names(8)))
}

/// Every so many hours from midnight on: seconds since the start, and `08:00`.
fn times_of_day(start: Wall, end: Wall, hours: i64, zone: &TimeZone) -> Vec<(f64, String)> {
    const HOUR_US: i64 = 3_600_000_000;
    let days = (end.0.saturating_sub(start.0)) / (24 * HOUR_US);
    let (step, form) = match days {
        0..=1 => (hours, "%H:%M"),
        days => (24 * (days / 5 + 1) * if hours > 4 { 2 } else { 1 }, "%b %-d"),
    };
    let count = (end.0.saturating_sub(start.0)) / (step * HOUR_US);
    (0..=count.min(40))
        .map(|n| {
            let at = Wall(start.0 + n * step * HOUR_US);
            let name = at.timestamp().to_zoned(zone.clone()).strftime(form).to_string();
            (seconds(start, at), name)
        })
        .collect()
}

/// The calls of a job below each other, counted from when it was accepted.
pub(super) fn timeline(job: &JobHistory, now: Wall) -> Option<Picture> {
    if job.attempts.is_empty() {
        return None;
    }
    let start = job.attempts.iter().map(|call| call.begun_at).fold(job.accepted_at, Wall::min);
    let finished = job.result.as_ref().map(|result| result.timing.finished_at);
    let rows = job.attempts.iter().map(|call| {
        let end = end_of(call, now);
        let (from_s, until_s) = (seconds(start, call.begun_at), seconds(start, end));
        let mut bands = Vec::new();
        if from_s > 0.0 && call.n == 1 {
            bands.push(Band { from_s: 0.0, until_s: from_s, state: "waiting".to_owned(), tone: Tone::Quiet });
        }
        let (state, tone) = ending(call);
        bands.push(Band { from_s, until_s: until_s.max(from_s), state, tone });
        BandRow { name: format!("call {}: {}", call.n, call.model), bands }
    });
    let marks = finished.map(|at| Mark { at_s: seconds(start, at).max(0.0), label: "finished".to_owned() });
    let chart = Chart {
        title: "Calls over time".to_owned(),
        unit: String::new(),
        plot: Plot::Bands { rows: rows.collect() },
        marks: marks.into_iter().collect(),
    };
    Some(Picture::timed(&chart, "calls"))
}

/// When a call ended; one that runs goes on until now.
fn end_of(call: &AttemptRow, now: Wall) -> Wall {
    let took = call.provider_ms.map(|ms| call.begun_at + std::time::Duration::from_millis(ms));
    took.or(call.ended_at).unwrap_or_else(|| now.max(call.begun_at))
}

/// How a call ended, and how good that is.
pub(super) fn ending(call: &AttemptRow) -> (String, Tone) {
    match (call.outcome, call.state) {
        (None, HoldState::Held) => ("running".to_owned(), Tone::Fair),
        (None, _) => ("no end known".to_owned(), Tone::Quiet),
        (Some(AttemptOutcome::Ok), _) => ("ok".to_owned(), Tone::Good),
        (Some(outcome @ (AttemptOutcome::OkWithoutUsage | AttemptOutcome::InvalidOutput)), _) => {
            (outcome.as_str().replace('_', " "), Tone::Fair)
        }
        (Some(outcome), _) => (outcome.as_str().replace('_', " "), Tone::Bad),
    }
}

/// Tokens for a dollar by model and week: the start of the week, and the figure.
pub(super) fn tokens_per_dollar(models: &[(String, Vec<(Wall, f64)>)]) -> Option<Picture> {
    let weeks: Vec<Wall> = models.iter().flat_map(|(_, weeks)| weeks.iter().map(|(at, _)| *at)).collect();
    let start = weeks.iter().copied().min()?;
    let last = weeks.iter().copied().max()?;
    if start == last {
        return None;
    }
    let series = models.iter().take(8).map(|(model, weeks)| Series {
        name: model.clone(),
        points: weeks.iter().map(|(at, tokens)| (seconds(start, *at), *tokens)).collect(),
        is_limit: false,
    });
    let chart = Chart {
        title: "Tokens per dollar, by week".to_owned(),
        unit: "tokens".to_owned(),
        plot: Plot::Lines { series: series.collect() },
        marks: Vec::new(),
    };
    let mut starts = weeks;
    starts.sort_unstable();
    starts.dedup();
    let name = |at: &Wall| at.timestamp().to_zoned(TimeZone::UTC).strftime("%b %-d").to_string();
    let every = |n: usize| -> Vec<_> {
        starts.iter().step_by(starts.len().div_ceil(n)).map(|at| (seconds(start, *at), name(at))).collect()
    };
    Some(Picture::dated(&chart, "tokens", &every(8), &every(4)))
}
