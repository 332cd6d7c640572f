//! A runaway: the same few prompts again and again with the cache off, and a chain of jobs each of which
//! publishes the next. What is paid for stays bounded, somebody is told, and nothing is lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::frame::{Faults, Setup};
use super::own::{Seen, body};
use super::scene::{PATIENCE, Scene, seen};
use super::sender::Sender;
use crate::report::Check;

/// How often one content may come, and be told of.
const CONTENT_MAX: u64 = 40;
const CONTENT_ALERT: u64 = 10;
/// How many jobs may lead to one.
const HOPS_MAX: u64 = 8;
/// Counts of several workers are added up the oftener, the nearer a limit is; so many jobs of each worker
/// get through meanwhile.
const LATE_EACH: u64 = 6;
/// In one wave.
const CONTENTS: usize = 2;
const COPIES: usize = 150;

/// What came of one wave.
#[derive(Debug)]
struct Wave {
    /// Paid calls for each content, by the bill book, when the guard had done its work.
    paid: Vec<u64>,
    /// Paid calls for the chain.
    links: u64,
    /// Alerts in the audit log.
    alerts: i64,
    /// Jobs that were parked.
    parked: u64,
    /// Ended after they were let go, of how many.
    back: (u64, u64),
}

#[derive(Default)]
pub(super) struct Runaway {
    waves: Vec<Wave>,
    workers: u64,
}

impl Runaway {
    /// The most that the fleet may pay for one content.
    fn most(&self) -> u64 {
        CONTENT_MAX + LATE_EACH * self.workers
    }

    async fn wave(&mut self, n: usize, scene: &mut Scene<'_>, sender: &Sender<'_>) -> Result<Wave> {
        let alerts = "SELECT count(*) FROM outlay.event WHERE what = 'guard_tripped'";
        let before = scene.number(alerts).await?;
        scene.mark("a loop");
        let jobs = (0..COPIES * CONTENTS).map(|job| {
            let content = job % CONTENTS;
            let id = format!("loop-{n:03}-{content}-{job:04}");
            let body = body(&id, "p", &format!("the same mail {n} {content}"), None);
            (id, "p".to_owned(), body)
        });
        sender.send(jobs.collect()).await?;
        let links = self.chain(n, scene, sender).await?;
        let loops = format!("loop-{n:03}-%");
        let all = (COPIES * CONTENTS) as u64;
        let seen = Seen::until(scene, &loops, |seen| seen.results + seen.parked == all).await?;
        let mut paid = Vec::new();
        for content in 0..CONTENTS {
            paid.push(Seen::paid(scene, &format!("loop-{n:03}-{content}-%")).await?);
        }
        let alerts = scene.number(alerts).await? - before;
        let parked = seen.parked + Seen::look(scene, &format!("chain-{n:03}-%")).await?.parked;
        scene.mark("let go");
        let done = scene.rig.outlay(&["jobs", "release", "--project", "p", "--as", "loop"]).await?;
        ensure!(done.status.success(), "jobs release: {}", String::from_utf8_lossy(&done.stderr).trim());
        let all = all + links + 1;
        let both = format!("%-{n:03}-%");
        let back = Seen::until(scene, &both, |seen| seen.results == all).await?;
        Ok(Wave { paid, links, alerts, parked, back: (back.results, all) })
    }

    /// Publishes each link as the one before it has ended, until one is parked. Paid calls.
    async fn chain(&self, n: usize, scene: &mut Scene<'_>, sender: &Sender<'_>) -> Result<u64> {
        scene.mark("a chain");
        let all = format!("chain-{n:03}-%");
        for link in 0..4 * HOPS_MAX {
            let id = format!("chain-{n:03}-{link:02}");
            let parent = (link > 0).then(|| format!("chain-{n:03}-{:02}", link - 1));
            let body = body(&id, "p", &format!("mail {n} {link}"), parent.as_deref());
            sender.send(vec![(id, "p".to_owned(), body)]).await?;
            let seen = Seen::until(scene, &all, |seen| seen.results + seen.parked == link + 1).await?;
            if seen.parked > 0 {
                break;
            }
        }
        Seen::paid(scene, &all).await
    }
}

impl Faults for Runaway {
    const NAME: &'static str = "loop";

    fn shape(&self, setup: &mut Setup) {
        setup.rig.more = format!(
            "[defaults]\ncache_ttl = \"none\"\n[guard]\ncontent_alert = {CONTENT_ALERT}\n\
             content_jobs = {CONTENT_MAX}\nhops = {HOPS_MAX}\nrelease_step = \"100ms\"\nstop_after = 0\n"
        );
    }

    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let sender = scene.sender;
        self.workers = scene.workers.len() as u64;
        while self.waves.is_empty() || !scene.is_over() {
            let began = Instant::now();
            let wave = self.wave(self.waves.len(), scene, sender).await?;
            self.waves.push(wave);
            ensure!(began.elapsed() < PATIENCE * 3, "a wave took {:?}", began.elapsed());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn evidence(&self, scene: &Scene<'_>) -> Result<Vec<Check>> {
        let waves = self.waves.len();
        let paid: Vec<u64> = self.waves.iter().flat_map(|wave| wave.paid.iter().copied()).collect();
        let (least, most) = (paid.iter().min().copied(), paid.iter().max().copied());
        let (least, most) = (least.unwrap_or_default(), most.unwrap_or_default());
        let copies = COPIES as u64;
        let links: Vec<u64> = self.waves.iter().map(|wave| wave.links).collect();
        let alerts: Vec<i64> = self.waves.iter().map(|wave| wave.alerts).collect();
        // Of each content that it comes often, unless it is stopped at the first look, and that it is
        // stopped; of the chain that it is stopped.
        let told = 2 * CONTENTS as i64 + 1;
        let parked: u64 = self.waves.iter().map(|wave| wave.parked).sum();
        let (back, all) =
            self.waves.iter().fold((0, 0), |(back, all), wave| (back + wave.back.0, all + wave.back.1));
        let mut trips = 0.0;
        for worker in &scene.workers {
            trips += worker.metric("outlay_guard_trips_total").await;
        }
        Ok(vec![
            seen(
                "What is paid for one content is bounded, whoever counts",
                waves > 0 && most <= self.most() && most < copies,
                format!("{waves} waves, at most {most} of {copies} calls, the bound is {}", self.most()),
            ),
            seen(
                // How many depends on how soon the first are called: what has come counts, called or not.
                "What came before the limit was answered",
                waves > 0 && least > 0,
                format!("at least {least} calls, {CONTENT_MAX} may come"),
            ),
            seen(
                "A chain that publishes itself ends",
                waves > 0 && links.iter().all(|links| *links == HOPS_MAX + 1),
                format!("{links:?} calls, {HOPS_MAX} hops are allowed"),
            ),
            seen(
                "Each loop was told of, once a step and by one worker, and nothing else was",
                waves > 0
                    && alerts.iter().all(|alerts| (told / 2 + 1..=told).contains(alerts))
                    && trips as i64 == alerts.iter().sum::<i64>(),
                format!("{alerts:?} alerts, {trips} by the workers' metrics"),
            ),
            seen(
                "Jobs were parked, and a label brought every one of them back",
                parked > 0 && back == all,
                format!("{parked} parked, {back} of {all} ended"),
            ),
        ])
    }
}
