//! What a comparison has to show.

use std::collections::BTreeMap;

use super::optimum::Bound;
use super::run::{Figures, Policy, Scene};
use super::stage::Book;
use super::{Comparison, allowances};
use crate::report::{Band, BandRow, Bar, Chart, Mark, Plot, Report, Series, Table, Tone};
use crate::trace::Trace;

/// A miss in a thousand is what a router may cost.
const MISSES_MAX_PERMILLE: u64 = 1;

pub(super) fn report(
    trace: &Trace,
    comparison: &Comparison,
    scene: &Scene,
    (figures, books): (&[Figures], &[Book]),
    bound: Bound,
) -> Report {
    let mut report = Report { title: "Policies side by side".to_owned(), ..Report::default() };
    let shape = &comparison.shape;
    let span = scene.plan.last().map_or(0.0, |last| last.at.as_secs_f64());
    report.fact("trace", &trace.name);
    report.fact("jobs", format!("{} within {:.0} s", scene.plan.len(), span));
    report.fact("seed", shape.seed);
    let configured = comparison.config.as_ref();
    report.fact("catalogue", configured.map_or("built in".to_owned(), |path| path.display().to_string()));
    for outage in &comparison.outages {
        let (from, until) = (outage.from.as_secs(), outage.until.as_secs());
        report.fact("outage", format!("{} from second {from} to {until}", outage.provider));
    }
    report.fact("optimum", usd(bound.nano_usd));
    report.fact("optimum without rate limits", usd(bound.unlimited_nano_usd));
    checks(&mut report, figures, bound, scene.plan.len());
    report.tables.push(policies(figures, bound, scene.plan.len()));
    report.tables.push(buckets(scene, books, span));
    report.charts.push(costs(figures, bound));
    report.charts.push(spending(books));
    let marks = marks(comparison);
    let ours = Policy::ALL.iter().position(|policy| *policy == Policy::Outlay);
    if let Some(ours) = ours.and_then(|at| books.get(at)) {
        report.charts.push(shares(ours, &marks));
        report.charts.push(utilisation(scene, ours, &marks));
        report.charts.push(breakers(ours, comparison, span));
    }
    report
}

fn of(figures: &[Figures], policy: Policy) -> Option<&Figures> {
    figures.iter().find(|figures| figures.policy == policy.name())
}

fn checks(report: &mut Report, figures: &[Figures], bound: Bound, jobs: usize) {
    let (Some(premium), Some(ours)) = (of(figures, Policy::PremiumOnly), of(figures, Policy::Outlay)) else {
        return;
    };
    let saved = 1.0 - ratio(ours.cost_nano_usd, premium.cost_nano_usd);
    report.check("It costs at least 60 % less than the premium model alone", saved >= 0.6, percent(saved));
    let more = ours.misses.saturating_sub(premium.misses);
    report.check(
        "It misses at most one deadline in a thousand more than the premium model alone",
        more * 1_000 <= jobs as u64 * MISSES_MAX_PERMILLE,
        format!("{} misses, {} with the premium model", ours.misses, premium.misses),
    );
    let above = ratio(ours.cost_nano_usd, bound.nano_usd) - 1.0;
    report.check("It costs at most 5 % more than the optimum", above <= 0.05, percent(above));
}

fn policies(figures: &[Figures], bound: Bound, jobs: usize) -> Table {
    let columns = [
        ("policy", false),
        ("cost, $", true),
        ("saved, %", true),
        ("to optimum", true),
        ("misses", true),
        ("misses, %", true),
        ("valid, %", true),
        ("p50, ms", true),
        ("p95, ms", true),
        ("p99, ms", true),
        ("calls", true),
        ("hedges", true),
        ("invalid", true),
        ("wasted", true),
    ];
    let mut table = Table::new("Cost, deadlines and quality", &columns);
    let premium = of(figures, Policy::PremiumOnly).map_or(0, |premium| premium.cost_nano_usd);
    let share = |part: u64| 100.0 * part as f64 / jobs.max(1) as f64;
    for one in figures {
        table.rows.push(vec![
            one.policy.clone(),
            format!("{:.4}", one.cost_nano_usd as f64 / 1e9),
            format!("{:.1}", 100.0 * (1.0 - ratio(one.cost_nano_usd, premium))),
            format!("{:.3}", ratio(one.cost_nano_usd, bound.nano_usd)),
            one.misses.to_string(),
            format!("{:.3}", share(one.misses)),
            format!("{:.2}", share(one.valid)),
            one.p50_ms.to_string(),
            one.p95_ms.to_string(),
            one.p99_ms.to_string(),
            one.calls.to_string(),
            one.hedges.to_string(),
            one.invalid.to_string(),
            one.wasted_calls.to_string(),
        ]);
    }
    let mut optimum = vec!["offline optimum".to_owned(), format!("{:.4}", bound.nano_usd as f64 / 1e9)];
    optimum.push(format!("{:.1}", 100.0 * (1.0 - ratio(bound.nano_usd, premium))));
    optimum.push("1.000".to_owned());
    optimum.push(bound.too_late.to_string());
    optimum.push(format!("{:.3}", share(bound.too_late)));
    optimum.resize(columns.len(), String::new());
    table.rows.push(optimum);
    table.note = "A miss is a job without an answer by its deadline. Valid are answers that pass the task's \
                  validator. The optimum is a lower bound: every job's cheapest call that is valid and in \
                  time, with what calls bring and outages known beforehand and rate limits relaxed. Wasted are \
                  calls to providers that were down and calls above a limit; they are not billed."
        .to_owned();
    table
}

fn buckets(scene: &Scene, books: &[Book], span_s: f64) -> Table {
    let columns = [
        ("policy", false),
        ("provider", false),
        ("requests, mean %", true),
        ("requests, busiest minute %", true),
        ("tokens, mean %", true),
        ("tokens, busiest minute %", true),
    ];
    let mut table = Table::new("Use of the rate limits", &columns);
    let minutes = (span_s / 60.0).max(1.0);
    for (policy, book) in Policy::ALL.iter().zip(books) {
        for limit in allowances(&scene.config) {
            let Some(used) = book.used.get(&limit.provider) else { continue };
            let sum = used.values().fold((0, 0), |sum, used| (sum.0 + used.0, sum.1 + used.1));
            let most = (used.values().map(|used| used.0).max(), used.values().map(|used| used.1).max());
            let part = |used: f64, limit: Option<u64>| {
                limit.map_or("no limit".to_owned(), |limit| format!("{:.1}", 100.0 * used / limit as f64))
            };
            table.rows.push(vec![
                policy.name().to_owned(),
                limit.provider.clone(),
                part(sum.0 as f64 / minutes, limit.requests_per_minute),
                part(most.0.unwrap_or(0) as f64, limit.requests_per_minute),
                part(sum.1 as f64 / minutes, limit.tokens_per_minute),
                part(most.1.unwrap_or(0) as f64, limit.tokens_per_minute),
            ]);
        }
    }
    table
}

fn costs(figures: &[Figures], bound: Bound) -> Chart {
    let bar = |label: &str, nano: i64, is_reference| Bar {
        label: label.to_owned(),
        value: nano as f64 / 1e9,
        is_reference,
    };
    let mut bars: Vec<_> = figures.iter().map(|one| bar(&one.policy, one.cost_nano_usd, false)).collect();
    bars.push(bar("offline optimum", bound.nano_usd, true));
    chart("What the trace costs", "$", Plot::Bars { bars }, Vec::new())
}

fn spending(books: &[Book]) -> Chart {
    let series = Policy::ALL.iter().zip(books).map(|(policy, book)| {
        let mut sum = 0;
        let point = |(minute, nano): (&u64, &i64)| {
            sum += nano;
            (*minute as f64 * 60.0 + 60.0, sum as f64 / 1e9)
        };
        let points = std::iter::once((0.0, 0.0)).chain(book.spent.iter().map(point)).collect();
        Series { name: policy.name().to_owned(), points, is_limit: false }
    });
    chart("Spent so far", "$", Plot::Lines { series: series.collect() }, Vec::new())
}

/// By the minute; minutes without a call count as zero.
fn by_minute<T: Copy>(of: &BTreeMap<u64, T>, last: u64, value: impl Fn(T) -> f64) -> Vec<(f64, f64)> {
    (0..=last).map(|minute| (minute as f64 * 60.0, of.get(&minute).map_or(0.0, |at| value(*at)))).collect()
}

fn shares(book: &Book, marks: &[Mark]) -> Chart {
    let last =
        book.answered.values().filter_map(|minutes| minutes.keys().next_back()).max().copied().unwrap_or(0);
    let series = book.answered.iter().map(|(model, minutes)| Series {
        name: model.clone(),
        points: by_minute(minutes, last, |calls| calls as f64),
        is_limit: false,
    });
    chart("Calls by model, with outlay", "a minute", Plot::Stack { series: series.collect() }, marks.to_vec())
}

fn utilisation(scene: &Scene, book: &Book, marks: &[Mark]) -> Chart {
    let mut series = Vec::new();
    for limit in allowances(&scene.config) {
        let Some(used) = book.used.get(&limit.provider) else { continue };
        let last = used.keys().next_back().copied().unwrap_or(0);
        let part = |(requests, tokens): (u64, u64)| {
            let of =
                |used: u64, limit: Option<u64>| limit.map_or(0.0, |limit| 100.0 * used as f64 / limit as f64);
            of(requests, limit.requests_per_minute).max(of(tokens, limit.tokens_per_minute))
        };
        series.push(Series {
            name: limit.provider.clone(),
            points: by_minute(used, last, part),
            is_limit: false,
        });
    }
    let end = series.iter().filter_map(|one| one.points.last()).map(|point| point.0).fold(0.0, f64::max);
    series.push(Series {
        name: "limit".to_owned(),
        points: vec![(0.0, 100.0), (end, 100.0)],
        is_limit: true,
    });
    chart("Use of each provider's tighter limit, with outlay", "%", Plot::Lines { series }, marks.to_vec())
}

fn breakers(book: &Book, comparison: &Comparison, span_s: f64) -> Chart {
    let mut rows = Vec::new();
    for outage in &comparison.outages {
        let (from_s, until_s) = (outage.from.as_secs_f64(), outage.until.as_secs_f64());
        let band = Band { from_s, until_s, state: "down".to_owned(), tone: Tone::Bad };
        rows.push(BandRow { name: format!("{} itself", outage.provider), bands: vec![band] });
    }
    for (name, changes) in &book.breakers {
        let mut bands = Vec::new();
        let mut before = (0.0, "closed", Tone::Good);
        for (at, state, tone) in changes {
            let at = at.as_secs_f64();
            let band = Band { from_s: before.0, until_s: at, state: before.1.to_owned(), tone: before.2 };
            bands.push(band);
            before = (at, state, *tone);
        }
        let until_s = span_s.max(before.0);
        bands.push(Band { from_s: before.0, until_s, state: before.1.to_owned(), tone: before.2 });
        rows.push(BandRow { name: name.clone(), bands });
    }
    chart("Breakers, with outlay", "", Plot::Bands { rows }, Vec::new())
}

fn marks(comparison: &Comparison) -> Vec<Mark> {
    let mark = |at: std::time::Duration, label: String| Mark { at_s: at.as_secs_f64(), label };
    let of = |outage: &super::Outage| {
        [
            mark(outage.from, format!("{} down", outage.provider)),
            mark(outage.until, format!("{} back", outage.provider)),
        ]
    };
    comparison.outages.iter().flat_map(of).collect()
}

fn chart(title: &str, unit: &str, plot: Plot, marks: Vec<Mark>) -> Chart {
    Chart { title: title.to_owned(), unit: unit.to_owned(), plot, marks }
}

fn usd(nano: i64) -> String {
    format!("${:.4}", nano as f64 / 1e9)
}

fn ratio(part: i64, whole: i64) -> f64 {
    if whole == 0 { f64::from(u8::from(part != 0)) } else { part as f64 / whole as f64 }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}
