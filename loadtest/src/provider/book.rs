//! The bill book: what the provider charged, by its own count. It is append-only and every call is in
//! it exactly once, so that it can serve as the truth that a ledger is held against.

use super::{
    book_file::BookFile,
    clock::now,
    draw::{PromptHash, hash_str},
    fault::Fault,
    price::Tokens,
};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Bills per page. Pages are filled and then left alone: one vector would sooner or later copy
/// gigabytes while every call waits.
const PAGE: usize = 65_536;

/// One call, as the provider sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bill {
    /// Position in the book, from 0.
    pub seq: u64,
    /// When the call came, in microseconds since the book was opened; it never falls from bill to bill.
    pub at_us: u64,
    /// The request's `X-Client-Request-Id`.
    pub attempt_id: Option<Arc<str>>,
    /// The model that answered and is charged for; empty if the request could not be read.
    pub model: Arc<str>,
    /// Fingerprint of the messages; 0 if the request could not be read.
    pub prompt_hash: PromptHash,
    /// Billed input tokens, cached ones included.
    pub input_tokens: u64,
    /// How many of them were read from the cache.
    pub cached_input_tokens: u64,
    /// Billed output tokens.
    pub output_tokens: u64,
    /// Whether the call is charged for, be it at a price of 0.
    pub billed: bool,
    /// The charge in nano-USD.
    pub billed_nano_usd: i64,
    /// How the call ended.
    pub outcome: Outcome,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A proper answer (perhaps cut short by the asked maximum).
    Answered,
    /// 400 or 413: the request could not be read.
    BadRequest,
    /// 404: the model has no price.
    UnknownModel,
    /// 429 by the enforced rate limit.
    OverLimit,
    /// A fault, at random or by a rule; written as the fault's own name.
    #[serde(untagged)]
    Fault(Fault),
}

/// Sums over the bill book.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Calls received, refused ones included.
    pub calls: u64,
    /// Calls charged for.
    pub billed_calls: u64,
    /// Nano-USD charged.
    pub billed_nano_usd: i64,
    /// The same by the model that answered; a model that was never charged for has 0.
    pub billed_nano_usd_by_model: BTreeMap<String, i64>,
    /// Billed input tokens, cached ones included.
    pub input_tokens: u64,
    /// How many of them were read from the cache.
    pub cached_input_tokens: u64,
    /// Billed output tokens.
    pub output_tokens: u64,
    /// Most calls with one attempt id: 1 if nobody ever sent an attempt twice.
    pub calls_per_attempt_max: u32,
    /// Calls that carried no attempt id.
    pub calls_without_attempt_id: u64,
    /// Most calls with one prompt, refused ones included.
    pub calls_per_prompt_max: u32,
    /// Calls by how they ended.
    pub calls_by_outcome: BTreeMap<Outcome, u64>,
    /// Bills that are in memory but could not be handed to the bill-book file.
    pub bills_not_filed: u64,
}

/// What is known of a call when it is written down; the book adds the sequence number.
pub(crate) struct Entry<'a> {
    pub(crate) attempt_id: Option<&'a str>,
    pub(crate) model: &'a str,
    /// `None` if the request could not be read.
    pub(crate) prompt_hash: Option<PromptHash>,
    /// `None` if nothing is charged.
    pub(crate) charge: Option<(Tokens, i64)>,
    pub(crate) outcome: Outcome,
}

pub(crate) struct Book {
    opened: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    pages: Vec<Vec<Bill>>,
    totals: Stats,
    by_model: HashMap<Arc<str>, i64>,
    per_attempt: Counts<Arc<str>>,
    per_prompt: Counts<PromptHash>,
    file: Option<BookFile>,
}

impl Book {
    /// A new book, copied line by line to the end of `file` if one is named.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self> {
        let inner = Inner { file: file.map(BookFile::open).transpose()?, ..Inner::default() };
        Ok(Self { opened: now().mono, inner: Mutex::new(inner) })
    }

    /// Writes a call down and returns its sequence number.
    pub(crate) fn record(&self, entry: &Entry<'_>) -> u64 {
        let attempt_id: Option<Arc<str>> = entry.attempt_id.map(Arc::from);
        let mut inner = self.lock();
        let inner = &mut *inner;
        // Under the lock, so that times are in the book's order.
        let at_us = now().mono.saturating_duration_since(self.opened).as_micros();
        let (tokens, billed_nano_usd) = entry.charge.unwrap_or_default();
        let totals = &mut inner.totals;
        let seq = totals.calls;
        totals.calls += 1;
        totals.billed_calls += u64::from(entry.charge.is_some());
        totals.billed_nano_usd = totals.billed_nano_usd.saturating_add(billed_nano_usd);
        totals.input_tokens = totals.input_tokens.saturating_add(tokens.input);
        totals.cached_input_tokens = totals.cached_input_tokens.saturating_add(tokens.cached_input);
        totals.output_tokens = totals.output_tokens.saturating_add(tokens.output);
        *totals.calls_by_outcome.entry(entry.outcome).or_default() += 1;
        match &attempt_id {
            Some(id) => {
                let calls = inner.per_attempt.add(hash_str(id), Arc::clone(id));
                totals.calls_per_attempt_max = totals.calls_per_attempt_max.max(calls);
            }
            None => totals.calls_without_attempt_id += 1,
        }
        if let Some(hash) = entry.prompt_hash {
            let calls = inner.per_prompt.add(hash.0, hash);
            totals.calls_per_prompt_max = totals.calls_per_prompt_max.max(calls);
        }
        let bill = Bill {
            seq,
            at_us: u64::try_from(at_us).unwrap_or(u64::MAX),
            attempt_id,
            model: charge_model(&mut inner.by_model, entry.model, billed_nano_usd),
            prompt_hash: entry.prompt_hash.unwrap_or_default(),
            input_tokens: tokens.input,
            cached_input_tokens: tokens.cached_input,
            output_tokens: tokens.output,
            billed: entry.charge.is_some(),
            billed_nano_usd,
            outcome: entry.outcome,
        };
        // Under the lock, so that the file's lines are in the book's order.
        if let Some(file) = &inner.file
            && !file.append(bill.clone())
        {
            totals.bills_not_filed += 1;
        }
        match inner.pages.last_mut() {
            Some(page) if page.len() < PAGE => page.push(bill),
            _ => {
                let mut page = Vec::with_capacity(PAGE);
                page.push(bill);
                inner.pages.push(page);
            }
        }
        seq
    }

    pub(crate) fn stats(&self) -> Stats {
        let inner = self.lock();
        let by_model = inner.by_model.iter().map(|(model, nano_usd)| (model.to_string(), *nano_usd));
        Stats { billed_nano_usd_by_model: by_model.collect(), ..inner.totals.clone() }
    }

    pub(crate) fn len(&self) -> u64 {
        self.lock().totals.calls
    }

    /// Some of the bills from `seq` on: at least one if there is one, and never so many that calls
    /// have to wait long for the lock.
    pub(crate) fn bills_from(&self, seq: u64) -> Vec<Bill> {
        const MOST: usize = 4_096;
        let at = usize::try_from(seq).unwrap_or(usize::MAX);
        let inner = self.lock();
        let page = inner.pages.get(at / PAGE).map_or(&[][..], Vec::as_slice);
        page.iter().skip(at % PAGE).take(MOST).cloned().collect()
    }

    /// All bills there are now.
    pub(crate) fn bills(&self) -> Vec<Bill> {
        let len = self.len();
        let mut all = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        while (all.len() as u64) < len {
            all.extend(self.bills_from(all.len() as u64));
        }
        all
    }

    /// Writes what the file still lacks and says whether all of it got there.
    pub(crate) fn close_file(&self) -> Result<()> {
        let file = self.lock().file.take();
        file.map_or(Ok(()), BookFile::close)
    }

    // A panic elsewhere must not cost a test its evidence.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to the model's sum and returns the one shared copy of its name.
fn charge_model(sums: &mut HashMap<Arc<str>, i64>, model: &str, nano_usd: i64) -> Arc<str> {
    if model.is_empty() {
        return Arc::from("");
    }
    let name = sums.get_key_value(model).map_or_else(|| Arc::from(model), |(name, _)| Arc::clone(name));
    let sum = sums.entry(Arc::clone(&name)).or_default();
    *sum = sum.saturating_add(nano_usd);
    name
}

/// How often each key was seen. In shards, because one map of millions of keys grows by moving all of
/// them at once, and the calls meanwhile would see a pause that no provider has.
struct Counts<K>([HashMap<K, u32>; 64]);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| HashMap::new()))
    }
}

impl<K: Hash + Eq> Counts<K> {
    /// Counts `key`, whose hash chooses its shard, and returns how often it has been seen by now.
    fn add(&mut self, hash: u64, key: K) -> u32 {
        let count = self.0[(hash % 64) as usize].entry(key).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::{Book, Entry, Outcome, PAGE, Stats};
    use crate::provider::{draw::PromptHash, fault::Fault, price::Tokens};
    use std::thread;

    fn entry(attempt_id: Option<&str>, prompt: u64, charge: Option<i64>) -> Entry<'_> {
        let tokens = Tokens { input: 10, cached_input: 2, output: 5 };
        Entry {
            attempt_id,
            model: "m",
            prompt_hash: Some(PromptHash(prompt)),
            charge: charge.map(|nano_usd| (tokens, nano_usd)),
            outcome: charge.map_or(Outcome::OverLimit, |_| Outcome::Answered),
        }
    }

    #[test]
    fn sums_and_maxima() {
        let book = Book::open(None).expect("no file");
        let calls = [
            entry(Some("a"), 1, Some(7)),
            entry(Some("b"), 1, None),
            entry(Some("b"), 1, Some(8)),
            entry(None, 2, Some(0)),
            entry(None, 3, None),
        ];
        for (expected, call) in calls.iter().enumerate() {
            assert_eq!(book.record(call), expected as u64);
        }
        let expected = Stats {
            calls: 5,
            billed_calls: 3,
            billed_nano_usd: 15,
            billed_nano_usd_by_model: [("m".to_owned(), 15)].into(),
            input_tokens: 30,
            cached_input_tokens: 6,
            output_tokens: 15,
            calls_per_attempt_max: 2,
            calls_without_attempt_id: 2,
            calls_per_prompt_max: 3,
            calls_by_outcome: [(Outcome::Answered, 3), (Outcome::OverLimit, 2)].into(),
            bills_not_filed: 0,
        };
        assert_eq!(book.stats(), expected);
        let unbilled = &book.bills()[1];
        assert_eq!((unbilled.billed, unbilled.input_tokens, unbilled.billed_nano_usd), (false, 0, 0));
    }

    #[test]
    fn each_call_is_in_the_book_exactly_once_whoever_writes() {
        let book = Book::open(None).expect("no file");
        let each = PAGE as u64 / 3;
        thread::scope(|scope| {
            for writer in 0..4 {
                let book = &book;
                scope.spawn(move || {
                    for nth in 0..each {
                        book.record(&entry(Some(&format!("{writer}-{nth}")), nth, Some(1)));
                    }
                });
            }
        });
        let bills = book.bills();
        assert_eq!(bills.len() as u64, 4 * each);
        assert!(bills.iter().zip(0..).all(|(bill, seq)| bill.seq == seq));
        let stats = book.stats();
        assert_eq!((stats.calls_per_attempt_max, stats.calls_per_prompt_max), (1, 4));
        assert_eq!(stats.billed_nano_usd as u64, 4 * each);
    }

    #[test]
    fn stats_survive_json() {
        let stats = Stats {
            calls_by_outcome: [(Outcome::Answered, 3), (Outcome::Fault(Fault::Hang), 2)].into(),
            ..Stats::default()
        };
        let json = serde_json::to_string(&stats).expect("serialises");
        assert!(json.contains(r#"{"answered":3,"hang":2}"#), "{json}");
        assert_eq!(serde_json::from_str::<Stats>(&json).expect("reads back"), stats);
    }
}
