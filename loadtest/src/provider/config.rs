//! What a simulated provider is told: prices, lengths, delays, faults and limits. One plain value, so
//! that a JSON file, a test and a running server's update all speak of the same thing.

use super::{
    draw::{Draw, Purpose},
    fault::{Faults, Rule, Spell},
    price::Price,
};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Configuration of a simulated provider. The default answers any model at once, without a fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderConfig {
    /// Equal seeds and equal calls give equal answers, delays and faults.
    pub seed: u64,
    /// Price of each model.
    pub prices: BTreeMap<String, Price>,
    /// Price of every other model; if absent, a model without a price is a 404.
    pub default_price: Option<Price>,
    /// Share of the input, 0 to 1, that is billed as read from the cache (rounded down to tokens).
    pub cached_input_share: f64,
    /// Share of the output, 0 to 1, that is thought: billed like the rest and not shown (rounded down
    /// to tokens).
    pub thinking_share: f64,
    /// Share of the prompts, 0 to 1, that each model answers with broken JSON where JSON is asked for.
    /// The same model breaks the same prompt again, and another one need not.
    pub invalid_output: BTreeMap<String, f64>,
    /// How long answers are.
    pub output: Output,
    /// How long they take.
    pub latency: Latency,
    /// How long answers of single models take, in place of `latency`.
    pub model_latency: BTreeMap<String, Latency>,
    /// Faults at random.
    pub faults: Faults,
    /// Times at which other faults come than usual.
    pub schedule: Vec<Spell>,
    /// Say in OpenAI's `usage` what the call cost, as resellers do.
    pub reports_cost: bool,
    /// The tier at which an OpenAI answer says that it was served.
    pub service_tier: String,
    /// Faults and answers on order; they go before random faults.
    pub rules: Vec<Rule>,
    /// Limits that are really enforced.
    pub limit: RateLimit,
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            prices: BTreeMap::new(),
            // $0.25, $0.025 and $2 per million tokens: the order of today's small models.
            default_price: Some(Price { input: 250_000, cached_input: 25_000, output: 2_000_000 }),
            cached_input_share: 0.0,
            thinking_share: 0.0,
            invalid_output: BTreeMap::new(),
            output: Output::default(),
            latency: Latency::default(),
            model_latency: BTreeMap::new(),
            faults: Faults::default(),
            schedule: Vec::new(),
            reports_cost: false,
            service_tier: "default".to_owned(),
            rules: Vec::new(),
            limit: RateLimit::default(),
        }
    }
}

/// Output length: log-normal, seeded by the prompt, so that the same prompt always gets the same answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// Median length in tokens.
    pub median_tokens: f64,
    /// Standard deviation of the length's logarithm.
    pub sigma: f64,
    /// Most output tokens of a request that asks for no maximum.
    pub max_tokens: u64,
}

impl Default for Output {
    fn default() -> Self {
        Self { median_tokens: 40.0, sigma: 0.6, max_tokens: 4_096 }
    }
}

/// Time until an answer: log-normal around `base_ms + ms_per_token * output tokens`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Latency {
    /// Median time of an answer of no length, in milliseconds.
    pub base_ms: f64,
    /// Added to the median for each output token, in milliseconds.
    pub ms_per_token: f64,
    /// Standard deviation of the time's logarithm.
    pub sigma: f64,
    /// Share of calls, 0 to 1, that stall.
    pub stall_share: f64,
    /// Added to the time of a call that stalls, in milliseconds.
    pub stall_ms: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { base_ms: 0.0, ms_per_token: 0.0, sigma: 0.25, stall_share: 0.0, stall_ms: 30_000.0 }
    }
}

impl Latency {
    fn validate(&self) -> Result<()> {
        let share = self.stall_share;
        ensure!((0.0..=1.0).contains(&share), "latency.stall_share is {share}, not within 0 to 1");
        let amounts = [
            ("latency.base_ms", self.base_ms),
            ("latency.ms_per_token", self.ms_per_token),
            ("latency.sigma", self.sigma),
            ("latency.stall_ms", self.stall_ms),
        ];
        for (name, amount) in amounts {
            ensure!(amount.is_finite() && amount >= 0.0, "{name} is {amount}, not a number from 0 up");
        }
        Ok(())
    }

    /// How long a call waits; `None` means that it must not even touch a timer.
    pub(crate) fn delay(&self, output_tokens: u64, seed: u64, key: u64) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_secs(86_400);
        let median_ms = self.base_ms + self.ms_per_token * output_tokens as f64;
        if median_ms <= 0.0 && self.stall_share <= 0.0 {
            return None;
        }
        let mut draw = Draw::new(seed, key, Purpose::Latency);
        let stalls = draw.unit() < self.stall_share;
        let usual_ms = draw.log_normal(median_ms, self.sigma);
        let ms = usual_ms + if stalls { self.stall_ms } else { 0.0 };
        let delay = Duration::try_from_secs_f64(ms / 1_000.0).map_or(LONGEST, |d| d.min(LONGEST));
        (!delay.is_zero()).then_some(delay)
    }
}

/// Rate limits, over all models together. Calls beyond them get a 429 and are not billed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Requests per minute; unlimited if absent.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, counted as input plus the asked maximum; unlimited if absent.
    pub tokens_per_minute: Option<u64>,
    /// How much may be used at once: what accrues in this many milliseconds.
    pub burst_ms: u64,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { requests_per_minute: None, tokens_per_minute: None, burst_ms: 60_000 }
    }
}

impl ProviderConfig {
    /// Reads a configuration from JSON; absent keys take their defaults, unknown ones are errors.
    pub fn from_json(text: &str) -> Result<Self> {
        let config: Self = serde_json::from_str(text).context("simulator configuration")?;
        config.validate()?;
        Ok(config)
    }

    /// The price of `model`, if it is known.
    pub(crate) fn price(&self, model: &str) -> Option<Price> {
        self.prices.get(model).copied().or(self.default_price)
    }

    /// How long answers of `model` take.
    pub(crate) fn latency_of(&self, model: &str) -> &Latency {
        self.model_latency.get(model).unwrap_or(&self.latency)
    }

    /// Says which value makes no sense, if one does.
    pub fn validate(&self) -> Result<()> {
        for (model, price) in self
            .prices
            .iter()
            .map(|(m, p)| (m.as_str(), p))
            .chain(self.default_price.iter().map(|price| ("default_price", price)))
        {
            let least = price.input.min(price.cached_input).min(price.output);
            ensure!(least >= 0, "price of {model:?} is negative");
        }
        for latency in std::iter::once(&self.latency).chain(self.model_latency.values()) {
            latency.validate()?;
        }
        for spell in &self.schedule {
            let (from, until) = (spell.from_s, spell.until_s);
            let in_order = from.is_finite() && until.is_finite() && 0.0 <= from && from < until;
            ensure!(in_order, "schedule from {from} s until {until} s is no time");
        }
        let shares = [
            ("cached_input_share", self.cached_input_share),
            ("thinking_share", self.thinking_share),
            ("sum of faults.rates", self.faults.rates.values().sum()),
        ];
        let spells =
            self.schedule.iter().map(|spell| ("sum of rates in schedule", spell.rates.values().sum()));
        let invalid = self.invalid_output.values().map(|share| ("a share in invalid_output", *share));
        for (name, share) in shares.into_iter().chain(invalid).chain(spells) {
            ensure!((0.0..=1.0).contains(&share), "{name} is {share}, not within 0 to 1");
        }
        let amounts = [("output.sigma", self.output.sigma)];
        let rates = self.schedule.iter().map(|spell| &spell.rates).chain([&self.faults.rates]);
        let rates = rates.flat_map(|rates| rates.values()).map(|rate| ("a rate in faults.rates", *rate));
        for (name, amount) in amounts.into_iter().chain(rates) {
            ensure!(amount.is_finite() && amount >= 0.0, "{name} is {amount}, not a number from 0 up");
        }
        let median = self.output.median_tokens;
        ensure!(median.is_finite() && median >= 1.0, "output.median_tokens is {median}, less than 1");
        let counts = [
            ("output.max_tokens", self.output.max_tokens),
            ("faults.overbill_factor", self.faults.overbill_factor),
            ("limit.burst_ms", self.limit.burst_ms),
            ("limit.requests_per_minute", self.limit.requests_per_minute.unwrap_or(1)),
            ("limit.tokens_per_minute", self.limit.tokens_per_minute.unwrap_or(1)),
        ];
        for (name, count) in counts {
            ensure!(count > 0, "{name} is 0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Latency, ProviderConfig};
    use std::time::Duration;

    #[test]
    fn no_latency_means_no_timer() {
        assert_eq!(Latency::default().delay(1_000, 1, 2), None);
    }

    #[test]
    fn latency_grows_with_the_answer_and_repeats() {
        let latency = Latency { base_ms: 10.0, ms_per_token: 2.0, sigma: 0.0, ..Latency::default() };
        assert_eq!(latency.delay(0, 1, 2), Some(Duration::from_millis(10)));
        assert_eq!(latency.delay(20, 1, 2), Some(Duration::from_millis(50)));
        let noisy = Latency { sigma: 0.5, ..latency };
        assert_eq!(noisy.delay(20, 1, 2), noisy.delay(20, 1, 2));
        assert_ne!(noisy.delay(20, 1, 2), noisy.delay(20, 1, 3));
    }

    #[test]
    fn the_asked_share_of_calls_stalls() {
        let latency = Latency { stall_share: 0.1, ..Latency::default() };
        let stalled = (0..10_000).filter(|key| latency.delay(40, 3, *key).is_some()).count();
        assert!((900..1_100).contains(&stalled), "{stalled}");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let table = [
            (r#"{"sede": 1}"#, "sede"),
            (r#"{"latency": {"base": 1}}"#, "base"),
            (r#"{"latency": {"base_ms": -1}}"#, "latency.base_ms"),
            (r#"{"thinking_share": 1.5}"#, "thinking_share"),
            (r#"{"latency": {"stall_share": 1.5}}"#, "latency.stall_share"),
            (r#"{"faults": {"rates": {"hang": 0.6, "drop": 0.6}}}"#, "faults.rates"),
            (r#"{"faults": {"rates": {"hang": -0.6, "drop": 0.7}}}"#, "faults.rates"),
            (r#"{"faults": {"rates": {"explode": 0.1}}}"#, "explode"),
            (r#"{"model_latency": {"m": {"base_ms": -1}}}"#, "latency.base_ms"),
            (r#"{"schedule": [{"from_s": 5, "until_s": 4}]}"#, "schedule"),
            (r#"{"schedule": [{"until_s": 4, "rates": {"hang": 1.5}}]}"#, "schedule"),
            (r#"{"faults": {"overbill_factor": 0}}"#, "overbill_factor"),
            (r#"{"output": {"median_tokens": 0}}"#, "median_tokens"),
            (r#"{"invalid_output": {"m": 1.1}}"#, "invalid_output"),
            (r#"{"limit": {"requests_per_minute": 0}}"#, "requests_per_minute"),
            (r#"{"prices": {"m": {"input": 1, "cached_input": -1, "output": 1}}}"#, "price of \"m\""),
        ];
        for (json, named) in table {
            let error = format!("{:#}", ProviderConfig::from_json(json).expect_err(json));
            assert!(error.contains(named), "{json}: {error}");
        }
        assert_eq!(ProviderConfig::from_json("{}").expect("defaults"), ProviderConfig::default());
    }

    #[test]
    fn a_written_configuration_reads_back() {
        let config = ProviderConfig::default();
        let json = serde_json::to_string(&config).expect("serialises");
        assert_eq!(ProviderConfig::from_json(&json).expect("reads back"), config);
    }
}
