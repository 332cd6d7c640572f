//! How providers behave in simulated time. The same seed, prompt and model give the same answer after the
//! same time, however often and by whichever policy it is asked: policies are compared on equal terms, and
//! the optimum knows what each call would have brought.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use outlay::policy::price::actual_rounded_up;
use outlay::types::catalogue::{Offer, Tier};
use outlay::types::{NanoUsd, Usage};
use serde::Deserialize;

use crate::provider::{Draw, Fault, Latency, Purpose, Spell, hash_str};
use crate::trace::{Planned, span};

const BUILT_IN: &str = include_str!("world.toml");
/// How long a provider that is down takes to say so.
pub(crate) const REFUSAL: Duration = Duration::from_millis(200);

/// How models behave.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// For models that are not named.
    #[serde(default)]
    tier: BTreeMap<String, Behaviour>,
    #[serde(default)]
    model: BTreeMap<String, Behaviour>,
    #[serde(skip)]
    pub(crate) outages: Vec<Outage>,
    #[serde(skip)]
    pub(crate) seed: u64,
}

/// How one model behaves.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Behaviour {
    base_ms: f64,
    ms_per_token: f64,
    sigma: f64,
    stall_share: f64,
    stall_ms: f64,
    invalid_share: f64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            base_ms: 500.0,
            ms_per_token: 8.0,
            sigma: 0.25,
            stall_share: 0.0,
            stall_ms: 0.0,
            invalid_share: 0.0,
        }
    }
}

/// A provider answers nobody for a while: calls that begin then fail, and are not billed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// Which.
    pub provider: String,
    /// Since the start.
    pub from: Duration,
    /// Since the start.
    pub until: Duration,
}

impl std::str::FromStr for Outage {
    type Err = String;

    /// `PROVIDER:FROM-UNTIL`, such as `cheap:20m-25m`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no outage such as cheap:20m-25m");
        let (provider, times) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (from, until) = times.split_once('-').ok_or_else(wrong)?;
        let (from, until) = (span(from)?, span(until)?);
        if from >= until {
            return Err(format!("{text:?} ends before it begins"));
        }
        Ok(Self { provider: provider.to_owned(), from, until })
    }
}

impl Outage {
    /// For the provider simulator.
    pub(crate) fn spell(&self, model: &str) -> Spell {
        Spell {
            from_s: self.from.as_secs_f64(),
            until_s: self.until.as_secs_f64(),
            model: Some(model.to_owned()),
            rates: [(Fault::Unavailable, 1.0)].into(),
        }
    }
}

/// What one call brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) takes: Duration,
    pub(crate) is_valid: bool,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) cost: NanoUsd,
}

impl World {
    pub(crate) fn read(path: Option<&Path>, seed: u64, outages: Vec<Outage>) -> Result<Self> {
        let (name, text) = match path {
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
                (name, text)
            }
            None => ("the built-in world".to_owned(), BUILT_IN.to_owned()),
        };
        let mut world: Self = toml::from_str(&text).with_context(|| name.clone())?;
        for (of, behaviour) in world.tier.iter().chain(&world.model) {
            behaviour.check().with_context(|| format!("{name}: {of}"))?;
        }
        for tier in world.tier.keys() {
            ensure!(["small", "medium", "large"].contains(&tier.as_str()), "{name}: tier.{tier} is no tier");
        }
        (world.outages, world.seed) = (outages, seed);
        Ok(world)
    }

    /// Refuses what it says of models and providers that are not there.
    pub(crate) fn check(&self, offers: &[std::sync::Arc<Offer>]) -> Result<()> {
        let models: Vec<_> = offers.iter().map(|offer| offer.id.as_str()).collect();
        if let Some(unknown) = self.model.keys().find(|model| !models.contains(&model.as_str())) {
            bail!("the world describes the model {unknown}; the configuration has {}", models.join(", "));
        }
        let mut providers: Vec<_> = offers.iter().map(|offer| offer.provider.as_str()).collect();
        providers.dedup();
        if let Some(outage) =
            self.outages.iter().find(|outage| !providers.contains(&outage.provider.as_str()))
        {
            bail!("--outage {}: no such provider; there are {}", outage.provider, providers.join(", "));
        }
        if let Some(offer) = offers.iter().find(|offer| offer.prices.is_none()) {
            bail!("the price of the model {} is not known, so nothing can be compared", offer.id);
        }
        Ok(())
    }

    pub(crate) fn is_down(&self, provider: &str, at: Duration) -> bool {
        self.outages
            .iter()
            .any(|outage| outage.provider == provider && (outage.from..outage.until).contains(&at))
    }

    /// Whether there is no instant from `from` to `to` at which it answers.
    pub(crate) fn is_down_throughout(&self, provider: &str, from: Duration, to: Duration) -> bool {
        let mut at = from;
        let of_it = || self.outages.iter().filter(|outage| outage.provider == provider);
        while let Some(outage) = of_it().find(|outage| (outage.from..outage.until).contains(&at)) {
            at = outage.until;
            if at > to {
                return true;
            }
        }
        false
    }

    /// The median time of an answer of this length.
    pub(crate) fn usual_ms(&self, offer: &Offer, output_tokens: f64) -> f64 {
        let behaviour = self.of(offer);
        behaviour.base_ms + behaviour.ms_per_token * output_tokens
    }

    pub(crate) fn fate(&self, planned: &Planned, offer: &Offer, output_tokens_max: u32) -> Fate {
        let behaviour = self.of(offer);
        let key = planned.content ^ hash_str(offer.id.as_str());
        let mut draw = Draw::new(self.seed, key, Purpose::Latency);
        let output_tokens = u64::from(planned.output_tokens.min(output_tokens_max));
        let stalls = draw.unit() < behaviour.stall_share;
        let median = behaviour.base_ms + behaviour.ms_per_token * output_tokens as f64;
        let ms = draw.log_normal(median, behaviour.sigma) + if stalls { behaviour.stall_ms } else { 0.0 };
        let is_valid = Draw::new(self.seed, key, Purpose::Invalid).unit() >= behaviour.invalid_share;
        let input_tokens = u64::from(planned.input_tokens);
        let usage = Usage { input_tokens, output_tokens, ..Usage::default() };
        let cost = offer.prices.map_or(NanoUsd::ZERO, |prices| actual_rounded_up(&prices, &usage));
        Fate { takes: Duration::from_secs_f64(ms / 1_000.0), is_valid, input_tokens, output_tokens, cost }
    }

    /// The same for the provider simulator, which draws for itself.
    pub(crate) fn latency(&self, offer: &Offer) -> Latency {
        let Behaviour { base_ms, ms_per_token, sigma, stall_share, stall_ms, .. } = self.of(offer);
        Latency { base_ms, ms_per_token, sigma, stall_share, stall_ms }
    }

    /// The share of prompts that the model has no valid answer to.
    pub(crate) fn invalid_share(&self, offer: &Offer) -> f64 {
        self.of(offer).invalid_share
    }

    fn of(&self, offer: &Offer) -> Behaviour {
        let tier = match offer.tier {
            Tier::Small => "small",
            Tier::Medium => "medium",
            Tier::Large => "large",
        };
        self.model.get(offer.id.as_str()).or_else(|| self.tier.get(tier)).copied().unwrap_or_default()
    }
}

impl Behaviour {
    fn check(&self) -> Result<()> {
        let amounts = [
            ("base_ms", self.base_ms),
            ("ms_per_token", self.ms_per_token),
            ("sigma", self.sigma),
            ("stall_ms", self.stall_ms),
        ];
        for (name, value) in amounts {
            ensure!(
                value.is_finite() && (0.0..=1e7).contains(&value),
                "{name} is {value}, not within 0 to 1e7"
            );
        }
        for (name, share) in [("stall_share", self.stall_share), ("invalid_share", self.invalid_share)] {
            ensure!((0.0..=1.0).contains(&share), "{name} is {share}, not within 0 to 1");
        }
        Ok(())
    }
}
