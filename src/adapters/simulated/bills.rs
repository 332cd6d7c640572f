//! The simulation's own bill book: what a provider's invoice would say.

use std::collections::HashMap;

use crate::ports::provider::Call;
use crate::types::{AttemptId, NanoUsd, Usage};

/// Everything the simulation was asked and has billed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bills {
    /// Requests that came, whatever became of them.
    pub calls: u64,
    /// Requests that were billed.
    pub billed_calls: u64,
    /// What all of them cost together; nothing for offers without a price.
    pub billed: NanoUsd,
    /// Tokens of the billed requests.
    pub usage: Usage,
    /// Each attempt by itself, only with `record`.
    pub attempts: HashMap<AttemptId, AttemptBill>,
}

/// What one attempt id has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttemptBill {
    /// Requests that carried it; more than one is a fault of the caller.
    pub calls: u64,
    /// What they cost.
    pub billed: NanoUsd,
}

impl Bills {
    pub(super) fn count_call(&mut self, recorded: Option<AttemptId>) {
        self.calls += 1;
        if let Some(attempt) = recorded {
            self.attempts.entry(attempt).or_default().calls += 1;
        }
    }

    pub(super) fn count_bill(&mut self, recorded: Option<AttemptId>, usage: Usage, cost: NanoUsd) {
        self.billed_calls += 1;
        self.billed = self.billed.saturating_add(cost);
        self.usage += usage;
        if let Some(attempt) = recorded {
            let bill = self.attempts.entry(attempt).or_default();
            bill.billed = bill.billed.saturating_add(cost);
        }
    }
}

/// The price of a call, rounded up once, by the prices of its offer.
pub(super) fn cost(call: &Call, usage: Usage) -> NanoUsd {
    let Some(prices) = &call.offer.prices else {
        return NanoUsd::ZERO;
    };
    let part = |tokens: u64, pico: i64| i128::from(tokens) * i128::from(pico);
    let pico = part(usage.input_tokens, prices.input.0) + part(usage.output_tokens, prices.output.0);
    NanoUsd(i64::try_from((pico + 999).div_euclid(1000)).unwrap_or(i64::MAX))
}
