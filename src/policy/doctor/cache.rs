//! Identical jobs: how many copies were paid for, and what the providers' own caches saved.

use super::{Finding, Severity, percent, ppm};

/// Copies of a content, in millionths, from which on something is wrong.
const DILUTION_WARN_PPM: u64 = 1_050_000;
/// Of what could have had the answer of another, how much has to have got it.
const HITS_WARN_PPM: u64 = 900_000;
/// From fewer jobs nothing is concluded.
const JOBS_MIN: u64 = 50;

/// What is known of jobs that use the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheFacts {
    /// Distinct contents that were led.
    pub contents: u64,
    /// Jobs that led them; more than contents where one was led more than once.
    pub leads: u64,
    /// Contents that more than one model has answered.
    pub several_models: u64,
    /// Jobs that got the answer of another.
    pub hits: u64,
    /// Those of them that waited for it.
    pub followed: u64,
    /// Input tokens of all calls.
    pub input_tokens: u64,
    /// Those of them that came from a provider's own cache.
    pub cached_input_tokens: u64,
}

pub(super) fn findings(facts: &CacheFacts) -> [Finding; 3] {
    [dilution(facts), hits(facts), provider_share(facts)]
}

fn dilution(facts: &CacheFacts) -> Finding {
    let copies = ppm(facts.leads, facts.contents);
    let severity = if copies >= DILUTION_WARN_PPM { Severity::Warn } else { Severity::Ok };
    let hundredths = copies / 10_000;
    let value = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    Finding::new("cache_dilution", severity, value, "copies per content")
        .means(format!(
            "{} contents were led by {} jobs; {} were answered by more than one model",
            facts.contents, facts.leads, facts.several_models
        ))
        .advise(
            "Identical jobs that name different `models`, a `provider` or a `min_tier` cannot share an answer. \
             Let producers name none, or the same.",
        )
}

fn hits(facts: &CacheFacts) -> Finding {
    let could = facts.hits + facts.leads.saturating_sub(facts.contents);
    let share = ppm(facts.hits, could);
    let severity = match share {
        _ if could == 0 => Severity::Ok,
        share if share >= HITS_WARN_PPM => Severity::Ok,
        _ if could < JOBS_MIN => Severity::Note,
        _ => Severity::Warn,
    };
    Finding::new("cache_hit_rate", severity, percent(share), "percent of repeated jobs")
        .means(format!(
            "of {could} jobs whose content was known, {} got an answer at no cost, {} of them by waiting for it",
            facts.hits, facts.followed
        ))
        .advise("Raise the tasks' `cache_ttl`, or see above why identical jobs cannot share an answer.")
}

fn provider_share(facts: &CacheFacts) -> Finding {
    let share = percent(ppm(facts.cached_input_tokens, facts.input_tokens));
    Finding::new("provider_cache_share", Severity::Ok, share, "percent of input tokens").means(format!(
        "{} of {} input tokens were read from the providers' own caches, at their lower price",
        facts.cached_input_tokens, facts.input_tokens
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing_known(0, 0, 0, Severity::Ok, "0.00", Severity::Ok, "0.0")]
    #[case::one_each(100, 100, 60, Severity::Ok, "1.00", Severity::Ok, "100.0")]
    #[case::a_few_copies(100, 104, 60, Severity::Ok, "1.04", Severity::Ok, "93.8")]
    #[case::a_twentieth(100, 105, 60, Severity::Warn, "1.05", Severity::Ok, "92.3")]
    #[case::seldom_shared(100, 120, 60, Severity::Warn, "1.20", Severity::Warn, "75.0")]
    #[case::few_and_all_shared(100, 100, 3, Severity::Ok, "1.00", Severity::Ok, "100.0")]
    #[case::too_few(100, 120, 29, Severity::Warn, "1.20", Severity::Note, "59.2")]
    fn copies_and_hits_have_thresholds(
        #[case] contents: u64,
        #[case] leads: u64,
        #[case] hits: u64,
        #[case] dilution: Severity,
        #[case] copies: &str,
        #[case] rate: Severity,
        #[case] share: &str,
    ) {
        let found = findings(&CacheFacts { contents, leads, hits, ..CacheFacts::default() });
        assert_eq!((found[0].severity, found[0].value.as_str()), (dilution, copies));
        assert_eq!((found[1].severity, found[1].value.as_str()), (rate, share));
    }

    #[test]
    fn the_providers_share_is_told() {
        let facts = CacheFacts { input_tokens: 400, cached_input_tokens: 100, ..CacheFacts::default() };
        assert_eq!(findings(&facts)[2].value, "25.0");
    }
}
