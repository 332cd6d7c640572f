//! Ends of calls and of jobs: many in one statement, which may be repeated without harm.

use std::ops::Range;
use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use tokio::sync::mpsc;

use super::link::Link;
use super::outbox::Post;
use super::rows::{self, whole};
use super::session::{Address, Shared};
use super::stage::{Batches, Keyed, Waiting};
use super::trouble::{Sql, Trouble, odd_row, told, trouble};
use crate::policy::text::{storable_key, storable_result, unwritable, without_nul};
use crate::ports::StoreError;
use crate::types::ledger::{Concluded, Conclusion, Next};
use crate::types::{Bill, JobKey, JobResult, NanoUsd};

/// A conclusion with its key as the store knows it.
#[derive(Debug)]
pub(super) struct Concluding {
    pub(super) key: JobKey,
    pub(super) conclusion: Conclusion,
    /// The result as JSON that Postgres can hold.
    pub(super) body: Option<String>,
    /// Where the result goes.
    pub(super) address: Address,
    /// Not even a failed result could be written: only the money is settled, and this is answered.
    given_up: Option<StoreError>,
    mended: bool,
}

impl Concluding {
    pub(super) fn new(conclusion: Conclusion) -> Self {
        let key = storable_key(&conclusion.key);
        Self { key, conclusion, body: None, address: Address::default(), given_up: None, mended: false }
    }

    pub(super) fn result(&self) -> Option<&JobResult> {
        match &self.conclusion.next {
            Next::Finish(result) => Some(result),
            Next::GoOn => None,
        }
    }

    fn prepare(&mut self, shared: &Shared) -> Sql<()> {
        if let Next::Finish(result) = &self.conclusion.next {
            let (body, replaced) =
                storable_result(result).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
            if replaced {
                tracing::warn!(job = %self.key, "NUL in a result was replaced");
            }
            self.body = Some(body);
        }
        let live = self.conclusion.attempt.as_ref().and_then(|end| shared.live.address(end.attempt));
        if let Some(address) = self.conclusion.job.as_ref().map(|(job, at)| Address::of(job, *at)).or(live) {
            self.address = address;
        }
        Ok(())
    }

    /// Makes a smaller item out of one that cannot be written; `false` when nothing is left to try.
    fn mend(&mut self, why: &StoreError) -> bool {
        if self.given_up.is_some() {
            return false;
        }
        match &mut self.conclusion.next {
            Next::Finish(result) if !self.mended => {
                self.mended = true;
                *result = Arc::new(unwritable(result, &why.message));
            }
            next => {
                *next = Next::GoOn;
                self.body = None;
                self.given_up = Some(why.clone());
            }
        }
        true
    }
}

impl Keyed for Concluding {
    fn key(&self) -> &JobKey {
        &self.key
    }
}

type Told = Waiting<Concluding, Concluded>;

/// What a statement did with one conclusion.
struct Done {
    concluded: Concluded,
    outbox: Option<i64>,
}

/// Owns the connection that calls and jobs are concluded on.
pub(super) struct Concluder {
    pub(super) link: Link,
    pub(super) shared: Arc<Shared>,
    pub(super) post: Post,
}

impl Concluder {
    /// Answers until nobody can tell anything any more.
    pub(super) async fn run(mut self, inbox: mpsc::Receiver<Told>) {
        let mut batches = Batches::new(inbox);
        loop {
            let batch = batches.next().await;
            if batch.is_empty() {
                break;
            }
            self.shared.batches.add(batch.len());
            self.commit(batch, &|| batches.is_over()).await;
        }
        self.link.close().await;
    }

    async fn commit(&mut self, mut batch: Vec<Told>, is_over: &(dyn Fn() -> bool + Sync)) {
        let all: Range<usize> = 0..batch.len();
        let mut todo = vec![all];
        while let Some(range) = todo.pop() {
            let Some(conn) = self.link.up(is_over).await else {
                return;
            };
            let error = match tell(conn, &self.shared, &mut batch[range.clone()]).await {
                Ok(done) => {
                    self.link.fine();
                    self.answer(&mut batch[range], done);
                    continue;
                }
                Err(error) => error,
            };
            match trouble(&error) {
                Trouble::Again => {
                    tracing::warn!(%error, "the store was busy; telling it again");
                    todo.push(range);
                    self.link.pause().await;
                }
                Trouble::Lost => {
                    // Whatever of it was written, writing it again changes nothing.
                    self.link.lose(&error);
                    todo.push(range);
                }
                Trouble::Definite if range.len() > 1 => {
                    let middle = range.start + range.len() / 2;
                    todo.push(middle..range.end);
                    todo.push(range.start..middle);
                }
                Trouble::Definite => {
                    let why = told(self.link.place(), &error);
                    let waiting = &mut batch[range.start];
                    if waiting.item.mend(&why) {
                        tracing::warn!(%error, "an item of a batch cannot be written as it is");
                        todo.push(range);
                    } else {
                        tracing::error!(%error, "an item of a batch cannot be written");
                        waiting.answer(Err(why));
                    }
                }
            }
        }
    }

    fn answer(&mut self, batch: &mut [Told], done: Vec<Done>) {
        for (waiting, Done { concluded, outbox }) in batch.iter_mut().zip(done) {
            if let Some(end) = &waiting.item.conclusion.attempt {
                self.shared.live.remove(end.attempt);
            }
            if let Some(id) = outbox {
                self.post.owe(id, &mut waiting.item);
            }
            let answer = waiting.item.given_up.take().map_or(Ok(concluded), Err);
            waiting.answer(answer);
        }
    }
}

async fn tell(conn: &mut PgConnection, shared: &Shared, batch: &mut [Told]) -> Sql<Vec<Done>> {
    for waiting in batch.iter_mut() {
        waiting.item.prepare(shared)?;
    }
    let items: Vec<&Concluding> = batch.iter().map(|waiting| &waiting.item).collect();
    macro_rules! column {
        (|$item:ident| $value:expr) => {
            items.iter().map(|$item| $value).collect::<Vec<_>>()
        };
    }
    macro_rules! of_call {
        (|$end:ident| $value:expr) => {
            items
                .iter()
                .map(|item| item.conclusion.attempt.as_ref().and_then(|$end| $value))
                .collect::<Vec<_>>()
        };
    }
    macro_rules! of_result {
        (|$result:ident| $value:expr) => {
            items.iter().map(|item| item.result().and_then(|$result| $value)).collect::<Vec<_>>()
        };
    }
    let row = sqlx::query(
        "CALL outlay.conclude_calls(\
           $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
           $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, NULL, NULL, NULL)",
    )
    .bind(shared.told_now())
    .bind(column!(|item| item.key.project.as_str()))
    .bind(column!(|item| item.key.id.as_str()))
    .bind(column!(|item| item.conclusion.generation.map(|number| i32::try_from(number).unwrap_or(i32::MAX))))
    .bind(of_call!(|end| Some(end.attempt.0)))
    .bind(of_call!(|end| Some(match end.bill {
        Bill::Actual(_) => 0_i32,
        Bill::Nothing => 1,
        Bill::Unknown => 2,
    })))
    .bind(of_call!(|end| match end.bill {
        Bill::Actual(cost) => Some(cost.0),
        Bill::Nothing | Bill::Unknown => None,
    }))
    .bind(of_call!(|end| Some(end.outcome.as_str())))
    .bind(of_call!(|end| end.usage.map(|usage| whole(usage.input_tokens))))
    .bind(of_call!(|end| end.usage.map(|usage| whole(usage.cached_input_tokens))))
    .bind(of_call!(|end| end.usage.map(|usage| whole(usage.cache_write_tokens))))
    .bind(of_call!(|end| end.usage.map(|usage| whole(usage.output_tokens))))
    .bind(of_call!(|end| end.usage.map(|usage| whole(usage.reasoning_tokens))))
    .bind(of_call!(|end| end.model_served.as_deref().map(without_nul)))
    .bind(of_call!(|end| Some(whole(end.provider_ms))))
    .bind(of_call!(|end| end.detail.as_deref().map(without_nul)))
    .bind(column!(|item| item.conclusion.job.as_ref().map(|(job, _)| without_nul(job.task.as_str()))))
    .bind(column!(|item| item.conclusion.job.as_ref().map(|(job, _)| job.body_hash.as_slice())))
    .bind(column!(|item| item
        .conclusion
        .job
        .as_ref()
        .map(|(_, at)| at.0)
        .or(item.address.accepted_at.map(|at| at.0))))
    .bind(of_result!(|result| Some(without_nul(result.task.as_str()))))
    .bind(of_result!(|result| Some(result.status.as_str())))
    .bind(of_result!(|result| result.error.as_ref().and_then(|error| rows::worded(&error.code).ok())))
    .bind(of_result!(|result| result.route.as_ref().map(|route| without_nul(route.provider.as_str()))))
    .bind(of_result!(|result| result.route.as_ref().map(|route| without_nul(route.model.as_str()))))
    .bind(of_result!(|result| Some(result.cost_usd.0)))
    .bind(of_result!(|result| Some(result.presumed_usd.0)))
    .bind(of_result!(|result| Some(result.timing.finished_at.0)))
    .bind(column!(|item| item.body.as_deref()))
    .bind(shared.publisher())
    .bind(column!(|item| item.address.class_word()))
    .bind(column!(|item| item.address.reply_to.as_deref().map(without_nul)))
    .bind(column!(|item| item.address.correlation_id.as_deref().map(without_nul)))
    .bind(column!(|item| item.address.traceparent.as_deref().map(without_nul)))
    .fetch_one(conn)
    .await?;
    let (finished, overshoots): (Vec<Option<i32>>, Vec<Option<i64>>) = (row.try_get(0)?, row.try_get(1)?);
    let outbox: Vec<Option<i64>> = row.try_get(2)?;
    if finished.len() != items.len() {
        return Err(odd_row("a batch was answered in part"));
    }
    let at = |of: &[Option<i64>], n: usize| of.get(n).copied().flatten();
    let done = finished.iter().enumerate().map(|(n, generation)| Done {
        concluded: Concluded { finished: generation.is_some(), overshoot: at(&overshoots, n).map(NanoUsd) },
        outbox: at(&outbox, n),
    });
    Ok(done.collect())
}
