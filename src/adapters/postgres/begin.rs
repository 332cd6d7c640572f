//! Permission for calls: many in one statement, and never one whose commit nobody has heard of.

use std::ops::Range;
use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::conclude::Concluding;
use super::link::Link;
use super::rows;
use super::session::{Address, Shared};
use super::stage::{Batches, Keyed, Reply, Waiting};
use super::trouble::{Sql, Trouble, may_be_written, odd_row, told, trouble};
use crate::policy::gate;
use crate::policy::text::{storable_key, without_nul};
use crate::types::ledger::{Begin, BeginRequest, CapReached};
use crate::types::{JobKey, NanoUsd, Wall, WorkerId};

/// A request with its key as the store knows it.
#[derive(Debug)]
pub(super) struct Beginning {
    key: JobKey,
    request: BeginRequest,
}

impl Beginning {
    pub(super) fn new(request: BeginRequest) -> Self {
        Self { key: storable_key(&request.job.key), request }
    }
}

impl Keyed for Beginning {
    fn key(&self) -> &JobKey {
        &self.key
    }
}

type Asked = Waiting<Beginning, Begin>;

/// Owns the connection that calls are begun on, and with it the session's name.
pub(super) struct Beginner {
    pub(super) link: Link,
    pub(super) shared: Arc<Shared>,
    pub(super) concludes: mpsc::Sender<Waiting<Concluding, crate::types::ledger::Concluded>>,
}

impl Beginner {
    /// Answers until nobody can ask any more.
    pub(super) async fn run(
        mut self,
        inbox: mpsc::Receiver<Asked>,
        mut renewals: mpsc::Receiver<(WorkerId, Reply<()>)>,
    ) {
        let mut batches = Batches::new(inbox);
        loop {
            // Both only wait for a message: whatever is chosen then runs to its end.
            let batch = tokio::select! {
                biased;
                Some((old, reply)) = renewals.recv() => {
                    if old == self.shared.worker() {
                        self.renew(old, &[], &|| batches.is_over()).await;
                    }
                    reply.send(Ok(())).ok();
                    continue;
                }
                batch = batches.next() => batch,
            };
            if batch.is_empty() {
                break;
            }
            self.shared.batches.add(batch.len());
            self.commit(batch, &|| batches.is_over()).await;
        }
        self.link.close().await;
    }

    /// Commits a batch and answers it, halving it as long as some item's own error spoils it.
    async fn commit(&mut self, mut batch: Vec<Asked>, is_over: &(dyn Fn() -> bool + Sync)) {
        let all: Range<usize> = 0..batch.len();
        let mut todo = vec![all];
        while let Some(range) = todo.pop() {
            let worker = self.shared.worker();
            let sent_at = self.shared.mono();
            let Some(conn) = self.link.up(is_over).await else {
                return;
            };
            let asked: Vec<&Beginning> = batch[range.clone()].iter().map(|waiting| &waiting.item).collect();
            let error = match ask(conn, &self.shared, worker, &asked).await {
                Ok(answers) => {
                    self.link.fine();
                    self.answer(worker, sent_at, &mut batch[range], answers, is_over).await;
                    continue;
                }
                Err(error) => error,
            };
            match trouble(&error) {
                Trouble::Again if !may_be_written(&error) => {
                    tracing::warn!(%error, "the store was busy; asking again");
                    todo.push(range);
                    self.link.pause().await;
                }
                Trouble::Lost | Trouble::Again => {
                    // Committed or not, these calls are never made.
                    self.link.lose(&error);
                    self.renew(worker, &asked, is_over).await;
                    for waiting in &mut batch[range] {
                        waiting.answer(Ok(Begin::Fenced));
                    }
                }
                Trouble::Definite if range.len() > 1 => {
                    let middle = range.start + range.len() / 2;
                    todo.push(middle..range.end);
                    todo.push(range.start..middle);
                }
                Trouble::Definite => {
                    tracing::error!(%error, "an item of a batch cannot be written");
                    let answer = Err(told(self.link.place(), &error));
                    batch[range.start].answer(answer);
                }
            }
        }
    }

    async fn answer(
        &mut self,
        worker: WorkerId,
        sent_at: u64,
        batch: &mut [Asked],
        answers: (Wall, Vec<Begin>),
        is_over: &(dyn Fn() -> bool + Sync),
    ) {
        let (begun_at, answers) = answers;
        if answers.first() == Some(&Begin::Fenced) {
            if !self.shared.is_closed() {
                self.renew(worker, &[], is_over).await;
            }
        } else {
            self.shared.acknowledged(worker, sent_at);
        }
        for (waiting, answer) in batch.iter_mut().zip(answers) {
            let generation = match &answer {
                Begin::Go { generation, .. } => Some(*generation),
                _ => None,
            };
            let request = &waiting.item.request;
            if generation.is_some() {
                self.shared.live.insert(request.attempt, begun_at, &request.job, request.accepted_at);
            }
            let heard = waiting.answer(Ok(answer));
            if let Some(generation) = generation.filter(|_| !heard) {
                let item = Concluding::new(gate::unheard(&waiting.item.request, generation));
                if self.concludes.send(Waiting { item, reply: None }).await.is_err() {
                    tracing::debug!("nobody concludes any more; the next reaper will");
                }
            }
        }
    }

    /// Takes a new session, reaps the old one, and gives back what `never_sent` may have been granted.
    async fn renew(&mut self, old: WorkerId, never_sent: &[&Beginning], is_over: &(dyn Fn() -> bool + Sync)) {
        let projects: Vec<_> = never_sent.iter().map(|item| item.key.project.as_str()).collect();
        let jobs: Vec<_> = never_sent.iter().map(|item| item.key.id.as_str()).collect();
        let attempts: Vec<_> = never_sent.iter().map(|item| item.request.attempt.0).collect();
        loop {
            // A new name for each try: nobody knows what became of the last one.
            let new = WorkerId(Uuid::now_v7());
            let sent_at = self.shared.mono();
            let Some(conn) = self.link.up(is_over).await else {
                return;
            };
            let done = sqlx::query("SELECT outlay.renew_session($1, $2, $3, $4, $5, $6, $7)")
                .bind(old.0)
                .bind(new.0)
                .bind(&*without_nul(&self.shared.label))
                .bind(self.shared.told_now())
                .bind(&projects)
                .bind(&jobs)
                .bind(&attempts)
                .execute(conn)
                .await;
            match done {
                Ok(_) => {
                    self.link.fine();
                    tracing::warn!(%old, %new, "took a new ledger session");
                    self.shared.renewed(new, sent_at);
                    return;
                }
                Err(error) if trouble(&error) == Trouble::Lost => self.link.lose(&error),
                Err(error) => tracing::error!(%error, "cannot take a new ledger session"),
            }
            self.link.pause().await;
        }
    }
}

async fn ask(
    conn: &mut PgConnection,
    shared: &Shared,
    worker: WorkerId,
    items: &[&Beginning],
) -> Sql<(Wall, Vec<Begin>)> {
    macro_rules! column {
        (|$item:ident| $value:expr) => {
            items.iter().map(|$item| $value).collect::<Vec<_>>()
        };
    }
    // Empty, and with it five of the columns, unless the texts are to be kept.
    let kept = items.iter().filter(|_| shared.keeps_payload);
    let kept: Vec<(Option<&[u8]>, Address)> = kept
        .map(|item| {
            let BeginRequest { job, accepted_at, .. } = &item.request;
            (job.source.as_deref().map(|source| source.body.as_slice()), Address::of(job, *accepted_at))
        })
        .collect();
    let row = sqlx::query(
        "CALL outlay.begin_calls(\
           $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, \
           NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    .bind(worker.0)
    .bind(shared.run.map(|run| run.0))
    .bind(shared.told_now())
    .bind(column!(|item| item.request.attempt.0))
    .bind(column!(|item| item.key.project.as_str()))
    .bind(column!(|item| item.key.id.as_str()))
    .bind(column!(|item| without_nul(item.request.job.task.as_str())))
    .bind(column!(|item| item.request.job.body_hash.as_slice()))
    .bind(column!(|item| item.request.accepted_at.0))
    .bind(column!(|item| without_nul(item.request.provider.as_str())))
    .bind(column!(|item| without_nul(item.request.model.as_str())))
    .bind(column!(|item| item.request.price_version))
    .bind(column!(|item| item.request.hold.0))
    .bind(column!(|item| rows::micros(item.request.runs_for)))
    .bind(column!(|item| without_nul(&item.request.explanation)))
    .bind(column!(|item| item.request.hedge))
    .bind(kept.iter().map(|(_, address)| address.class_word()).collect::<Vec<_>>())
    .bind(kept.iter().map(|(_, address)| address.reply_to.as_deref().map(without_nul)).collect::<Vec<_>>())
    .bind(
        kept.iter()
            .map(|(_, address)| address.correlation_id.as_deref().map(without_nul))
            .collect::<Vec<_>>(),
    )
    .bind(kept.iter().map(|(_, address)| address.traceparent.as_deref().map(without_nul)).collect::<Vec<_>>())
    .bind(kept.iter().map(|(body, _)| *body).collect::<Vec<Option<&[u8]>>>())
    .fetch_one(conn)
    .await?;
    let answers = answers(&row)?;
    if answers.len() != items.len() {
        return Err(odd_row("a batch was answered in part"));
    }
    Ok((Wall(row.try_get(0)?), answers))
}

fn answers(row: &PgRow) -> Sql<Vec<Begin>> {
    let (codes, notes): (Vec<i32>, Vec<Option<String>>) = (row.try_get(1)?, row.try_get(2)?);
    let (resets, amounts): (Vec<Option<i64>>, Vec<Option<i64>>) = (row.try_get(3)?, row.try_get(4)?);
    let (generations, numbers): (Vec<i32>, Vec<i32>) = (row.try_get(5)?, row.try_get(6)?);
    let mut answers = Vec::with_capacity(codes.len());
    for (at, code) in codes.iter().enumerate() {
        let note = || {
            notes.get(at).and_then(Option::as_deref).ok_or_else(|| odd_row("a refusal without its reason"))
        };
        let number = |of: &[i32]| rows::count::<i32, u32>(of.get(at).copied().unwrap_or(0));
        let amount = NanoUsd(amounts.get(at).copied().flatten().unwrap_or(0));
        answers.push(match code {
            0 => Begin::Go { attempt_no: number(&numbers)?, generation: number(&generations)? },
            1 => Begin::Finished(rows::word(note()?)?),
            2 => Begin::InFlight,
            3 => Begin::Wait,
            4 => Begin::CapReached(CapReached {
                window: rows::word(note()?)?,
                resets_at: resets.get(at).copied().flatten().map(Wall),
                firm: amount,
            }),
            5 => Begin::NeverFits { window: rows::word(note()?)?, cap: amount },
            6 => Begin::Stopped(note()?.to_owned()),
            7 => Begin::Cancelled,
            8 => Begin::Conflict,
            9 => Begin::UnknownProject,
            10 => Begin::Quarantined(note()?.to_owned()),
            11 => Begin::Fenced,
            other => return Err(odd_row(format!("an answer {other}"))),
        });
    }
    Ok(answers)
}
