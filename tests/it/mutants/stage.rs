//! What every scenario needs: a fleet of one mutant or of none, its jobs, an end, and a judgement.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use outlay_loadtest::oracle::{self, CapTerm, Expectations};
use outlay_loadtest::report::Check;
use outlay_loadtest::rig::{Counts, Jobs, Rig, RigOptions, Worker};
use sqlx::{Connection as _, PgConnection};

use super::{VARIABLE, binary};
use crate::e2e::{self, PATIENCE, sender};

/// How long nothing may happen before it is taken for the end, because what a mutant has lost never ends.
const STILL: Duration = Duration::from_secs(5);
/// The same while holds stand: whoever held them may have to be found dead first.
const STILL_WITH_HOLDS: Duration = Duration::from_secs(20);

/// A mutant by its name, or the same binary as it should be.
pub(super) type Mutant = Option<&'static str>;

/// A fleet and what it was given to do.
pub(super) struct Cast {
    pub(super) rig: Rig,
    pub(super) crew: Vec<Worker>,
    /// Nobody of the fleet has died, so a hold that stands still is nobody's any more.
    pub(super) all_live: bool,
    mutant: Mutant,
    sender: Jobs,
    /// Jobs that the broker has, each with its project.
    sent: BTreeMap<String, String>,
    caps: Vec<CapTerm>,
}

/// A job's body that asks for so many tokens.
pub(super) fn body(id: &str, project: &str, text: &str, more: &str) -> String {
    format!(
        r#"{{"id":"{id}","project":"{project}","task":"t","messages":[{{"role":"user","content":"{text}"}}]{more}}}"#
    )
}

impl Cast {
    /// `None`, loudly, without services.
    pub(super) async fn new(mutant: Mutant, shape: impl FnOnce(&mut RigOptions)) -> Option<Self> {
        let shape = |options: &mut RigOptions| {
            options.outlay = binary().to_owned();
            options.environment.extend(mutant.map(|name| (VARIABLE.to_owned(), name.to_owned())));
            shape(options);
        };
        let rig = e2e::rig(shape).await?;
        let sender = sender(&rig).await;
        let (sent, caps) = (BTreeMap::new(), Vec::new());
        Some(Self { rig, crew: Vec::new(), all_live: true, mutant, sender, sent, caps })
    }

    /// Starts so many workers more.
    pub(super) async fn hire(&mut self, n: usize) {
        for _ in 0..n {
            self.crew.push(self.rig.worker().await.expect("a worker"));
        }
    }

    /// Publishes jobs, each an id, its project and its body, as fast as the broker takes them.
    pub(super) async fn send(&mut self, jobs: Vec<(String, String, String)>) {
        let sending = jobs.iter().map(|(id, _, body)| self.sender.send(id, body));
        let sent: Result<(), _> = stream::iter(sending).buffer_unordered(256).try_collect().await;
        sent.expect("sent");
        self.sent.extend(jobs.into_iter().map(|(id, project, _)| (id, project)));
    }

    /// The project's total is capped.
    pub(super) fn capped(&mut self, project: &str, nano_usd: i64) {
        self.caps.push(CapTerm::always(project, "total", nano_usd));
    }

    /// Has all workers end in order once every job has its end, and another take their place.
    pub(super) async fn relieve(&mut self) {
        let jobs = self.sent.len() as u64;
        self.rig.until(PATIENCE, |c| c.results == jobs && c.held == 0).await.expect("every job ends");
        self.leave().await;
        self.hire(1).await;
    }

    /// From now on the database takes ten milliseconds to write a call down: whoever asks meanwhile without a
    /// lock certainly sees what was there before.
    pub(super) async fn slow_begins(&self) {
        const SLOW: &str = "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS \
            $$ BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END $$; \
            CREATE TRIGGER slow BEFORE INSERT ON outlay.attempt FOR EACH STATEMENT EXECUTE FUNCTION public.slow()";
        let mut store = PgConnection::connect(self.rig.database_url()).await.expect("the database");
        sqlx::raw_sql(SLOW).execute(&mut store).await.expect("slow");
        store.close().await.expect("closed");
    }

    async fn leave(&mut self) {
        for worker in self.crew.drain(..) {
            worker.stop(PATIENCE).await.expect("it ends");
        }
    }

    /// Waits until every job so far has its end.
    pub(super) async fn done(&self) -> Counts {
        let jobs = self.sent.len() as u64;
        let over = |c: &Counts| c.results + c.parked == jobs && c.held == 0 && c.outbox == 0;
        self.rig.until(PATIENCE * 3, over).await.expect("every job ends")
    }

    /// Waits until every job has its end, or nothing happens any more; then every worker ends.
    pub(super) async fn end(&mut self) {
        let jobs = self.sent.len() as u64;
        let over = |c: &Counts| c.results + c.parked == jobs && c.held == 0 && c.outbox == 0;
        if self.mutant.is_none() {
            self.done().await;
        } else {
            self.still(over).await;
        }
        self.leave().await;
    }

    /// Counts calls in the ledger that are so.
    pub(super) async fn attempts(&self, so: &str) -> i64 {
        let mut store = PgConnection::connect(self.rig.database_url()).await.expect("the database");
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM outlay.attempt WHERE {so}"));
        let count = sqlx::query_scalar(sql).fetch_one(&mut store).await.expect("a count");
        store.close().await.expect("closed");
        count
    }

    async fn still(&self, over: impl Fn(&Counts) -> bool) {
        let (mut last, mut since) = (None, Instant::now());
        let latest = Instant::now() + PATIENCE * 3;
        while Instant::now() < latest {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let Ok(counts) = self.rig.counts().await else { continue };
            if over(&counts) {
                return;
            }
            let now = Some((counts, self.rig.provider.stats().calls));
            if now != last {
                (last, since) = (now, Instant::now());
            }
            let still = if counts.held == 0 || self.all_live { STILL } else { STILL_WITH_HOLDS };
            if since.elapsed() > still {
                return;
            }
        }
        panic!("it never ends: {last:?}");
    }

    /// What the oracle says; the fleet is gone.
    pub(super) async fn judge(self) -> Vec<Check> {
        let Self { rig, sent, caps, mutant, .. } = self;
        let may_park = caps.iter().map(|term| term.project.clone()).collect();
        let expected = Expectations { jobs: sent, may_park, caps, ..Expectations::default() };
        let checks = oracle::examine(&rig, &expected).await.expect("an examination");
        if mutant.is_none() {
            // What outlay itself finds in its ledger does not count, but it has to agree.
            rig.audit().await.expect("the books");
        }
        rig.close().await.expect("closed");
        checks
    }
}

fn broken(checks: &[Check]) -> Vec<&Check> {
    checks.iter().filter(|check| !check.held).collect()
}

/// Plays the scene once as it should be and once for each mutant. Each mutant has to be
/// noticed by the check that is named beside it.
pub(super) async fn caught(
    mutants: &[(&'static str, &str)],
    scene: impl AsyncFn(Mutant) -> Option<Vec<Check>>,
) {
    // One after the other: two fleets of four beside another test's are too many for a server's connections.
    let Some(right) = scene(None).await else { return };
    holds(&right);
    for (name, by) in mutants {
        let checks = scene(Some(*name)).await.expect("the services answered a moment ago");
        notices(name, &[by], &checks);
    }
}

pub(super) fn holds(checks: &[Check]) {
    assert!(broken(checks).is_empty(), "without a mutant: {:#?}", broken(checks));
}

/// At least one of the checks `by` has found it out.
pub(super) fn notices(mutant: &str, by: &[&str], checks: &[Check]) {
    let found = broken(checks);
    let named = found.iter().find(|check| by.contains(&check.name.as_ref()));
    let named = named.unwrap_or_else(|| panic!("{mutant} is not caught by {by:?}, but by {found:#?}"));
    eprintln!("{mutant} is caught: {}: {}", named.name, named.detail);
}
