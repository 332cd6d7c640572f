//! A choice in words: what was considered of each offer, and why nobody may take a job.

use std::time::Duration;

use super::{Ask, Candidate, OfferView};
use crate::types::evidence::Quality;
use crate::types::route::{Considered, Explanation, Lost};
use crate::types::{ErrorCode, Failure, NanoUsd};

pub(in crate::policy) fn considered_loser((view, lost): &(&OfferView, Lost)) -> Considered {
    let (model, provider) = (view.offer.id.clone(), view.offer.provider.clone());
    let (lost, quality) = (Some(lost.clone()), known_quality(view));
    Considered {
        model,
        provider,
        cost: None,
        worst: None,
        success_cost: None,
        quality,
        wait_ms: None,
        finish_ms: None,
        lost,
    }
}

/// What is known of how well it does the task, if anything is.
fn known_quality(view: &OfferView) -> Option<Quality> {
    Some(view.quality).filter(|quality| *quality != Quality::UNKNOWN)
}

pub(in crate::policy) fn considered(c: &Candidate<'_>, lost: Option<Lost>) -> Considered {
    let ms = |span: Duration| Some(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let priced = |amount: NanoUsd| (!c.price_unknown()).then_some(amount);
    Considered {
        model: c.view.offer.id.clone(),
        provider: c.view.offer.provider.clone(),
        cost: priced(c.expected_cost),
        worst: priced(c.hold),
        success_cost: priced(c.success_cost).filter(|cost| *cost != c.expected_cost),
        quality: known_quality(c.view),
        wait_ms: ms(c.wait),
        finish_ms: ms(c.finish),
        lost,
    }
}

/// Names the refusal that tells the reader most, and then all of them.
pub(super) fn failure(ask: &Ask<'_>, explanation: &Explanation) -> Failure {
    // What refused by the job's own choice of models is no news; look at the rest first.
    let news =
        |o: &&Considered| !matches!(o.lost, Some(Lost::NotAllowed | Lost::OtherProvider | Lost::TierTooLow));
    let rest: Vec<_> = explanation.offers.iter().filter(news).collect();
    let all =
        |test: fn(&Lost) -> bool| !rest.is_empty() && rest.iter().all(|o| o.lost.as_ref().is_some_and(test));
    let code = if all(|lost| matches!(lost, Lost::ContextTooSmall { .. })) {
        ErrorCode::ContextLength
    } else if rest.iter().any(|o| o.lost == Some(Lost::PriceUnknown)) {
        ErrorCode::PriceUnknown
    } else {
        ErrorCode::NoEligibleModel
    };
    let each: Vec<_> = explanation.offers.iter().map(|o| format!("{}: {}", o.model, sentence(o))).collect();
    let lead = match code {
        ErrorCode::ContextLength => "no allowed model has room for prompt and answer",
        ErrorCode::PriceUnknown => {
            "under a cap a model needs a price: set input_usd_per_mtok and output_usd_per_mtok for it"
        }
        _ => "no model may take this job",
    };
    let message = if each.is_empty() {
        format!("{lead}: the catalogue is empty")
    } else {
        format!("{lead} (task {}; {})", ask.job.task, each.join("; "))
    };
    Failure::lasting(code, message)
}

/// Why one offer lost, as a person reads it.
#[must_use]
pub fn sentence(considered: &Considered) -> String {
    match &considered.lost {
        None => "chosen".to_owned(),
        Some(Lost::NotAllowed) => "not among the models allowed".to_owned(),
        Some(Lost::OtherProvider) => "another provider is asked for".to_owned(),
        Some(Lost::LacksFeature { feature }) => format!("cannot do {}", feature.as_str()),
        Some(Lost::TooUnhurried) => "sold at a slower service tier, and somebody waits".to_owned(),
        Some(Lost::Closed) => "outside the hours at which it is sold".to_owned(),
        Some(Lost::TierTooLow) => "below the tier asked for".to_owned(),
        Some(Lost::ContextTooSmall { needed, has }) => format!("needs {needed} tokens of context, has {has}"),
        Some(Lost::OutputTooSmall { has }) => format!("writes at most {has} tokens"),
        Some(Lost::PriceUnknown) => "its price is unknown".to_owned(),
        Some(Lost::Quarantined) => "stopped for everyone".to_owned(),
        Some(Lost::BreakerOpen) => "out of service".to_owned(),
        Some(Lost::FailedHere) => "already failed this job".to_owned(),
        Some(Lost::InvalidHere) => "its answer to this job did not validate".to_owned(),
        Some(Lost::Running) => "its call is the one under way".to_owned(),
        Some(Lost::AboveLimit) => "larger than the provider's limit for a whole minute".to_owned(),
        Some(Lost::AboveMaxCost) => "its worst case is above the job's max_cost_usd".to_owned(),
        Some(Lost::TooLate) => "would answer after the deadline".to_owned(),
        Some(Lost::NotBetter) => "no better than the model whose answer did not validate".to_owned(),
        Some(Lost::FurtherUp) => "further up than the next better model".to_owned(),
        Some(Lost::BelowQualityFloor) => "below the task's quality floor".to_owned(),
        Some(Lost::NotPinned) => "not the model that these jobs keep to".to_owned(),
        Some(Lost::NotExplored) => "passed over: this job looks how one below the floor does now".to_owned(),
        Some(Lost::Dearer) if considered.success_cost.is_some() => "dearer for each success".to_owned(),
        Some(Lost::Dearer) => "dearer".to_owned(),
        Some(Lost::Slower) => "no quicker".to_owned(),
    }
}
