//! A network that delays, loses, cuts and resets what goes between the workers and each of their services.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::deliveries::Redeliveries;
use super::frame::{Faults, Setup};
use super::scene::{Scene, seen};
use crate::proxy::{Done, Proxy, Rule, Way};
use crate::report::Check;
use crate::rig::{Rig, Ways};

const LINKS: [&str; 3] = ["database", "broker", "provider"];
/// After this long without an answer of the provider a call is over.
const CALL_TIMEOUT: &str = "timeout = \"8s\"";
/// For a fault to hit something: workers write to the database every three seconds at least.
const HIT_PATIENCE: Duration = Duration::from_secs(8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Every connection is reset.
    Reset,
    /// Half of them are.
    ResetSome,
    /// All is late for a while.
    Delay,
    /// Nothing arrives for a while, one way or both.
    BlackHole,
    /// Connections end in the middle of a message.
    Cut,
}

const FAULTS: [Fault; 5] = [Fault::Reset, Fault::ResetSome, Fault::Delay, Fault::BlackHole, Fault::Cut];

#[derive(Default)]
pub(super) struct Partition {
    proxies: Vec<Proxy>,
    redeliveries: Redeliveries,
}

impl Partition {
    async fn strike(&self, fault: Fault, link: usize, scene: &mut Scene<'_>) -> Result<()> {
        let mut link = link;
        if !until(|| !self.proxies[link].live().is_empty()).await {
            // A provider that is out of service is not called. The database is always asked something.
            link = 0;
        }
        let proxy = &self.proxies[link];
        let way = [Way::Up, Way::Down, Way::Both][scene.dice.random_range(0..3)];
        scene.mark(format!("{}: {fault:?}", LINKS[link]));
        let before = proxy.done();
        match fault {
            Fault::Reset => {
                proxy.strike(Rule::Reset);
            }
            Fault::ResetSome => {
                let mut live = proxy.live();
                live.shuffle(&mut scene.dice);
                live.truncate(live.len().div_ceil(2));
                proxy.strike_some(&live, Rule::Reset);
            }
            Fault::Delay => {
                proxy.set(Rule::Delay(Duration::from_millis(scene.dice.random_range(20..300))));
                until(|| proxy.done().delayed > before.delayed).await;
                scene.pause(1_000..3_000).await;
            }
            Fault::BlackHole => {
                proxy.set(Rule::BlackHole(way));
                until(|| proxy.done().swallowed > before.swallowed).await;
                // Now and then for longer than a session's lease.
                let longest = if scene.dice.random_bool(0.2) { 14_000 } else { 4_000 };
                scene.pause(1_000..longest).await;
            }
            Fault::Cut => {
                let way = if way == Way::Both { Way::Down } else { way };
                proxy.strike(Rule::Cut(way, scene.dice.random_range(1..2_000)));
                until(|| proxy.done().cut > before.cut).await;
                scene.pause(0..500).await;
            }
        }
        proxy.set(Rule::Pass);
        Ok(())
    }
}

impl Faults for Partition {
    const NAME: &'static str = "partition";

    fn shape(&self, setup: &mut Setup) {
        setup.rig.terms = CALL_TIMEOUT.to_owned();
        // Each call that a black hole takes is paid for and asked again at the pace of the retry budget.
        setup.rig.max_in_flight = 16;
    }

    async fn stand_between(&mut self, rig: &mut Rig) -> Result<()> {
        let [postgres, broker, provider] = rig.services().await?;
        self.proxies = vec![
            Proxy::to(postgres).await?,
            Proxy::overheard(broker, self.redeliveries.listen()).await?,
            Proxy::to(provider).await?,
        ];
        let [postgres, broker, provider] = [0, 1, 2].map(|at: usize| self.proxies.get(at).map(Proxy::addr));
        rig.lead_workers(Ways { postgres, broker, provider })
    }

    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        // Each fault once, each link at least once; then as the dice fall.
        let mut deck: Vec<(Fault, usize)> =
            FAULTS.iter().enumerate().map(|(n, fault)| (*fault, n % LINKS.len())).collect();
        let turn = scene.dice.random_range(0..LINKS.len());
        deck.iter_mut().for_each(|(_, link)| *link = (*link + turn) % LINKS.len());
        deck.shuffle(&mut scene.dice);
        loop {
            let (fault, link) = match deck.pop() {
                Some(next) => next,
                None if scene.is_over() => return Ok(()),
                None => {
                    let fault = FAULTS[scene.dice.random_range(0..FAULTS.len())];
                    (fault, scene.dice.random_range(0..LINKS.len()))
                }
            };
            scene.pause(300..1_500).await;
            self.strike(fault, link, scene).await?;
        }
    }

    async fn evidence(&self, scene: &Scene<'_>) -> Result<Vec<Check>> {
        let all: Vec<Done> = self.proxies.iter().map(Proxy::done).collect();
        let count = |what: &str, of: fn(&Done) -> u64| {
            let each: Vec<String> =
                LINKS.iter().zip(&all).map(|(link, done)| format!("{link} {}", of(done))).collect();
            let sum: u64 = all.iter().map(of).sum();
            let name = format!("Connections that were alive {what}");
            seen(&name, sum > 0, each.join(", "))
        };
        let lost =
            scene.logged("the connection was lost") + scene.logged("connection to RabbitMQ is renewed");
        let calls = "SELECT count(*) FROM outlay.attempt WHERE outcome IN ('timeout', 'dropped', 'not_sent', 'unreadable')";
        let calls = scene.number(calls).await?;
        Ok(vec![
            count("were reset", |done| done.reset),
            count("were cut in the middle of a message", |done| done.cut),
            count("lost what was sent in a black hole", |done| done.swallowed),
            count("were late", |done| done.delayed),
            seen(
                "Workers noticed",
                lost > 0,
                format!(
                    "{lost} connections lost by their logs, {calls} calls without an answer, {} redeliveries",
                    self.redeliveries.count()
                ),
            ),
        ])
    }
}

/// Whether it comes to that in time.
async fn until(what: impl Fn() -> bool) -> bool {
    let end = Instant::now() + HIT_PATIENCE;
    while !what() {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}
