//! A database that ends sessions, crashes and stays away for a while: one of the drill's own, or, where
//! none can be started, the usual one, of which only the drill's own sessions are ended.

use std::time::Duration;

use anyhow::Result;
use sqlx::Connection as _;

use super::deck::Deck;
use super::frame::{Faults, Setup};
use super::scene::{PATIENCE, Scene, seen};
use crate::report::Check;
use crate::rig::{Private, Unavailable};

const LOST: &str = "the connection was lost";
const AGAIN: &str = "connected again";
const WAITS: &str = "no connection";
const ENDED: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                     WHERE datname = current_database() AND application_name LIKE 'outlay%'";
const STARTED_MS: &str = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Sessions of workers are ended, a few times in a row.
    End,
    /// The whole server dies at once and starts again.
    Crash,
    /// The same, and it stays away for a while.
    Away,
}

const FAULTS: [Fault; 3] = [Fault::End, Fault::Crash, Fault::Away];

pub(super) struct Postgres {
    services: Option<Private>,
    faults: [u64; 3],
    /// Sessions that the database says it has ended.
    ended: i64,
    /// When the server that runs had started, as it said itself after each crash.
    starts_ms: Vec<i64>,
}

impl Postgres {
    pub(super) async fn start() -> Result<Self> {
        let services = match Private::start("postgres").await {
            Ok(services) => Some(services),
            Err(error) if error.is::<Unavailable>() => {
                eprintln!("{error:#}\nthe usual database is used, and only sessions of the drill are ended");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { services, faults: [0; 3], ended: 0, starts_ms: Vec::new() })
    }

    async fn strike(&mut self, fault: Fault, scene: &mut Scene<'_>) -> Result<()> {
        scene.mark(format!("database: {fault:?}"));
        self.faults[fault as usize] += 1;
        let Some(services) = self.services.as_ref().filter(|_| fault != Fault::End) else {
            for _ in 0..3 {
                let mut connection = scene.connect().await?;
                self.ended += sqlx::query_scalar::<_, i64>(ENDED).fetch_one(&mut connection).await?;
                connection.close().await?;
                scene.pause(50..300).await;
            }
            return Ok(());
        };
        services.act("kill9", "postgres").await?;
        if fault == Fault::Away {
            scene.pause(1_500..6_000).await;
        }
        services.act("restart", "postgres").await?;
        self.starts_ms.push(scene.number(STARTED_MS).await?);
        Ok(())
    }
}

impl Faults for Postgres {
    const NAME: &'static str = "postgres";

    fn shape(&self, setup: &mut Setup) {
        if let Some(services) = &self.services {
            services.shape(&mut setup.rig);
        }
    }

    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let mut deck = Deck::new(&FAULTS);
        while !deck.is_through() || !scene.is_over() {
            let fault = deck.draw(&mut scene.dice);
            scene.pause(500..2_000).await;
            self.strike(fault, scene).await?;
            // The next fault is for a fleet that works again, or the sessions to end are not there.
            let results = scene.rig.until(PATIENCE, |_| true).await?.results;
            scene.rig.until(PATIENCE + Duration::from_secs(30), |c| c.results > results).await?;
        }
        Ok(())
    }

    async fn evidence(&self, scene: &Scene<'_>) -> Result<Vec<Check>> {
        let [ended, crashes, absences] = self.faults;
        let mut starts = self.starts_ms.clone();
        starts.dedup();
        let private = self.services.is_some();
        let (lost, again, waits) = (scene.logged(LOST), scene.logged(AGAIN), scene.logged(WAITS));
        let mut checks = vec![
            seen(
                "Sessions of workers were ended by the database",
                self.ended > 0,
                format!("{} sessions in {ended} rounds", self.ended),
            ),
            seen(
                "Workers lost connections of the ledger and made new ones",
                lost > 0 && again > 0,
                format!("{lost} times lost, {again} times connected again, by the workers' logs"),
            ),
        ];
        if private {
            checks.push(seen(
                "The database crashed and started again",
                starts.len() as u64 == crashes + absences && !starts.is_empty(),
                format!(
                    "{crashes} crashes, {absences} longer absences, {} starts by its own word",
                    starts.len()
                ),
            ));
            checks.push(seen(
                "Workers waited while there was no database",
                waits > 0,
                format!("{waits} times by the workers' logs"),
            ));
        }
        Ok(checks)
    }
}
