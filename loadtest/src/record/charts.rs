//! Charts of what was recorded. What never happened has none.

use std::collections::BTreeMap;

use super::history::History;
use super::sample::{Sample, Window};
use crate::report::{Band, BandRow, Chart, Mark, Plot, Series, Tone};

/// Windows with a chart of their own: those with the most money in them.
const WINDOWS_MAX: usize = 4;
/// Models with a share of their own; the rest is one.
const MODELS_MAX: usize = 6;
const NANO: f64 = 1e9;

/// Every chart of a run that took `ended_s`.
pub(super) fn draw(
    samples: &[Sample],
    history: Option<&History>,
    ended_s: f64,
    marks: &[Mark],
) -> Vec<Chart> {
    let mut charts = Vec::new();
    if let Some(history) = history {
        charts.extend([throughput(history, ended_s), latency(history, ended_s)].into_iter().flatten());
    }
    charts.extend(spend(samples));
    if let Some(history) = history {
        charts.extend(models(history, ended_s));
        charts.extend(limits(history));
    }
    charts.extend(in_flight(samples));
    charts.extend(breakers(samples, ended_s));
    for chart in &mut charts {
        chart.marks = marks.to_vec();
    }
    charts
}

fn chart(title: impl Into<String>, unit: &str, plot: Plot) -> Chart {
    Chart { title: title.into(), unit: unit.to_owned(), plot, marks: Vec::new() }
}

fn line(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.into(), points, is_limit: false }
}

fn limit(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
    Series { is_limit: true, ..line(name, points) }
}

/// The end of each slice, where its figures stand; the last one ends with the run.
fn slice_ends(history: &History, ended_s: f64) -> impl Iterator<Item = f64> {
    (1..=history.results.len()).map(move |n| (n as f64 * history.slice_s).min(ended_s))
}

fn throughput(history: &History, ended_s: f64) -> Option<Chart> {
    let counts = |of: &dyn Fn(usize) -> u64| -> Vec<(f64, f64)> {
        let mut from = 0.0;
        let rates = slice_ends(history, ended_s).enumerate().map(|(n, until)| {
            // The last slice is shorter than the others.
            let rate = of(n) as f64 / (until - from).max(history.slice_s / 10.0);
            from = until;
            (until, rate)
        });
        rates.collect()
    };
    let total = |of: &dyn Fn(usize) -> u64| (0..history.results.len()).map(of).sum::<u64>();
    let (done, failed) = (|n: usize| history.results[n].done, |n: usize| history.results[n].failed);
    let mut series = vec![line("done", counts(&done))];
    if total(&failed) > 0 {
        series.push(line("failed", counts(&failed)));
    }
    (total(&done) + total(&failed) > 0).then(|| chart("Results", "jobs/s", Plot::Lines { series }))
}

fn latency(history: &History, ended_s: f64) -> Option<Chart> {
    let at = |which: usize| -> Vec<(f64, f64)> {
        let values = history.results.iter().map(|slice| slice.latency_s.map_or(f64::NAN, |all| all[which]));
        slice_ends(history, ended_s).zip(values).collect()
    };
    let series = [("p50", 0), ("p95", 1), ("p99", 2)].map(|(name, which)| line(name, at(which))).to_vec();
    let is_known = history.results.iter().any(|slice| slice.latency_s.is_some());
    is_known.then(|| chart("Latency, from accepted to the committed result", "s", Plot::Lines { series }))
}

/// A chart for each of the fullest windows: what is committed, under its cap. Windows without a cap count the same
/// money once more, so they are shown only where none has one.
fn spend(samples: &[Sample]) -> Vec<Chart> {
    let mut last: BTreeMap<(String, i64), (bool, i64)> = BTreeMap::new();
    for window in samples.iter().filter_map(|sample| sample.seen.as_ref()).flat_map(|seen| &seen.windows) {
        let committed = window.held + window.spent + window.presumed;
        last.insert((window.name.clone(), window.starts_at), (window.cap.is_some(), committed));
    }
    let is_any_capped = last.values().any(|(is_capped, _)| *is_capped);
    let is_shown = |is_capped: bool, committed: i64| committed > 0 && (is_capped || !is_any_capped);
    let mut fullest: Vec<_> =
        last.into_iter().filter(|(_, (is_capped, committed))| is_shown(*is_capped, *committed)).collect();
    fullest.sort_by_key(|(key, (_, committed))| (std::cmp::Reverse(*committed), key.clone()));
    fullest.truncate(WINDOWS_MAX);
    fullest.into_iter().map(|(key, _)| spend_of(samples, &key)).collect()
}

fn spend_of(samples: &[Sample], (name, starts_at): &(String, i64)) -> Chart {
    let find = |sample: &Sample| -> Option<Window> {
        let windows = &sample.seen.as_ref()?.windows;
        windows.iter().find(|window| window.name == *name && window.starts_at == *starts_at).cloned()
    };
    let opened_s = samples.iter().find(|sample| find(sample).is_some()).map_or(0.0, |sample| sample.at_s);
    let over_time = |of: &dyn Fn(&Window) -> Option<i64>| -> Vec<(f64, f64)> {
        let value = |sample: &Sample| match find(sample) {
            Some(window) => of(&window).map_or(f64::NAN, |nano| nano as f64 / NANO),
            // A window that is not there yet holds nothing. One that is gone was displaced by fuller ones, or
            // nobody answered.
            None if sample.seen.is_some() && sample.at_s < opened_s => 0.0,
            None => f64::NAN,
        };
        samples.iter().map(|sample| (sample.at_s, value(sample))).collect()
    };
    let mut series = vec![
        line("spent", over_time(&|window| Some(window.spent))),
        line("presumed", over_time(&|window| Some(window.presumed))),
        line("held", over_time(&|window| Some(window.held))),
    ];
    let is_told = |(at_s, cap): &(f64, f64)| *at_s >= opened_s && cap.is_finite();
    let caps: Vec<_> = over_time(&|window| window.cap).into_iter().filter(is_told).collect();
    if !caps.is_empty() {
        series.push(limit("cap", caps));
    }
    chart(format!("Money of project {name}"), "$", Plot::Stack { series })
}

fn models(history: &History, ended_s: f64) -> Option<Chart> {
    let mut by_size: Vec<_> = history.calls.iter().collect();
    by_size.sort_by_key(|(model, counts)| (std::cmp::Reverse(counts.iter().sum::<u64>()), (*model).clone()));
    // The share of a single model is no news.
    if by_size.len() < 2 {
        return None;
    }
    let total: Vec<u64> =
        (0..history.results.len()).map(|n| by_size.iter().map(|(_, counts)| counts[n]).sum()).collect();
    let share = |counts: &dyn Fn(usize) -> u64| -> Vec<(f64, f64)> {
        let value = |n: usize| match total[n] {
            0 => f64::NAN,
            all => counts(n) as f64 * 100.0 / all as f64,
        };
        slice_ends(history, ended_s).enumerate().map(|(n, at)| (at, value(n))).collect()
    };
    let shown = by_size.iter().take(MODELS_MAX);
    let mut series: Vec<_> =
        shown.map(|(model, counts)| line(model.as_str(), share(&|n| counts[n]))).collect();
    if by_size.len() > MODELS_MAX {
        let rest = |n: usize| by_size[MODELS_MAX..].iter().map(|(_, counts)| counts[n]).sum();
        series.push(line("others", share(&rest)));
    }
    Some(chart("Calls by model", "%", Plot::Stack { series }))
}

fn limits(history: &History) -> Option<Chart> {
    let end = history.used.first()?.1.len() as f64;
    let points =
        |shares: &[f64]| shares.iter().enumerate().map(|(n, share)| (n as f64 + 1.0, *share)).collect();
    let mut series: Vec<_> =
        history.used.iter().map(|(name, shares)| line(name.as_str(), points(shares))).collect();
    series.push(limit("limit", vec![(0.0, 100.0), (end, 100.0)]));
    Some(chart("Limits used in the last minute", "%", Plot::Lines { series }))
}

fn in_flight(samples: &[Sample]) -> Option<Chart> {
    if samples.iter().all(|sample| sample.in_flight.is_none()) {
        return None;
    }
    let value = |sample: &Sample| (sample.at_s, sample.in_flight.map_or(f64::NAN, |count| count as f64));
    let series = vec![line("calls", samples.iter().map(value).collect())];
    Some(chart("Calls under way", "calls", Plot::Lines { series }))
}

fn breakers(samples: &[Sample], ended_s: f64) -> Option<Chart> {
    let seen = || samples.iter().filter_map(|sample| sample.seen.as_ref());
    let mut names: Vec<&str> =
        seen().flat_map(|seen| seen.breakers.iter().map(|(name, _)| name.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    let rows = names.iter().map(|name| {
        let states = samples.iter().map(|sample| {
            let state = sample.seen.as_ref().map(|seen| seen.breakers.iter().find(|(of, _)| of == name));
            // One that has never moved has no row.
            (sample.at_s, state.map(|row| row.map_or("closed", |(_, phase)| phase.as_str())))
        });
        BandRow { name: (*name).to_owned(), bands: bands(states, ended_s) }
    });
    let rows: Vec<_> = rows.collect();
    (!rows.is_empty()).then(|| chart("Breakers", "", Plot::Bands { rows }))
}

/// Equal states one after the other are one band, which lasts until the next look.
fn bands<'a>(states: impl Iterator<Item = (f64, Option<&'a str>)>, ended_s: f64) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    for (at_s, phase) in states {
        let (state, tone) = match phase {
            None => ("unknown", Tone::Quiet),
            Some("closed") => ("closed", Tone::Good),
            Some("probing") => ("probing", Tone::Fair),
            Some("open_hard") => ("open, a person has to see to it", Tone::Bad),
            Some(other) => (other, Tone::Bad),
        };
        if let Some(last) = bands.last_mut() {
            last.until_s = at_s;
            if last.state == state {
                continue;
            }
        }
        bands.push(Band { from_s: at_s, until_s: ended_s, state: state.to_owned(), tone });
    }
    if let Some(last) = bands.last_mut() {
        last.until_s = ended_s.max(last.from_s);
    }
    bands
}

#[cfg(test)]
mod tests {
    use super::super::history::Slice;
    use super::super::sample::Seen;
    use super::*;

    fn sample(at_s: f64, spent: i64, phase: &str) -> Sample {
        let window = Window {
            name: "p, total".into(),
            starts_at: 0,
            held: 500_000_000,
            spent,
            presumed: 0,
            cap: Some(3_000_000_000),
        };
        let breakers = if phase.is_empty() { Vec::new() } else { vec![("mock / m".into(), phase.into())] };
        let seen = Seen { windows: vec![window], breakers, ..Seen::default() };
        Sample { at_s, seen: Some(seen), in_flight: Some(3) }
    }

    fn gap(at_s: f64) -> Sample {
        Sample { at_s, seen: None, in_flight: None }
    }

    #[test]
    fn a_database_that_was_down_is_a_gap() {
        let samples =
            [sample(0.0, 0, ""), gap(1.0), sample(2.0, 1_000_000_000, "open"), sample(3.0, 0, "closed")];
        let charts = draw(&samples, None, 4.0, &[Mark { at_s: 1.0, label: "stop".into() }]);
        let titles: Vec<_> = charts.iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles, ["Money of project p, total", "Calls under way", "Breakers"]);
        assert!(charts.iter().all(|chart| chart.marks.len() == 1));
        let Plot::Stack { series } = &charts[0].plot else { panic!("{:?}", charts[0]) };
        assert!(series[0].points[1].1.is_nan());
        assert_eq!(
            (series[0].points[2], series[3].points[0], series[3].is_limit),
            ((2.0, 1.0), (0.0, 3.0), true)
        );
        let Plot::Bands { rows } = &charts[2].plot else { panic!("{:?}", charts[2]) };
        let told: Vec<_> = rows[0].bands.iter().map(|b| (b.from_s, b.until_s, b.state.as_str())).collect();
        assert_eq!(
            told,
            [(0.0, 1.0, "closed"), (1.0, 2.0, "unknown"), (2.0, 3.0, "open"), (3.0, 4.0, "closed")]
        );
    }

    #[test]
    fn a_window_that_others_displaced_is_a_gap_and_one_to_come_is_empty() {
        let mut samples = [0.0, 1.0, 2.0, 3.0].map(|at| sample(at, 1_000_000_000, ""));
        for missing in [0, 2] {
            samples[missing].seen = Some(Seen::default());
        }
        let charts = draw(&samples, None, 4.0, &[]);
        let Plot::Stack { series } = &charts[0].plot else { panic!("{:?}", charts[0]) };
        let spent: Vec<_> = series[0].points.iter().map(|point| point.1).collect();
        assert_eq!((spent[0], spent[1], spent[2].is_nan(), spent[3]), (0.0, 1.0, true, 1.0));
    }

    #[test]
    fn rates_and_shares_are_those_of_their_slice() {
        let slice = |done, failed| Slice { done, failed, latency_s: Some([0.1, 0.2, 0.3]) };
        let history = History {
            slice_s: 2.0,
            results: vec![slice(10, 0), Slice::default(), slice(3, 1)],
            calls: [("a".into(), vec![9, 0, 1]), ("b".into(), vec![3, 0, 3])].into(),
            used: vec![("mock requests".into(), vec![10.0, 20.0])],
        };
        let charts = draw(&[], Some(&history), 5.0, &[]);
        let Plot::Lines { series } = &charts[0].plot else { panic!("{:?}", charts[0]) };
        assert_eq!(series[0].points, [(2.0, 5.0), (4.0, 0.0), (5.0, 3.0)]);
        assert_eq!(series[1].points[2], (5.0, 1.0));
        let Plot::Stack { series } = &charts[2].plot else { panic!("{:?}", charts[2]) };
        assert_eq!(
            (series[0].name.as_str(), series[0].points[0], series[0].points[2]),
            ("a", (2.0, 75.0), (5.0, 25.0))
        );
        assert!(series[0].points[1].1.is_nan());
        assert_eq!(charts[3].title, "Limits used in the last minute");
    }

    #[test]
    fn a_run_without_anything_has_no_charts() {
        assert!(draw(&[gap(0.0), gap(1.0)], Some(&History::default()), 1.0, &[]).is_empty());
    }
}
