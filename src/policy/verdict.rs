//! What an ended call means: for its money, for its job, and for its provider's health.

use std::time::Duration;

use super::backoff::wait_before_retry;
use super::price::actual_rounded_up;
use crate::types::catalogue::Prices;
use crate::types::{AttemptOutcome, Bill, Failure, NanoUsd, Usage};

/// Calls whose bill is unknown that one job may cause before it is given up.
pub const UNKNOWN_BILLS_MAX: u32 = 2;
/// Calls that one job may have turned away, told to slow down or never sent: they cost nothing and say
/// nothing about the job, but not for ever.
pub const TURNED_AWAY_MAX: u32 = 20;
/// Workers that may die under one job before it is taken for the cause.
pub const DEATHS_MAX: u32 = 3;

/// How a call ended, as far as a decision needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// In one word.
    pub outcome: AttemptOutcome,
    /// The HTTP status, when one came.
    pub status: Option<u16>,
    /// The body was the provider's own error.
    pub from_provider: bool,
    /// Tokens, when the provider told them.
    pub usage: Option<&'a Usage>,
    /// The provider says when to come back.
    pub retry_after: Option<Duration>,
}

/// What the call does to its hold. Only proof gives money back.
#[must_use]
pub fn bill(ended: &Ended<'_>, prices: Option<&Prices>, unbilled_errors: &[u16]) -> Bill {
    use AttemptOutcome as O;
    #[cfg(outlay_mutants)]
    if ended.outcome == O::Timeout && crate::mutants::Mutant::RefundOnTimeout.lives() {
        return Bill::Nothing;
    }
    match ended.outcome {
        O::Ok | O::InvalidOutput => match (ended.usage, prices) {
            (Some(usage), Some(prices)) => Bill::Actual(actual_rounded_up(prices, usage)),
            // Without a price nothing was held; without usage nobody knows.
            (Some(_), None) => Bill::Actual(NanoUsd::ZERO),
            (None, _) => Bill::Unknown,
        },
        O::NotSent => Bill::Nothing,
        O::RateLimited | O::Quota | O::Unauthorized | O::BadRequest | O::ContextLength | O::ModelNotFound => {
            // A status line alone can be a proxy's; the provider's own error is the proof. A 429 is
            // proof by itself: whoever sent it did not pass the request on. Without any status the
            // adapter refused before it sent a byte.
            let proof = ended.from_provider || matches!(ended.status, None | Some(429));
            if proof { Bill::Nothing } else { Bill::Unknown }
        }
        O::ProviderError => {
            let listed =
                ended.status.is_some_and(|status| unbilled_errors.contains(&status) || status == 409);
            if listed && ended.from_provider { Bill::Nothing } else { Bill::Unknown }
        }
        O::OkWithoutUsage
        | O::GatewayError
        | O::Timeout
        | O::Dropped
        | O::Unreadable
        | O::Interrupted
        | O::Running => Bill::Unknown,
    }
}

/// What a job has been through, this call included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that count towards the limit: neither turned away nor ended with their worker.
    pub attempts: u32,
    /// Calls whose bill is unknown, those that ended with their worker aside.
    pub unknown_bills: u32,
    /// Calls told to slow down, or for which no connection was had.
    pub turned_away: u32,
    /// Calls that ended with their worker.
    pub deaths: u32,
}

impl Tally {
    /// Counts one more call.
    pub fn count(&mut self, outcome: AttemptOutcome, bill_unknown: bool) {
        match outcome {
            AttemptOutcome::Interrupted => self.deaths += 1,
            AttemptOutcome::RateLimited | AttemptOutcome::NotSent => self.turned_away += 1,
            _ => {
                self.attempts += 1;
                self.unknown_bills += u32::from(bill_unknown);
            }
        }
    }
}

/// What becomes of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The answer is good.
    Done,
    /// Try again after a wait, anywhere that is still eligible.
    Retry {
        /// How long to wait first.
        after: Duration,
        /// This offer will not do better for this job.
        not_here: bool,
    },
    /// Give up.
    Failed(Failure),
}

/// Judges an ended call; `tally` includes it, `message` is what its failure says.
#[must_use]
pub fn judge(
    ended: &Ended<'_>,
    tally: &Tally,
    attempts_max: u32,
    message: &str,
    jitter_permille: u32,
) -> Verdict {
    use AttemptOutcome as O;
    let give_up = |retryable: bool| {
        Verdict::Failed(Failure { code: ended.outcome.error_code(), message: message.to_owned(), retryable })
    };
    let exhausted = tally.attempts >= attempts_max
        || tally.unknown_bills >= UNKNOWN_BILLS_MAX
        || tally.turned_away >= TURNED_AWAY_MAX
        || tally.deaths >= DEATHS_MAX;
    match ended.outcome {
        O::Ok | O::OkWithoutUsage => Verdict::Done,
        // The request itself is wrong: no other attempt and no other model mends it.
        O::BadRequest => give_up(false),
        _ if exhausted => give_up(!matches!(ended.outcome, O::ContextLength | O::InvalidOutput)),
        O::ContextLength | O::ModelNotFound | O::InvalidOutput => {
            Verdict::Retry { after: Duration::ZERO, not_here: true }
        }
        // The provider's fault, not the job's: its breaker is open now, and the job goes elsewhere or waits.
        O::Unauthorized | O::Quota => Verdict::Retry { after: Duration::ZERO, not_here: false },
        O::RateLimited
        | O::ProviderError
        | O::GatewayError
        | O::NotSent
        | O::Timeout
        | O::Dropped
        | O::Unreadable
        | O::Interrupted
        | O::Running => {
            let made = tally.attempts.max(tally.turned_away);
            Verdict::Retry {
                after: wait_before_retry(made, ended.retry_after, jitter_permille),
                not_here: false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use AttemptOutcome as O;
    use rstest::rstest;

    use super::*;
    use crate::types::{ErrorCode, PicoUsdPerToken};

    const PRICES: Prices = Prices {
        input: PicoUsdPerToken(1000),
        cached_input: PicoUsdPerToken(100),
        cache_write: PicoUsdPerToken(1250),
        output: PicoUsdPerToken(4000),
    };
    const OFFICIAL: &[u16] = &[500, 503, 529];

    fn ended(outcome: O, status: Option<u16>, from_provider: bool) -> Ended<'static> {
        Ended { outcome, status, from_provider, usage: None, retry_after: None }
    }

    #[rstest]
    #[case(O::NotSent, None, false, OFFICIAL, Bill::Nothing)]
    #[case(O::RateLimited, Some(429), true, &[], Bill::Nothing)]
    #[case(O::RateLimited, Some(429), false, &[], Bill::Nothing)]
    #[case(O::Quota, Some(400), true, &[], Bill::Nothing)]
    #[case(O::Unauthorized, Some(401), true, &[], Bill::Nothing)]
    #[case(O::BadRequest, Some(422), true, &[], Bill::Nothing)]
    #[case(O::BadRequest, Some(400), false, &[], Bill::Unknown)]
    #[case(O::BadRequest, None, false, &[], Bill::Nothing)]
    #[case(O::ModelNotFound, Some(404), true, &[], Bill::Nothing)]
    #[case(O::ProviderError, Some(500), true, OFFICIAL, Bill::Nothing)]
    #[case(O::ProviderError, Some(529), true, OFFICIAL, Bill::Nothing)]
    #[case(O::ProviderError, Some(500), false, OFFICIAL, Bill::Unknown)]
    #[case(O::ProviderError, Some(500), true, &[], Bill::Unknown)]
    #[case(O::ProviderError, Some(501), true, OFFICIAL, Bill::Unknown)]
    #[case(O::GatewayError, Some(502), true, &[500, 502], Bill::Unknown)]
    #[case(O::Timeout, None, false, OFFICIAL, Bill::Unknown)]
    #[case(O::Dropped, None, false, OFFICIAL, Bill::Unknown)]
    #[case(O::Unreadable, Some(200), false, OFFICIAL, Bill::Unknown)]
    #[case(O::OkWithoutUsage, Some(200), true, OFFICIAL, Bill::Unknown)]
    #[case(O::Interrupted, None, false, OFFICIAL, Bill::Unknown)]
    fn what_a_call_without_usage_costs(
        #[case] outcome: O,
        #[case] status: Option<u16>,
        #[case] from_provider: bool,
        #[case] unbilled: &[u16],
        #[case] expected: Bill,
    ) {
        assert_eq!(bill(&ended(outcome, status, from_provider), Some(&PRICES), unbilled), expected);
    }

    #[test]
    fn usage_is_priced_even_when_the_answer_is_useless() {
        let usage = Usage { input_tokens: 10, output_tokens: 5, ..Usage::default() };
        for outcome in [O::Ok, O::InvalidOutput] {
            let ended = Ended { usage: Some(&usage), ..ended(outcome, Some(200), true) };
            assert_eq!(bill(&ended, Some(&PRICES), &[]), Bill::Actual(NanoUsd(30)));
        }
    }

    #[rstest]
    #[case(O::Ok, Tally::default(), None)]
    #[case(O::OkWithoutUsage, Tally { unknown_bills: 2, ..Tally::default() }, None)]
    #[case(O::BadRequest, Tally::default(), Some(ErrorCode::InvalidJob))]
    #[case(O::Timeout, Tally { attempts: 2, unknown_bills: 2, ..Tally::default() }, Some(ErrorCode::Timeout))]
    #[case(O::ProviderError, Tally { attempts: 3, ..Tally::default() }, Some(ErrorCode::ProviderError))]
    #[case(O::InvalidOutput, Tally { attempts: 3, ..Tally::default() }, Some(ErrorCode::InvalidOutput))]
    #[case(O::InvalidOutput, Tally { attempts: 1, unknown_bills: 2, ..Tally::default() }, Some(ErrorCode::InvalidOutput))]
    #[case(O::RateLimited, Tally { turned_away: 20, ..Tally::default() }, Some(ErrorCode::RateLimited))]
    #[case(O::Interrupted, Tally { deaths: 3, ..Tally::default() }, Some(ErrorCode::ProviderError))]
    fn what_ends_a_job(#[case] outcome: O, #[case] tally: Tally, #[case] code: Option<ErrorCode>) {
        match (judge(&ended(outcome, None, true), &tally, 3, "why", 0), code) {
            (Verdict::Done, None) => {}
            (Verdict::Failed(failure), Some(code)) => assert_eq!(failure.code, code),
            (verdict, code) => panic!("{verdict:?} instead of {code:?}"),
        }
    }

    #[rstest]
    #[case(O::RateLimited, false)]
    #[case(O::Timeout, false)]
    #[case(O::NotSent, false)]
    #[case(O::ContextLength, true)]
    #[case(O::Unauthorized, false)]
    #[case(O::InvalidOutput, true)]
    fn what_is_tried_again_and_where(#[case] outcome: O, #[case] elsewhere: bool) {
        let tally = Tally { attempts: 1, ..Tally::default() };
        let verdict = judge(&ended(outcome, None, true), &tally, 3, "why", 0);
        assert!(matches!(verdict, Verdict::Retry { not_here, .. } if not_here == elsewhere), "{verdict:?}");
    }
}
