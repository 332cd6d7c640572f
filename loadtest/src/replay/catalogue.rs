//! The built-in catalogue of `compare`, as real workers and the provider simulator need it.

use std::sync::Arc;

use anyhow::Result;
use outlay::types::catalogue::Offer;

use crate::compare::{self, CATALOGUE, built_in};
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

pub(super) fn offers() -> Result<Vec<Arc<Offer>>> {
    Ok(built_in()?.models)
}

pub(super) fn allowances() -> Result<Vec<Allowance>> {
    Ok(compare::allowances(&built_in()?))
}

pub(super) fn price(offer: &Offer) -> Price {
    let zero = Price { input: 0, cached_input: 0, output: 0 };
    offer.prices.map_or(zero, |prices| Price {
        input: prices.input.0,
        cached_input: prices.cached_input.0,
        output: prices.output.0,
    })
}
