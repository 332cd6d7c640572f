//! Models: what can be bought where at what price, and which are stopped.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{At, Body, allow, model, text};
use super::views::Time;
use crate::admin::parts::Parts;
use crate::admin::problem::Problem;
use crate::policy::access::Action;
use crate::types::ModelId;
use crate::types::access::Caller;
use crate::types::catalogue::{Offer, Prices, ServiceTier, Tier};
use crate::types::price::PriceVersion;

pub(super) fn routes() -> OpenApiRouter<Arc<Parts>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(prices))
        .routes(routes!(quarantine))
        .routes(routes!(release))
}

/// Prices in dollars per million tokens, as decimal text.
#[derive(Serialize, ToSchema)]
struct PricesView {
    input_usd_per_mtok: String,
    cached_input_usd_per_mtok: String,
    cache_write_usd_per_mtok: String,
    output_usd_per_mtok: String,
}

impl From<&Prices> for PricesView {
    fn from(prices: &Prices) -> Self {
        Self {
            input_usd_per_mtok: prices.input.to_string(),
            cached_input_usd_per_mtok: prices.cached_input.to_string(),
            cache_write_usd_per_mtok: prices.cache_write.to_string(),
            output_usd_per_mtok: prices.output.to_string(),
        }
    }
}

/// A model as this process is configured.
#[derive(Serialize, ToSchema)]
struct ModelView {
    id: String,
    provider: String,
    /// The name that goes over the wire.
    name: String,
    /// `small`, `medium` or `large`.
    tier: String,
    context_tokens: u64,
    max_output_tokens: u32,
    /// Null where the price is not known: never a guess.
    prices: Option<PricesView>,
    /// `standard` or `flex`.
    service_tier: String,
    /// When it is sold, in UTC; null for always.
    hours: Option<String>,
    /// Whether its answers come from the built-in simulation.
    simulated: bool,
    /// Why it is stopped for everybody; null while it is not.
    quarantined: Option<String>,
}

/// A model that is stopped.
#[derive(Serialize, ToSchema)]
struct Stopped {
    model: String,
    /// Why; null once it was let go on.
    reason: Option<String>,
}

/// The catalogue, and what is stopped without being in it.
#[derive(Serialize, ToSchema)]
struct Models {
    items: Vec<ModelView>,
    stopped_elsewhere: Vec<Stopped>,
}

/// A version of a model's price.
#[derive(Serialize, ToSchema)]
struct PriceView {
    version: i64,
    /// When the store learnt of it.
    since: Time,
    /// Null where no price was known.
    prices: Option<PricesView>,
}

/// Every version of a price, the oldest first.
#[derive(Serialize, ToSchema)]
struct PriceHistory {
    model: String,
    items: Vec<PriceView>,
}

/// Why a model is stopped.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Why {
    /// For whoever asks later.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

fn view(offer: &Offer, quarantined: Option<String>) -> ModelView {
    let tier = match offer.tier {
        Tier::Small => "small",
        Tier::Medium => "medium",
        Tier::Large => "large",
    };
    let service_tier = match offer.sale.service_tier {
        ServiceTier::Standard => "standard",
        ServiceTier::Flex => "flex",
    };
    ModelView {
        id: offer.id.to_string(),
        provider: offer.provider.to_string(),
        name: offer.name.to_string(),
        tier: tier.to_owned(),
        context_tokens: offer.context_tokens,
        max_output_tokens: offer.max_output_tokens,
        prices: offer.prices.as_ref().map(Into::into),
        service_tier: service_tier.to_owned(),
        hours: offer.sale.hours.map(|hours| hours.to_string()),
        simulated: offer.simulated,
        quarantined,
    }
}

/// The models of this process's configuration.
#[utoipa::path(get, path = "/models", tag = "models", responses((status = 200, body = Models)))]
async fn list(State(parts): State<Arc<Parts>>, caller: Caller) -> Result<Json<Models>, Problem> {
    allow(&caller, Action::ReadFleet, None)?;
    let stopped = parts.directory.quarantined().await?;
    let reason =
        |id: &ModelId| stopped.iter().find(|(model, _)| model == id).map(|(_, reason)| reason.clone());
    let items = parts.catalogue.iter().map(|offer| view(offer, reason(&offer.id))).collect();
    let elsewhere =
        stopped.iter().filter(|(model, _)| parts.catalogue.iter().all(|offer| offer.id != *model));
    let stopped_elsewhere = elsewhere
        .map(|(model, why)| Stopped { model: model.to_string(), reason: Some(why.clone()) })
        .collect();
    Ok(Json(Models { items, stopped_elsewhere }))
}

/// How a model's price has moved.
#[utoipa::path(get, path = "/models/{model}/prices", tag = "models",
    params(("model" = String, Path, description = "The catalogue's name for it")),
    responses((status = 200, body = PriceHistory), (status = 404, description = "There is no such model.")))]
async fn prices(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(id): At<String>,
) -> Result<Json<PriceHistory>, Problem> {
    let id = model(id)?;
    allow(&caller, Action::ReadFleet, None)?;
    let found = parts.figures.price_history(Some(&id)).await?;
    if found.is_empty() && parts.catalogue.iter().all(|offer| offer.id != id) {
        return Err(unknown(&id));
    }
    let view = |row: &PriceVersion| PriceView {
        version: row.version,
        since: Time(row.holds_from()),
        prices: row.prices.as_ref().map(Into::into),
    };
    Ok(Json(PriceHistory { model: id.to_string(), items: found.iter().map(view).collect() }))
}

/// Stops a model for everybody.
#[utoipa::path(post, path = "/models/{model}/quarantine", tag = "models",
    params(("model" = String, Path, description = "The catalogue's name for it")), request_body = Why,
    responses((status = 200, body = Stopped), (status = 404, description = "There is no such model.")))]
async fn quarantine(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(id): At<String>,
    Body(why): Body<Why>,
) -> Result<Json<Stopped>, Problem> {
    let id = model(id)?;
    allow(&caller, Action::ChangeFleet, None)?;
    let reason = text("reason", why.reason)?;
    known(&parts, &id).await?;
    parts.directory.set_quarantined(&id, Some(&reason), &caller.name).await?;
    Ok(Json(Stopped { model: id.to_string(), reason: Some(reason) }))
}

/// Lets a stopped model go on.
#[utoipa::path(post, path = "/models/{model}/release", tag = "models",
    params(("model" = String, Path, description = "The catalogue's name for it")),
    responses((status = 200, body = Stopped), (status = 404, description = "There is no such model.")))]
async fn release(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    At(id): At<String>,
) -> Result<Json<Stopped>, Problem> {
    let id = model(id)?;
    allow(&caller, Action::ChangeFleet, None)?;
    known(&parts, &id).await?;
    // A model that is not stopped needs no event that says so.
    if parts.directory.quarantined().await?.iter().any(|(model, _)| *model == id) {
        parts.directory.set_quarantined(&id, None, &caller.name).await?;
    }
    Ok(Json(Stopped { model: id.to_string(), reason: None }))
}

fn unknown(id: &ModelId) -> Problem {
    Problem::not_found(format!("there is no model `{id}`"))
}

/// A model of this process's configuration, or one that is stopped.
async fn known(parts: &Parts, id: &ModelId) -> Result<(), Problem> {
    if parts.catalogue.iter().any(|offer| offer.id == *id)
        || parts.directory.quarantined().await?.iter().any(|(model, _)| model == id)
    {
        return Ok(());
    }
    Err(unknown(id))
}
