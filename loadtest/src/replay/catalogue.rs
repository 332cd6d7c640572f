//! The built-in catalogue of `compare`, as real workers and the provider simulator need it.

use std::sync::Arc;

use anyhow::Result;
use outlay::config::{Config, Source};
use outlay::types::catalogue::Offer;

use crate::compare::CATALOGUE;
use crate::provider::Price;
use crate::record::Allowance;

/// The same configuration with every provider at the simulator's address.
pub(super) fn text(slots: usize) -> String {
    let mut text = String::new();
    let mut is_kept = true;
    for line in CATALOGUE.lines() {
        if line.starts_with('[') {
            // The rig has its own [worker]; what [defaults] say is said for the one task.
            is_kept = line.starts_with("[[");
        }
        if !is_kept {
            continue;
        }
        match line {
            "kind = \"simulated\"" => text += "kind = \"openai\"\nbase_url = \"{provider}/v1\"\n",
            line if line.starts_with("max_concurrent") => text += &format!("max_concurrent = {slots}\n"),
            line => text += &format!("{line}\n"),
        }
    }
    text + "[[task]]\nid = \"t\"\nmax_output_tokens = 2048\nvalidate = \"json\"\n"
}

fn config() -> Result<Config> {
    Ok(Config::parse(CATALOGUE, Source::File("the built-in catalogue".into()), &|_| None)?)
}

pub(super) fn offers() -> Result<Vec<Arc<Offer>>> {
    Ok(config()?.models)
}

pub(super) fn allowances() -> Result<Vec<Allowance>> {
    let limit = |limit: Option<std::num::NonZeroU32>| limit.map(|limit| u64::from(limit.get()));
    let of = |provider: &outlay::config::ProviderConfig| Allowance {
        provider: provider.id.to_string(),
        requests_per_minute: limit(provider.requests_per_minute),
        tokens_per_minute: limit(provider.tokens_per_minute),
    };
    Ok(config()?.providers.iter().map(of).collect())
}

pub(super) fn price(offer: &Offer) -> Price {
    let zero = Price { input: 0, cached_input: 0, output: 0 };
    offer.prices.map_or(zero, |prices| Price {
        input: prices.input.0,
        cached_input: prices.cached_input.0,
        output: prices.output.0,
    })
}
