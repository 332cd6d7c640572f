//! Models: what they cost and cost before, what a dollar buys, whether they may be called.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Query, State};
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::events::{EventView, view as event_view};
use super::fleet::standing;
use super::frame::{Answer, Frame, Refusal, Visitor, show};
use super::pictures::{self, Picture};
use super::words::path;
use crate::admin::parts::Parts;
use crate::policy::access::Action;
use crate::policy::breaker::shared::{BreakerKey, BreakerRow};
use crate::policy::wording::time_in;
use crate::ports::directory::Event;
use crate::ports::figures::{Fresh, Grain, SpendAsk};
use crate::ports::records::EventPage;
use crate::types::catalogue::{Offer, Prices};
use crate::types::price::PriceVersion;
use crate::types::{ModelId, Wall};

const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// Weeks that the picture of tokens for a dollar goes back, this one among them.
const WEEKS: u32 = 10;
/// A week with fewer calls of a model says nothing about it.
const CALLS_MIN: u64 = 20;
/// What is shown of drift and stops: the newest of each kind, and so many together.
const KINDS: [&str; 4] = ["model_drift", "price_changed", "model_quarantined", "model_released"];
const DRIFTS: u32 = 10;

/// A version of a price.
pub(super) struct Priced {
    pub(super) since: String,
    pub(super) input: String,
    pub(super) cached: String,
    pub(super) output: String,
}

/// A model.
pub(super) struct Model {
    pub(super) id: String,
    pub(super) path: String,
    pub(super) provider: String,
    pub(super) name: String,
    pub(super) tier: &'static str,
    pub(super) is_simulated: bool,
    /// Why it is stopped, if it is.
    pub(super) stopped: Option<String>,
    pub(super) breaker: (&'static str, &'static str),
    pub(super) breaker_why: String,
    pub(super) input: String,
    pub(super) output: String,
    pub(super) history: Vec<Priced>,
}

#[derive(Template)]
#[template(path = "console/models.html")]
struct Page {
    frame: Frame,
    models: Vec<Model>,
    picture: Option<Picture>,
    drifts: Vec<EventView>,
    can_change: bool,
}

/// What the address says.
#[derive(Deserialize)]
pub(super) struct Asked {
    done: Option<String>,
}

/// The page.
pub(super) async fn page(
    State(parts): State<Arc<Parts>>,
    visitor: Visitor,
    Query(asked): Query<Asked>,
) -> Answer {
    visitor.need(Action::ReadFleet, None)?;
    let stopped = parts.directory.quarantined().await?;
    let breakers = match &parts.breakers {
        Some(breakers) => breakers.breakers().await?.rows,
        None => Vec::new(),
    };
    let prices = parts.figures.price_history(None).await?;
    let now = parts.clock.now().wall;
    let drifts = drifts(&parts).await?;
    // What a dollar buys is told over all projects, so only to those who may see all of them.
    let picture = if visitor.may(Action::Read, None) { tokens(&parts, now).await? } else { None };
    show(&Page {
        frame: Frame::new("Models", "/models", &visitor).saying(asked.done.as_deref()),
        models: parts.catalogue.iter().map(|offer| model(offer, &stopped, &breakers, &prices)).collect(),
        picture,
        drifts: drifts.iter().map(|event| event_view(event, &TimeZone::UTC)).collect(),
        can_change: visitor.may(Action::ChangeFleet, None),
    })
}

fn model(
    offer: &Offer,
    stopped: &[(ModelId, String)],
    breakers: &[(BreakerKey, BreakerRow)],
    prices: &[PriceVersion],
) -> Model {
    let of_it = |key: &BreakerKey| {
        key.provider == offer.provider && key.model.as_ref().is_none_or(|id| *id == offer.id)
    };
    // Its own breaker or its provider's: whichever keeps it from being called.
    let worst = breakers.iter().filter(|(key, _)| of_it(key)).max_by_key(|(_, row)| standing(row).2);
    let usd = |price: Option<crate::types::PicoUsdPerToken>| {
        price.map_or_else(|| "unknown".to_owned(), |price| format!("${price}"))
    };
    Model {
        id: offer.id.to_string(),
        path: path(offer.id.as_str()),
        provider: offer.provider.to_string(),
        name: offer.name.to_string(),
        tier: match offer.tier {
            crate::types::catalogue::Tier::Small => "small",
            crate::types::catalogue::Tier::Medium => "medium",
            crate::types::catalogue::Tier::Large => "large",
        },
        is_simulated: offer.simulated,
        stopped: stopped.iter().find(|(id, _)| *id == offer.id).map(|(_, why)| why.clone()),
        breaker: worst.map_or(("closed", "good"), |(_, row)| (standing(row).0, standing(row).1)),
        breaker_why: worst
            .filter(|(_, row)| standing(row).2 > 0)
            .map_or_else(String::new, |(_, row)| row.reason.clone()),
        input: usd(offer.prices.map(|prices| prices.input)),
        output: usd(offer.prices.map(|prices| prices.output)),
        history: prices.iter().rev().filter(|version| version.model == offer.id).map(priced).collect(),
    }
}

fn priced(version: &PriceVersion) -> Priced {
    let usd = |of: fn(&Prices) -> crate::types::PicoUsdPerToken| {
        version.prices.as_ref().map_or_else(|| "unknown".to_owned(), |prices| format!("${}", of(prices)))
    };
    Priced {
        since: time_in(version.holds_from(), &TimeZone::UTC),
        input: usd(|prices| prices.input),
        cached: usd(|prices| prices.cached_input),
        output: usd(|prices| prices.output),
    }
}

async fn drifts(parts: &Parts) -> Result<Vec<Event>, Refusal> {
    let mut found = Vec::new();
    for what in KINDS {
        let wanted = EventPage { what: Some(what.to_owned()), ..EventPage::default() };
        found.extend(parts.records.event_page(&wanted, DRIFTS).await?);
    }
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.truncate(DRIFTS as usize);
    Ok(found.into_iter().map(|(_, event)| event).collect())
}

/// What a dollar bought of each model, week by week: from the hourly sums, so it costs a few small questions.
async fn tokens(parts: &Parts, now: Wall) -> Result<Option<Picture>, Refusal> {
    let mut models: BTreeMap<String, Vec<(Wall, f64)>> = BTreeMap::new();
    let this_week = monday(now);
    for back in (0..WEEKS).rev() {
        let since = this_week - WEEK * back;
        let ask = SpendAsk {
            since: Some(since),
            until: Some(since + WEEK),
            project: None,
            by: Grain { model: true, ..Grain::default() },
            fresh: Fresh::Rolled,
        };
        for sum in parts.figures.spend_sums(&ask).await?.sums {
            let tokens = sum.usage.input_tokens + sum.usage.output_tokens;
            let Some(model) = sum.model.filter(|_| sum.attempts >= CALLS_MIN && sum.spent_usd.0 > 0) else {
                continue;
            };
            // For the picture only.
            let per_dollar = tokens as f64 / (sum.spent_usd.0 as f64 / 1e9);
            models.entry(model.to_string()).or_default().push((since, per_dollar));
        }
    }
    Ok(pictures::tokens_per_dollar(&models.into_iter().collect::<Vec<_>>()))
}

/// The begin of the ISO week that holds an instant, in UTC.
fn monday(at: Wall) -> Wall {
    const DAY_US: i64 = 86_400_000_000;
    let day = at.0.div_euclid(DAY_US);
    // The first day of 1970 was a Thursday.
    Wall((day - (day + 3).rem_euclid(7)) * DAY_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weeks_begin_on_mondays() {
        let at = |text: &str| Wall::from(text.parse::<jiff::Timestamp>().expect("a time"));
        assert_eq!(monday(at("2026-11-22T23:59:59Z")), at("2026-11-16T00:00:00Z"));
        assert_eq!(monday(at("2026-11-23T00:00:00Z")), at("2026-11-23T00:00:00Z"));
        assert_eq!(monday(at("1970-01-01T00:00:00Z")), at("1969-12-29T00:00:00Z"));
    }
}
