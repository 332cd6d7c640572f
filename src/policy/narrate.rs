//! What the records of a call mean, in sentences: the same ones on a terminal and on a page.

use jiff::tz::TimeZone;

use super::wording::{count, dollars_nearest, millis, time_in};
use crate::types::NanoUsd;
use crate::types::evidence::Quality;
use crate::types::ledger::HoldState;
use crate::types::route::{Considered, Explanation, Fallback};

/// Where a call's money stands, cost against hold.
#[must_use]
pub fn money(state: HoldState, hold: NanoUsd, counted: NanoUsd) -> String {
    let held = dollars_nearest(hold);
    match state {
        HoldState::Held => format!("{held} held while the call runs"),
        HoldState::Void => format!("void: nothing was billed, the hold of {held} was given back"),
        HoldState::Presumed => format!("presumed: the bill is unknown, so the whole hold of {held} counts"),
        HoldState::Settled => {
            let cost = dollars_nearest(counted);
            if counted > hold {
                let above = dollars_nearest(counted.saturating_sub(hold));
                return format!("settled: cost {cost}, which is {above} ABOVE its hold of {held}");
            }
            let share = i128::from(counted.0) * 100 / i128::from(hold.0.max(1));
            format!("settled: cost {cost} of a hold of {held} ({share} %)")
        }
    }
}

/// A routing decision as paragraphs: what was chosen and by which rule, what was expected of it, and what made
/// the choice narrower than the catalogue.
#[must_use]
pub fn decision(explanation: &Explanation) -> Vec<String> {
    let chosen = explanation.offers.iter().find(|offer| offer.lost.is_none());
    let rule = explanation.reason.sentence();
    let mut told = match chosen {
        Some(offer) => {
            vec![format!("It went to {} at {}: {rule}{}.", offer.model, offer.provider, estimate(offer))]
        }
        None => vec![format!("The rule was: {rule}.")],
    };
    told.extend(explanation.invalid.iter().map(|invalid| format!("Before that, {invalid}.")));
    told.extend(explanation.rule.iter().map(|rule| format!("A rule about its input set the floor: {rule}.")));
    told.extend(explanation.validator.iter().map(|by| format!("Its answer is checked against {by}.")));
    if explanation.offers.len() > 1 {
        let others = explanation.offers.iter().filter(|offer| offer.lost.is_some()).count();
        told.push(format!("{} stood against it.", count(others, "other offer")));
    }
    told
}

/// Who would be asked besides, and when.
#[must_use]
pub fn fallback(fallback: &Fallback, zone: &TimeZone) -> String {
    let overdue = fallback.overdue_ms.map(|ms| format!("after {} without an answer", millis(ms)));
    let last = fallback.escalate_at.map(|at| format!("at {} for the deadline", time_in(at, zone)));
    let when: Vec<_> = overdue.into_iter().chain(last).collect();
    let worst = fallback.worst.map_or_else(String::new, |w| format!(", at most {}", dollars_nearest(w)));
    let finish = millis(fallback.finish_ms);
    format!("{} at {}, {} (answer in {finish}{worst})", fallback.model, fallback.provider, when.join(" or "))
}

/// What was expected of an offer, as far as it got that far.
#[must_use]
pub fn estimate(offer: &Considered) -> String {
    let mut parts = Vec::new();
    if let Some(cost) = offer.cost {
        let worst = offer.worst.map_or_else(String::new, |w| format!(", at most {}", dollars_nearest(w)));
        parts.push(format!("{} expected{worst}", dollars_nearest(cost)));
    }
    if let Some(cost) = offer.success_cost {
        parts.push(format!("{} for each success", dollars_nearest(cost)));
    }
    if let Some(quality) = &offer.quality {
        parts.push(success(quality));
    }
    if let Some(finish) = offer.finish_ms {
        let wait = offer.wait_ms.filter(|wait| *wait > 0);
        let wait = wait.map_or_else(String::new, |wait| format!(", {} of it waiting", millis(wait)));
        parts.push(format!("answer in {}{wait}", millis(finish)));
    }
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) }
}

/// How well a model has done, and what that rests on.
fn success(quality: &Quality) -> String {
    let Quality { success_rate, lower, upper, calls, scores } = quality;
    let scores = if *scores > 0 { format!(" and {scores} scores") } else { String::new() };
    let bounds = format!("{lower} to {upper}");
    format!("succeeds {success_rate} by {calls} recent calls{scores}, true rate {bounds}")
}
