//! Messages that are owed to the broker: what this process wrote without reading it back, then what
//! others left behind.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::conclude::Concluding;
use super::link::Link;
use super::rows;
use super::session::Shared;
use super::stage::Reply;
use super::trouble::{Sql, Trouble, odd_row, told, trouble};
use crate::policy::text::without_nul;
use crate::ports::StoreError;
use crate::ports::outbox::{Outgoing, OutgoingMessage, Sent};
use crate::types::{JobKey, Wall};

/// How many messages wait in memory; those above it are read back.
const OWN_MAX: usize = 8_192;
/// How often to look for what others left behind.
const POLL: Duration = Duration::from_millis(500);

/// How often to look for messages of our own that we do not know of.
const RECALL: Duration = Duration::from_secs(5);
/// How old those are: younger ones may have been committed just now, with the answer still on its way.
const RECALL_AGE: Duration = Duration::from_secs(60);

/// What is asked of the outbox.
pub(super) enum OutboxAsk {
    Take(usize, Reply<Vec<Outgoing>>),
    Sent(Vec<Sent>, Reply<()>),
    GiveBack(Vec<i64>, Reply<()>),
}

/// Where what was just committed is handed over.
pub(super) struct Post {
    own: mpsc::Sender<Outgoing>,
    overflow: Arc<Mutex<Vec<i64>>>,
}

/// The other end of a [`Post`].
pub(super) struct Own {
    inbox: mpsc::Receiver<Outgoing>,
    overflow: Arc<Mutex<Vec<i64>>>,
}

pub(super) fn post() -> (Post, Own) {
    let (own, inbox) = mpsc::channel(OWN_MAX);
    let overflow = Arc::<Mutex<Vec<i64>>>::default();
    (Post { own, overflow: Arc::clone(&overflow) }, Own { inbox, overflow })
}

impl Post {
    /// Hands over a result that was committed with the message `id`.
    pub(super) fn owe(&self, id: i64, item: &mut Concluding) {
        let (Some(body), Some(result)) = (item.body.take(), item.result()) else {
            return;
        };
        let message = OutgoingMessage::Result { task: result.task.clone(), status: result.status, body };
        let address = &item.address;
        let outgoing = Outgoing {
            id,
            key: item.key.clone(),
            message,
            reply_to: address.reply_to.clone(),
            correlation_id: address.correlation_id.clone(),
            traceparent: address.traceparent.clone(),
        };
        // The money must not wait for the broker: what does not fit here is read back later.
        if self.own.try_send(outgoing).is_err() {
            self.overflow.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        }
    }
}

/// Owns the outbox's connection.
pub(super) struct Postman {
    link: Link,
    shared: Arc<Shared>,
    own: Own,
    ready: VecDeque<Outgoing>,
    /// Handed out, and neither sent nor given back so far.
    out: HashSet<i64>,
    asked: Option<(usize, Reply<Vec<Outgoing>>)>,
}

impl Postman {
    pub(super) fn new(link: Link, shared: Arc<Shared>, own: Own) -> Self {
        Self { link, shared, own, ready: VecDeque::new(), out: HashSet::new(), asked: None }
    }

    /// Answers until nobody can ask any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<OutboxAsk>) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut recall = tokio::time::interval(RECALL);
        recall.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.hand_out();
            // Every branch only waits for news: what follows from it runs to its end.
            tokio::select! {
                biased;
                ask = inbox.recv() => match ask {
                    None => break,
                    Some(OutboxAsk::Take(limit, reply)) => self.asked = Some((limit.max(1), reply)),
                    Some(OutboxAsk::Sent(sent, reply)) => {
                        let answer = self.forget(&sent, &|| inbox.is_closed()).await;
                        if answer.is_ok() {
                            for sent in &sent {
                                self.out.remove(&sent.id);
                            }
                        }
                        reply.send(answer).ok();
                    }
                    Some(OutboxAsk::GiveBack(ids, reply)) => {
                        let answer = self.give_back(&ids, &|| inbox.is_closed()).await;
                        if answer.is_ok() {
                            for id in &ids {
                                self.out.remove(id);
                            }
                        }
                        reply.send(answer).ok();
                    }
                },
                Some(message) = self.own.inbox.recv(), if self.asked.is_some() => self.ready.push_back(message),
                _ = recall.tick() => self.recall(&|| inbox.is_closed()).await,
                _ = poll.tick(), if self.asked.is_some() => self.look(&|| inbox.is_closed()).await,
            }
        }
        self.link.close().await;
    }

    /// Answers whoever asked, if there is something.
    fn hand_out(&mut self) {
        let Some((limit, reply)) = self.asked.take() else {
            return;
        };
        while self.ready.len() < limit
            && let Ok(message) = self.own.inbox.try_recv()
        {
            self.ready.push_back(message);
        }
        if self.ready.is_empty() {
            self.asked = Some((limit, reply));
            return;
        }
        let some: Vec<_> = self.ready.drain(..limit.min(self.ready.len())).collect();
        let ids: Vec<_> = some.iter().map(|message| message.id).collect();
        match reply.send(Ok(some)) {
            Err(Ok(unheard)) => {
                unheard.into_iter().rev().for_each(|message| self.ready.push_front(message));
            }
            _ => self.out.extend(ids),
        }
    }

    /// Lets go of messages that are ours by the store's word and that we do not know of: they were committed
    /// or claimed, and the answer that would have told us was lost with its connection.
    async fn recall(&mut self, is_over: &(dyn Fn() -> bool + Sync)) {
        // So many wait that nobody is in want of more; and what cannot be listed here cannot be told apart.
        if self.ready.len() >= OWN_MAX {
            return;
        }
        while let Ok(message) = self.own.inbox.try_recv() {
            self.ready.push_back(message);
        }
        let mut known: Vec<_> = self.out.iter().copied().collect();
        known.extend(self.ready.iter().map(|message| message.id));
        known.extend(&*self.own.overflow.lock().unwrap_or_else(PoisonError::into_inner));
        let (worker, now) = (self.shared.worker().0, self.shared.told_now());
        let change = Change::Recall { worker, now, known };
        match self.write(&change, is_over).await {
            Ok(0) => {}
            Ok(unknown) => tracing::warn!(
                messages = unknown,
                "messages were committed whose commit nobody heard of; they are sent now"
            ),
            Err(error) => tracing::error!(%error, "messages cannot be recalled"),
        }
    }

    /// Claims what nobody has claimed, and answers even when there is nothing.
    async fn look(&mut self, is_over: &(dyn Fn() -> bool + Sync)) {
        let overflow = std::mem::take(&mut *self.own.overflow.lock().unwrap_or_else(PoisonError::into_inner));
        if !overflow.is_empty()
            && let Err(error) = self.give_back(&overflow, is_over).await
        {
            tracing::error!(%error, "messages cannot be given back");
        }
        let limit = self.asked.as_ref().map_or(1, |(limit, _)| *limit);
        let found = loop {
            let worker = self.shared.worker();
            let Some(conn) = self.link.up(is_over).await else {
                return;
            };
            match claim(conn, worker.0, self.shared.told_now(), limit).await {
                Ok(found) => break Ok(found),
                Err(error) => match trouble(&error) {
                    Trouble::Lost => self.link.lose(&error),
                    Trouble::Again => self.link.pause().await,
                    Trouble::Definite => break Err(told(self.link.place(), &error)),
                },
            }
        };
        self.link.fine();
        match found {
            Ok(found) if !found.is_empty() => self.ready.extend(found),
            nothing => {
                if let Some((_, reply)) = self.asked.take() {
                    reply.send(nothing).ok();
                }
            }
        }
    }

    async fn forget(&mut self, sent: &[Sent], is_over: &(dyn Fn() -> bool + Sync)) -> Result<(), StoreError> {
        let ids: Vec<i64> = sent.iter().map(|sent| sent.id).collect();
        let lost: Vec<_> = sent.iter().filter(|sent| sent.undeliverable.is_some()).collect();
        if lost.is_empty() {
            return self.write(&Change::Delete(ids), is_over).await.map(drop);
        }
        let lost_ids = lost.iter().map(|sent| sent.id).collect();
        let whys =
            lost.iter().map(|sent| without_nul(sent.undeliverable.as_deref().unwrap_or("")).into_owned());
        let change = Change::Lost { now: self.shared.told_now(), ids, lost: lost_ids, whys: whys.collect() };
        self.write(&change, is_over).await.map(drop)
    }

    async fn give_back(
        &mut self,
        ids: &[i64],
        is_over: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), StoreError> {
        self.write(&Change::GiveBack(ids.to_vec()), is_over).await.map(drop)
    }

    /// Makes a change, which may be repeated, until it is made; answers how many rows it touched.
    async fn write(
        &mut self,
        change: &Change,
        is_over: &(dyn Fn() -> bool + Sync),
    ) -> Result<u64, StoreError> {
        loop {
            let Some(conn) = self.link.up(is_over).await else {
                return Err(StoreError::unavailable("the session is over"));
            };
            let error = match change.make(conn).await {
                Ok(rows) => {
                    self.link.fine();
                    return Ok(rows);
                }
                Err(error) => error,
            };
            match trouble(&error) {
                Trouble::Lost => self.link.lose(&error),
                Trouble::Again => self.link.pause().await,
                Trouble::Definite => return Err(told(self.link.place(), &error)),
            }
        }
    }
}

/// What becomes of messages.
enum Change {
    Delete(Vec<i64>),
    Lost { now: Option<i64>, ids: Vec<i64>, lost: Vec<i64>, whys: Vec<String> },
    GiveBack(Vec<i64>),
    Recall { worker: uuid::Uuid, now: Option<i64>, known: Vec<i64> },
}

impl Change {
    async fn make(&self, conn: &mut PgConnection) -> Sql<u64> {
        let query = match self {
            Self::Delete(ids) => {
                sqlx::query("DELETE FROM outlay.outbox WHERE outbox_id = ANY ($1)").bind(ids)
            }
            Self::Lost { now, ids, lost, whys } => sqlx::query("SELECT outlay.forget_sent($1, $2, $3, $4)")
                .bind(now)
                .bind(ids)
                .bind(lost)
                .bind(whys),
            Self::GiveBack(ids) => {
                let sql = "UPDATE outlay.outbox SET claimed_by = NULL, claimed_at = NULL WHERE outbox_id = ANY ($1)";
                sqlx::query(sql).bind(ids)
            }
            Self::Recall { worker, now, known } => sqlx::query(
                "UPDATE outlay.outbox SET claimed_by = NULL, claimed_at = NULL WHERE claimed_by = $1 \
                   AND claimed_at < coalesce($2, outlay.now_us()) - $3 AND outbox_id <> ALL ($4)",
            )
            .bind(worker)
            .bind(now)
            .bind(rows::micros(RECALL_AGE))
            .bind(known),
        };
        query.execute(conn).await.map(|done| done.rows_affected())
    }
}

async fn claim(
    conn: &mut PgConnection,
    worker: uuid::Uuid,
    now: Option<i64>,
    limit: usize,
) -> Sql<Vec<Outgoing>> {
    let sql = "SELECT outbox_id, kind, project_id, job_id, class, body, reply_to, correlation_id, traceparent, \
                 accepted_at, task, status, result FROM outlay.claim_outbox($1, $2, $3)";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = sqlx::query(sql).bind(worker).bind(now).bind(limit).fetch_all(conn).await?;
    found.iter().map(outgoing).collect()
}

fn outgoing(row: &PgRow) -> Sql<Outgoing> {
    let message = match row.try_get(1)? {
        "job" => OutgoingMessage::Job {
            class: rows::word(row.try_get(4)?)?,
            body: row.try_get::<Option<Vec<u8>>, _>(5)?.ok_or_else(|| odd_row("a job without its text"))?,
            accepted_at: Wall(row.try_get::<Option<i64>, _>(9)?.unwrap_or(0)),
        },
        _ => OutgoingMessage::Result {
            task: row.try_get::<&str, _>(10)?.into(),
            status: rows::word(row.try_get(11)?)?,
            body: row.try_get(12)?,
        },
    };
    Ok(Outgoing {
        id: row.try_get(0)?,
        key: JobKey { project: row.try_get::<&str, _>(2)?.into(), id: row.try_get::<&str, _>(3)?.into() },
        message,
        reply_to: row.try_get(6)?,
        correlation_id: row.try_get(7)?,
        traceparent: row.try_get(8)?,
    })
}
