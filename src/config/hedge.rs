//! `hedge_share` and `hedge_after`: from what is written to what is meant, and back.

use super::check;
use super::read::{Place, Problems};
use crate::policy::hedge::HedgeAfter;

/// Hedges to a million calls where nothing is said: 5 %.
const SHARE_PPM: u32 = 50_000;

/// A share from 0 to 1, in millionths.
pub(super) fn share_ppm(p: &mut Problems, at: &Place, share: Option<f64>) -> u32 {
    let Some(share) = share else { return SHARE_PPM };
    if !(0.0..=1.0).contains(&share) {
        p.add(at, "hedge_share", format!("must be between 0 and 1, not {share}"));
        return SHARE_PPM;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
    let ppm = (share * 1e6).round() as u32;
    ppm
}

/// As it would be written.
pub(super) fn show_share(ppm: u32) -> f64 {
    f64::from(ppm) / 1e6
}

/// `"never"`, `"auto"`, a percentile such as `"p90"`, or a span. `None` where nothing usable is said.
pub(super) fn after(p: &mut Problems, at: &Place, text: Option<&String>) -> Option<Option<HedgeAfter>> {
    let word = text?.trim();
    if word == "never" {
        return Some(None);
    }
    if word == "auto" {
        return Some(Some(HedgeAfter::Auto));
    }
    if let Some(number) = word.strip_prefix('p') {
        let percent = number.parse().ok().filter(|percent| (1..=99).contains(percent));
        if percent.is_none() {
            p.add(at, "hedge_after", format!("must be a percentile from \"p1\" to \"p99\", not \"{word}\""));
        }
        return percent.map(|percent| Some(HedgeAfter::Percentile(percent)));
    }
    check::span(p, at, "hedge_after", text).map(|span| Some(HedgeAfter::Span(span)))
}

/// As it would be written.
pub(super) fn show_after(after: Option<HedgeAfter>) -> String {
    match after {
        None => "never".to_owned(),
        Some(HedgeAfter::Auto) => "auto".to_owned(),
        Some(HedgeAfter::Percentile(percent)) => format!("p{percent}"),
        Some(HedgeAfter::Span(span)) => super::show::span(span),
    }
}
