//! Permission for calls, many in one transaction.

use std::collections::{BTreeSet, HashMap};

use sqlx::sqlite::SqliteConnection;

use super::facts::{self, NewJob};
use super::rows;
use super::session::Session;
use super::trouble::Sql;
use super::writer::Step;
use crate::policy::book::Book;
use crate::policy::gate::{self, Facts, JobState};
use crate::policy::text::{storable_key, without_nul};
use crate::ports::StoreError;
use crate::types::ledger::{Begin, BeginRequest, Conclusion};
use crate::types::{JobKey, ModelId, Wall, WindowId};

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

/// An attempt that may be made.
struct Granted<'a> {
    item: &'a Beginning,
    generation: u32,
    attempt_no: u32,
    windows: Vec<WindowId>,
}

/// What a batch is decided on; earlier items of the batch change it for later ones.
struct Table {
    alive: bool,
    payers: facts::Payers,
    jobs: HashMap<JobKey, JobState>,
    quarantined: HashMap<ModelId, String>,
    cancelled: HashMap<JobKey, String>,
    book: Book,
}

impl Step for Beginning {
    type Answer = Begin;

    async fn apply(
        conn: &mut SqliteConnection,
        session: Session,
        now: Wall,
        items: &[Self],
    ) -> Sql<Vec<Result<Begin, StoreError>>> {
        let mut table = read(conn, session, now, items).await?;
        let (mut granted, mut created) = (Vec::new(), Vec::new());
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let answer = decide(&mut table, session, now, item);
            if let Ok((Begin::Go { attempt_no, generation }, windows)) = &answer {
                let windows = windows.clone();
                granted.push(Granted { item, generation: *generation, attempt_no: *attempt_no, windows });
                if !table.jobs.contains_key(&item.key) {
                    created.push(new_job(item));
                }
                let state = table.jobs.entry(item.key.clone()).or_insert_with(|| JobState {
                    generation: *generation,
                    body_hash: item.request.job.body_hash,
                    finished: None,
                    attempts: 0,
                    live: 0,
                });
                state.attempts = *attempt_no;
                state.live += 1;
            }
            answers.push(answer.map(|(begin, _)| begin));
        }
        facts::insert_windows(conn, &table.book, &[]).await?;
        facts::update_held(conn, &table.book).await?;
        facts::insert_jobs(conn, &created).await?;
        let keys: Vec<_> = granted.iter().map(|granted| &granted.item.key).collect();
        facts::unpark(conn, &keys).await?;
        insert_attempts(conn, session, now, &granted).await?;
        Ok(answers)
    }

    fn unheard(&self, answer: &Begin) -> Option<Conclusion> {
        match answer {
            Begin::Go { generation, .. } => Some(gate::unheard(&self.request, *generation)),
            _ => None,
        }
    }
}

async fn read(conn: &mut SqliteConnection, session: Session, now: Wall, items: &[Beginning]) -> Sql<Table> {
    let alive =
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM worker WHERE worker_id = ?1 AND alive = 1")
            .bind(session.worker.0.as_bytes().as_slice())
            .fetch_one(&mut *conn)
            .await?;
    let projects: BTreeSet<_> = items.iter().map(|item| item.key.project.clone()).collect();
    let keys: BTreeSet<_> = items.iter().map(|item| &item.key).collect();
    Ok(Table {
        alive: alive > 0,
        payers: facts::payers(conn, &projects).await?,
        jobs: facts::job_states(conn, &keys).await?,
        quarantined: facts::quarantined(conn).await?,
        cancelled: facts::cancel_requests(conn, &keys).await?,
        book: facts::open_windows(conn, &projects, session.run, now).await?,
    })
}

fn decide(
    table: &mut Table,
    session: Session,
    now: Wall,
    item: &Beginning,
) -> Result<(Begin, Vec<WindowId>), StoreError> {
    let Beginning { key, request } = item;
    let payer = table.payers.get(&key.project).map_err(StoreError::unusable)?;
    let job = table.jobs.get(key);
    let facts = Facts {
        alive: table.alive,
        account: &table.payers.account.project,
        project: payer.map(|payer| &payer.project),
        job,
        quarantined: table.quarantined.get(&*without_nul(request.model.as_str())).map(String::as_str),
        cancelled: table.cancelled.contains_key(key),
    };
    if let Some(refusal) = gate::refuse(request, facts) {
        return Ok((refusal, Vec::new()));
    }
    let Some(payer) = payer else {
        return Ok((Begin::UnknownProject, Vec::new()));
    };
    let until = now + request.runs_for;
    let windows = table.book.charged(&table.payers.account, session.run, payer, now, until);
    if let Some(refusal) = gate::unfit(table.book.fit(&windows, request.hold)) {
        return Ok((refusal, Vec::new()));
    }
    table.book.hold(&windows, request.hold);
    let go = Begin::Go {
        attempt_no: job.map_or(1, |job| job.attempts + 1),
        generation: job.map_or(1, |job| job.generation),
    };
    Ok((go, windows))
}

fn new_job(item: &Beginning) -> NewJob {
    NewJob {
        key: item.key.clone(),
        generation: 1,
        task: without_nul(item.request.job.task.as_str()).into_owned().into(),
        body_hash: item.request.job.body_hash,
        accepted_at: item.request.accepted_at,
    }
}

async fn insert_attempts(
    conn: &mut SqliteConnection,
    session: Session,
    now: Wall,
    granted: &[Granted<'_>],
) -> Sql<()> {
    if granted.is_empty() {
        return Ok(());
    }
    let attempts: Vec<_> = granted
        .iter()
        .map(|Granted { item: Beginning { key, request }, generation, attempt_no, windows }| {
            (
                rows::hex(request.attempt),
                &key.project,
                &key.id,
                generation,
                attempt_no,
                without_nul(request.job.task.as_str()),
                windows,
                without_nul(request.provider.as_str()),
                without_nul(request.model.as_str()),
                request.price_version,
                request.hold.0,
                without_nul(&request.explanation),
            )
        })
        .collect();
    let sql = "INSERT INTO attempt (attempt_id, project_id, job_id, generation, attempt_no, task, windows, \
                 provider, model, price_version, hold, counted, explanation, worker_id, state, begun_at) \
               SELECT unhex(value->>0), value->>1, value->>2, value->>3, value->>4, value->>5, value->6, \
                 value->>7, value->>8, value->>9, value->>10, value->>10, value->>11, ?2, 'held', ?3 \
               FROM json_each(?1)";
    let query = sqlx::query(sql).bind(rows::json(&attempts)?);
    query.bind(session.worker.0.as_bytes().as_slice()).bind(now.0).execute(conn).await?;
    Ok(())
}
