//! A provider that changes behind the fleet's back: its prices rise fivefold, or another model answers, in
//! the middle of traffic and while a project is close to its cap.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{Connection as _, PgConnection, Row as _};

use super::frame::{Faults, Setup, as_usd};
use super::own::{Seen, body};
use super::scene::{PATIENCE, Scene, seen};
use super::sender::Sender;
use crate::oracle::CapTerm;
use crate::provider::{Bill, Fault, Price};
use crate::report::Check;

/// Projects that stand at their cap as the price rises, one for each time.
const BRINKS: usize = 24;
/// About ten holds, each of which costs more than it holds at the new price.
const BRINK_NANO_USD: i64 = 20_000_000;
const BRINK_JOBS: usize = 30;
/// Prices before and after.
const OLD: Price = Price { input: 1_000_000, cached_input: 1_000_000, output: 4_000_000 };
const NEW: Price = Price { input: 5_000_000, cached_input: 5_000_000, output: 20_000_000 };
/// Who answers in place of the model, at twice its price.
const OTHER: &str = "substitute";
const OTHER_PRICE: Price = Price { input: 2_000_000, cached_input: 2_000_000, output: 8_000_000 };
/// The model is stopped before its first odd call is concluded, or hardly later.
const LATE_US: i64 = 2_000_000;
/// How long nothing may be called while the model is stopped.
const STOPPED: Duration = Duration::from_secs(1);

/// What came of one change.
#[derive(Debug)]
struct Change {
    is_price: bool,
    /// Bills that were not as bought.
    odd: u64,
    /// Microseconds from the event in the audit log to the first conclusion of an odd call. Of two calls that
    /// a worker hears of at once, one may be concluded while the other still has the model stopped.
    lead_us: i64,
    /// Events that said so.
    alerts: i64,
    /// Calls begun after the model was stopped, and calls that the provider saw while it was.
    after: (i64, u64),
    /// How far bills were above their holds, by the bill book and by the ledger.
    overshoot: (i64, i64),
}

#[derive(Default)]
pub(super) struct Drift {
    changes: Vec<Change>,
    slots: u64,
}

fn brink(n: usize) -> String {
    format!("brink-{n:02}")
}

/// What a call would have cost at the old price.
fn as_bought(bill: &Bill) -> i64 {
    let tokens = |n: u64| i64::try_from(n).unwrap_or(i64::MAX / 1_000_000);
    (tokens(bill.input_tokens) * OLD.input + tokens(bill.output_tokens) * OLD.output) / 1_000
}

impl Drift {
    async fn change(&mut self, is_price: bool, scene: &mut Scene<'_>, sender: &Sender<'_>) -> Result<Change> {
        let n = self.changes.len();
        let already = scene.rig.provider.bills().len();
        let stops = "SELECT count(*) FROM outlay.event WHERE what = 'model_drift'";
        let before = scene.number(stops).await?;
        scene.mark(if is_price { "the price rises" } else { "another model answers" });
        scene.rig.provider.update(|config| {
            if is_price {
                config.prices.insert("m".into(), NEW);
            } else {
                config.faults.rates.insert(Fault::WrongModel, 1.0);
            }
        })?;
        let jobs = (0..BRINK_JOBS).map(|job| {
            let id = format!("{}-{job:02}", brink(n));
            let body = body(&id, &brink(n), &format!("mail {job} {}", "please ".repeat(80)), None);
            (id, brink(n), body)
        });
        sender.send(jobs.collect()).await?;
        let end = Instant::now() + PATIENCE;
        while scene.number(stops).await? == before {
            ensure!(Instant::now() < end, "nobody stops the model");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        scene.mark("stopped");
        scene.rig.until(PATIENCE, |counts| counts.held == 0).await?;
        let calls = scene.rig.provider.stats().calls;
        tokio::time::sleep(STOPPED).await;
        let meanwhile = scene.rig.provider.stats().calls - calls;
        let bills = scene.rig.provider.bills();
        let odd: Vec<&Bill> = bills[already..].iter().filter(|bill| is_odd(bill)).collect();
        let mut change = self.look(is_price, scene, &odd, before).await?;
        change.after.1 = meanwhile;
        self.restore(scene).await?;
        Ok(change)
    }

    /// What the ledger says of calls that were not as bought.
    async fn look(&self, is_price: bool, scene: &Scene<'_>, odd: &[&Bill], stops: i64) -> Result<Change> {
        let ids: BTreeSet<&str> = odd.iter().filter_map(|bill| bill.attempt_id.as_deref()).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        let mut store = PgConnection::connect(scene.rig.database_url()).await?;
        let sql = "WITH told AS (SELECT min(at) AS at, count(*) AS n FROM (SELECT at FROM outlay.event \
                     WHERE what = 'model_drift' ORDER BY event_id OFFSET $2) e), \
                   odd AS (SELECT hold, counted, ended_at FROM outlay.attempt WHERE attempt_id::text = ANY ($1)) \
                   SELECT (SELECT n FROM told), (SELECT min(ended_at) FROM odd) - (SELECT at FROM told), \
                     (SELECT count(*) FROM outlay.attempt, told WHERE begun_at > told.at), \
                     (SELECT coalesce(sum(greatest(counted - hold, 0)), 0)::bigint FROM odd)";
        let row = sqlx::query(sql).bind(&ids).bind(stops).fetch_one(&mut store).await?;
        let sql = "SELECT attempt_id::text, hold FROM outlay.attempt WHERE attempt_id::text = ANY ($1)";
        let holds = sqlx::query(sql).bind(&ids).fetch_all(&mut store).await?;
        store.close().await?;
        let mut beyond = 0;
        for hold in holds {
            let (id, hold): (String, i64) = (hold.try_get(0)?, hold.try_get(1)?);
            let billed = odd.iter().find(|bill| bill.attempt_id.as_deref() == Some(&id));
            beyond += billed.map_or(0, |bill| (bill.billed_nano_usd - hold).max(0));
        }
        Ok(Change {
            is_price,
            odd: odd.len() as u64,
            alerts: row.try_get(0)?,
            lead_us: row.try_get::<Option<i64>, _>(1)?.unwrap_or(i64::MIN),
            after: (row.try_get(2)?, 0),
            overshoot: (beyond, row.try_get(3)?),
        })
    }

    /// The provider is as it was, and a person lets everything go.
    async fn restore(&self, scene: &mut Scene<'_>) -> Result<()> {
        scene.mark("released");
        scene.rig.provider.update(|config| {
            config.prices.insert("m".into(), OLD);
            config.faults.rates.clear();
        })?;
        let calls = scene.rig.provider.stats().calls;
        let end = Instant::now() + PATIENCE;
        loop {
            // Who had the model for stopped a moment ago may park a job after the first time.
            for arguments in [&["models", "release", "m"][..], &["jobs", "release", "--project", "p"]] {
                let done = scene.rig.outlay(arguments).await?;
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                ensure!(done.status.success(), "outlay {}: {}", arguments.join(" "), said.trim());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let parked = Seen::look(scene, "drift-%").await?.parked;
            if parked == 0 && scene.rig.provider.stats().calls > calls {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{parked} jobs do not come back");
        }
    }
}

fn is_odd(bill: &Bill) -> bool {
    &*bill.model == OTHER || bill.billed_nano_usd > as_bought(bill) * 2
}

impl Faults for Drift {
    const NAME: &'static str = "drift";

    fn shape(&self, setup: &mut Setup) {
        let provider = &mut setup.rig.provider;
        provider.reports_cost = true;
        // Every answer is as long as it may be, so that five times its price is more than its hold.
        provider.output.median_tokens = 5_000.0;
        provider.faults.wrong_model = OTHER.to_owned();
        provider.prices.insert(OTHER.to_owned(), OTHER_PRICE);
        setup.projects = vec![("p".to_owned(), 1.0)];
        setup.expected.may_overshoot = true;
        for n in 0..BRINKS {
            let table = format!(
                "[[project]]\nid = \"{}\"\nbudget = {{ total = \"{}\" }}\n",
                brink(n),
                as_usd(BRINK_NANO_USD)
            );
            setup.rig.projects.push_str(&table);
            setup.expected.caps.push(CapTerm::always(&brink(n), "total", BRINK_NANO_USD));
            setup.expected.may_park.insert(brink(n));
        }
    }

    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let sender = scene.sender;
        self.slots = 64 * scene.workers.len() as u64;
        while self.changes.len() < 2 || !scene.is_over() && self.changes.len() < BRINKS {
            scene.pause(300..1_500).await;
            let is_price = self.changes.len().is_multiple_of(2);
            let change = self.change(is_price, scene, sender).await?;
            self.changes.push(change);
        }
        Ok(())
    }

    async fn evidence(&self, _scene: &Scene<'_>) -> Result<Vec<Check>> {
        let of = |is_price: bool| self.changes.iter().filter(move |change| change.is_price == is_price);
        let odd: Vec<u64> = self.changes.iter().map(|change| change.odd).collect();
        let leads: Vec<i64> = self.changes.iter().map(|change| change.lead_us).collect();
        let alerts: Vec<i64> = self.changes.iter().map(|change| change.alerts).collect();
        let after: Vec<(i64, u64)> = self.changes.iter().map(|change| change.after).collect();
        let overshoot: Vec<(i64, i64)> = of(true).map(|change| change.overshoot).collect();
        let seen_both = of(true).count() > 0 && of(false).count() > 0;
        Ok(vec![
            seen(
                "Prices rose and models were swapped in the middle of traffic",
                seen_both && odd.iter().all(|odd| *odd > 0),
                format!("{} and {} times, {odd:?} calls", of(true).count(), of(false).count()),
            ),
            seen(
                "The first answer showed it",
                seen_both && leads.iter().all(|lead| *lead >= -LATE_US),
                format!("stopped {leads:?} us before the first odd call was concluded"),
            ),
            seen(
                "One alert, and no call after it",
                seen_both && alerts.iter().all(|n| *n == 1) && after.iter().all(|after| *after == (0, 0)),
                format!("{alerts:?} alerts; begun after it by the ledger, and sent: {after:?}"),
            ),
            seen(
                "No more was billed as nobody had bought it than what was under way",
                seen_both && odd.iter().all(|odd| *odd <= self.slots),
                format!("{odd:?} calls of at most {}", self.slots),
            ),
            seen(
                "What was billed above its hold is counted as that",
                overshoot.iter().any(|(bills, _)| *bills > 0)
                    && overshoot.iter().all(|(bills, ledger)| bills == ledger),
                format!("nano-dollars by the bill book and by the ledger: {overshoot:?}"),
            ),
        ])
    }
}
