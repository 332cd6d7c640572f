//! `[guard]`: thresholds of the loop guard.

use std::collections::HashMap;
use std::time::Duration;

use super::check::{count, span};
use super::raw::{Money, RawGuard, RawProject};
use super::read::{Item, Place, Problems};
use super::show;
use crate::policy::guard::spend::{Baseline, Burn};
use crate::policy::guard::{Mode, Repeats, Settings};
use crate::types::{NanoUsd, ProjectId};

/// Money is counted by the minute for this long.
const RECENT: Duration = Duration::from_secs(2 * 3600);
/// A key's window is cut into tenths; it is kept no longer than this.
const WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);
const COUNT_MAX: u32 = 1_000_000;

pub(super) fn check(p: &mut Problems, item: &Item<RawGuard>) -> Settings {
    let (at, raw, base) = (&item.place, &item.value, Settings::default());
    let lineage = ("lineage_alert", raw.lineage_alert, "lineage_jobs", raw.lineage_jobs);
    let content = ("content_alert", raw.content_alert, "content_jobs", raw.content_jobs);
    let growth = ("growth_alert", raw.growth_alert, "growth_jobs", raw.growth_jobs);
    let Burn { short_percent, short, long_percent, long } = base.burn;
    let burn = Burn {
        short_percent: percent(p, at, "burn_percent", raw.burn_percent).unwrap_or(short_percent),
        short: within(p, at, "burn_window", raw.burn_window.as_ref(), RECENT).unwrap_or(short),
        long_percent: percent(p, at, "burn_long_percent", raw.burn_long_percent).unwrap_or(long_percent),
        long: within(p, at, "burn_long_window", raw.burn_long_window.as_ref(), RECENT).unwrap_or(long),
    };
    if burn.short > burn.long {
        p.add(at, "burn_window", "must not be longer than burn_long_window");
    }
    let least = raw.baseline_usd.as_ref().and_then(|Money(text)| {
        NanoUsd::parse_cap(text).map_err(|what| p.add(at, "baseline_usd", format!("is wrong: {what}"))).ok()
    });
    let baseline = Baseline {
        times: count(p, at, "baseline_times", raw.baseline_times, COUNT_MAX).unwrap_or(base.baseline.times),
        least: least.unwrap_or(base.baseline.least),
        window: within(p, at, "baseline_window", raw.baseline_window.as_ref(), RECENT)
            .unwrap_or(base.baseline.window),
    };
    Settings {
        enabled: raw.enabled.unwrap_or(base.enabled),
        hops: count(p, at, "hops", raw.hops, 9_999).unwrap_or(base.hops),
        lineage: repeats(p, at, lineage, ("lineage_window", raw.lineage_window.as_ref()), base.lineage),
        lineage_percent: percent(p, at, "lineage_percent", raw.lineage_percent)
            .unwrap_or(base.lineage_percent),
        content: repeats(p, at, content, ("content_window", raw.content_window.as_ref()), base.content),
        growth: repeats(p, at, growth, ("growth_window", raw.growth_window.as_ref()), base.growth),
        growth_prefix: count(p, at, "growth_prefix_bytes", raw.growth_prefix_bytes, COUNT_MAX)
            .map_or(base.growth_prefix, |n| n as usize),
        burn,
        baseline,
        throttle: count(p, at, "throttle_per_minute", raw.throttle_per_minute, COUNT_MAX),
        stop_after: match raw.stop_after {
            Some(0) => None,
            given => count(p, at, "stop_after", given, COUNT_MAX).or(base.stop_after),
        },
        release_step: span(p, at, "release_step", raw.release_step.as_ref()).unwrap_or(base.release_step),
    }
}

/// What single projects say.
pub(super) fn modes(projects: &[Item<RawProject>]) -> HashMap<ProjectId, Mode> {
    let mode =
        |item: &Item<RawProject>| Some((ProjectId::from(item.value.id.as_deref()?), item.value.guard?));
    projects.iter().filter_map(mode).collect()
}

fn percent(p: &mut Problems, at: &Place, key: &str, number: Option<i64>) -> Option<u32> {
    count(p, at, key, number, 100)
}

/// A span that what is counted reaches back over.
fn within(
    p: &mut Problems,
    at: &Place,
    key: &str,
    text: Option<&String>,
    most: Duration,
) -> Option<Duration> {
    let span = span(p, at, key, text)?;
    if span > most || span < Duration::from_secs(60) {
        p.add(at, key, format!("must be between 1m and {}", show::span(most)));
        return None;
    }
    Some(span)
}

fn repeats(
    p: &mut Problems,
    at: &Place,
    (alert_key, alert, park_key, park): (&str, Option<i64>, &str, Option<i64>),
    (window_key, window): (&str, Option<&String>),
    base: Repeats,
) -> Repeats {
    let given = count(p, at, alert_key, alert, COUNT_MAX);
    let park = count(p, at, park_key, park, COUNT_MAX).unwrap_or(base.park);
    // A lower limit lowers an alert that nobody set.
    let alert = given.unwrap_or(base.alert.min(park));
    if alert > park {
        p.add(at, alert_key, format!("must not be above {park_key}, which is {park}"));
    }
    Repeats { alert, park, window: within(p, at, window_key, window, WINDOW_MAX).unwrap_or(base.window) }
}

/// As it is shown.
pub(super) fn raw(settings: &Settings) -> RawGuard {
    let number = |n: u32| Some(i64::from(n));
    let spans = |window: Duration| Some(show::span(window));
    RawGuard {
        enabled: Some(settings.enabled),
        hops: number(settings.hops),
        lineage_alert: number(settings.lineage.alert),
        lineage_jobs: number(settings.lineage.park),
        lineage_window: spans(settings.lineage.window),
        lineage_percent: number(settings.lineage_percent),
        content_alert: number(settings.content.alert),
        content_jobs: number(settings.content.park),
        content_window: spans(settings.content.window),
        growth_alert: number(settings.growth.alert),
        growth_jobs: number(settings.growth.park),
        growth_window: spans(settings.growth.window),
        growth_prefix_bytes: i64::try_from(settings.growth_prefix).ok(),
        burn_percent: number(settings.burn.short_percent),
        burn_window: spans(settings.burn.short),
        burn_long_percent: number(settings.burn.long_percent),
        burn_long_window: spans(settings.burn.long),
        baseline_times: number(settings.baseline.times),
        baseline_usd: Some(Money(settings.baseline.least.to_string())),
        baseline_window: spans(settings.baseline.window),
        throttle_per_minute: settings.throttle.map(i64::from),
        stop_after: number(settings.stop_after.unwrap_or(0)),
        release_step: spans(settings.release_step),
    }
}
