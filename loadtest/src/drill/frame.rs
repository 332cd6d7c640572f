//! What every kind of drill goes through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::Options;
use super::progress::Progress;
use super::scene::{PATIENCE, Scene, seen};
use super::sender::Sender;
use crate::oracle::{self, CapTerm, Expectations, Look, Watch};
use crate::record::{Recorder, RecorderOptions};
use crate::report::{Chart, Check, Mark, Plot, Report, Series};
use crate::rig::{Rig, RigOptions, outlay_binary};

/// A project whose cap is reached during the drill, so that faults and the cap meet.
pub(crate) const TIGHT: &str = "tight";
/// Its cap: a few dozen jobs, or a dozen holds.
const TIGHT_NANO_USD: i64 = 20_000_000;
/// The caps of the project that has most of the jobs, by kind of window: more than it can ever spend.
const WIDE_USD: [(&str, i64); 3] = [("day", 1_000), ("month", 2_000), ("total", 3_000)];
const USD: i64 = 1_000_000_000;

/// One kind of drill.
pub(crate) trait Faults {
    /// As on the command line.
    const NAME: &'static str;

    /// What it needs otherwise than others do. Services of its own are started before.
    fn shape(&self, setup: &mut Setup);

    /// Puts itself between the services and the workers, which start afterwards.
    async fn stand_between(&mut self, _rig: &mut Rig) -> Result<()> {
        Ok(())
    }

    /// Makes its faults until [`Scene::is_over`], while jobs come; each kind of fault at least once.
    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()>;

    /// Whether they happened, by what the database, the broker, the workers' logs and their metrics say.
    async fn evidence(&self, scene: &Scene<'_>) -> Result<Vec<Check>>;
}

/// What a drill is made of.
pub(crate) struct Setup {
    pub(crate) rig: RigOptions,
    /// Jobs a second.
    pub(crate) rate: f64,
    /// Who the jobs are of, with each one's share.
    pub(crate) projects: Vec<(String, f64)>,
    /// What its outcome has to be; the jobs come later.
    pub(crate) expected: Expectations,
    pub(crate) workers: usize,
}

impl Setup {
    /// Calls of 150 ms, most of the jobs of a project that can pay for them, and some of one that cannot.
    fn new(outlay: PathBuf, options: &Options, seed: u64) -> Self {
        let mut rig = RigOptions::new(outlay);
        rig.max_in_flight = 64;
        rig.provider.seed = seed;
        rig.provider.latency.base_ms = 150.0;
        let wide: Vec<String> = WIDE_USD.map(|(kind, usd)| format!("{kind} = \"{usd}\"")).into();
        rig.projects = format!(
            "[[project]]\nid = \"p\"\nbudget = {{ {} }}\n[[project]]\nid = \"{TIGHT}\"\nbudget = {{ total = \"{}\" }}\n",
            wide.join(", "),
            as_usd(TIGHT_NANO_USD)
        );
        let mut caps: Vec<CapTerm> =
            WIDE_USD.iter().map(|(kind, usd)| CapTerm::always("p", kind, usd * USD)).collect();
        caps.push(CapTerm::always(TIGHT, "total", TIGHT_NANO_USD));
        let may_park = [TIGHT.to_owned()].into();
        Self {
            rig,
            rate: options.rate,
            projects: vec![("p".to_owned(), 0.8), (TIGHT.to_owned(), 0.2)],
            expected: Expectations { caps, may_park, ..Expectations::default() },
            workers: options.workers,
        }
    }
}

/// Dollars as a configuration has them.
pub(crate) fn as_usd(nano: i64) -> String {
    format!("{}.{:09}", nano / USD, nano % USD)
}

/// Carries a drill out from the first process to the last check.
pub(super) async fn run<F: Faults>(mut faults: F, options: &Options) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut setup = Setup::new(outlay_binary(options.outlay.as_deref())?, options, seed);
    faults.shape(&mut setup);
    let mut rig = Rig::start(setup.rig.clone()).await?;
    let interrupted = async {
        if !options.interruptible || tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    // Whatever comes of it, nothing is left behind.
    let outcome = tokio::select! {
        outcome = trial(&mut rig, &mut faults, setup, options, seed) => outcome,
        () = interrupted => bail_interrupted(),
    };
    let outcome = outcome.map(|mut report| {
        if !report.held() {
            keep_logs(&rig, F::NAME, seed, &mut report);
        }
        report
    });
    let closed = rig.close().await;
    let report = outcome?;
    closed?;
    Ok(report)
}

fn bail_interrupted() -> Result<Report> {
    bail!("interrupted")
}

/// What the fleet went through, without a verdict.
struct Course {
    jobs: BTreeMap<String, String>,
    caps: Vec<CapTerm>,
    marks: Vec<Mark>,
    checks: Vec<Check>,
}

async fn trial<F: Faults>(
    rig: &mut Rig,
    faults: &mut F,
    setup: Setup,
    options: &Options,
    seed: u64,
) -> Result<Report> {
    let declared = rig.outlay(&["submit", "/dev/null"]).await?;
    let said = String::from_utf8_lossy(&declared.stderr);
    ensure!(declared.status.success(), "outlay submit: {}", said.trim());
    faults.stand_between(rig).await?;
    let rig = &*rig;
    let progress = Progress::new();
    progress.say(&format!("drill {}, seed {seed}", F::NAME));
    let watch = Watch::new(rig.database_url());
    let recorder = options
        .is_recorded
        .then(|| Recorder::start(RecorderOptions { is_live: false, ..RecorderOptions::new(rig) }));
    let handle = recorder.as_ref().map(Recorder::handle);
    let sender = Sender::new(rig, F::NAME, setup.rate, setup.projects, seed);
    let mut expected = setup.expected;
    let began = Instant::now();
    let course = async {
        let mut workers = Vec::new();
        for _ in 0..setup.workers {
            let worker = rig.worker().await?;
            if let Some(recorder) = &handle {
                recorder.watch(&worker);
            }
            workers.push(worker);
        }
        let scene = Scene {
            rig,
            recorder: handle.clone(),
            sender: &sender,
            workers,
            dice: StdRng::seed_from_u64(seed),
            caps: expected.caps.clone(),
            marks: Vec::new(),
            began,
            faults_end: Instant::now() + options.duration,
            progress: &progress,
        };
        unfold(scene, faults, &sender, &expected.may_park).await
    };
    let telling = async {
        loop {
            let look = watch.latest().unwrap_or_default();
            let (published, Look { results, parked, held, .. }) = (sender.published(), look);
            progress.stands(&format!(
                "{published} published, {results} ended, {parked} parked, {held} calls under way"
            ));
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    let course = tokio::select! {
        course = course => course?,
        ((), ()) = async { tokio::join!(watch.run(), telling) } => bail!("nobody watches any more"),
    };
    drop(progress);
    expected.jobs = course.jobs;
    expected.caps = course.caps;
    let mut report = Report { title: format!("Drill {}, seed {seed}", F::NAME), ..Report::default() };
    let stats = rig.provider.stats();
    report.fact("seed", seed);
    report.fact("workers", setup.workers);
    report.fact("faults", format!("{:.0} s", options.duration.as_secs_f64()));
    report.fact("jobs", format!("{} at {} a second", expected.jobs.len(), setup.rate));
    report.fact("calls", format!("{}, {} billed", stats.calls, stats.billed_calls));
    report.fact("took", format!("{:.1} s", began.elapsed().as_secs_f64()));
    report.checks = course.checks;
    report.checks.push(watch.check());
    report.checks.extend(oracle::examine(rig, &expected).await?);
    report.charts = charts(&watch.looks(), &course.marks);
    if let Some(recorder) = recorder {
        report.charts.extend(recorder.finish().await);
    }
    Ok(report)
}

/// Faults while jobs come, then rest, evidence and the orderly end of the workers.
async fn unfold<F: Faults>(
    mut scene: Scene<'_>,
    faults: &mut F,
    sender: &Sender<'_>,
    may_park: &BTreeSet<String>,
) -> Result<Course> {
    let faulty = async {
        let outcome = async {
            // Faults are for a fleet at work.
            scene.rig.until(PATIENCE, |c| c.results > 0).await?;
            faults.unfold(&mut scene).await
        };
        let outcome = outcome.await;
        sender.stop();
        outcome
    };
    let (sent, unfolded) = tokio::join!(sender.run(), faulty);
    unfolded?;
    let jobs = sent?;
    let mut checks = vec![scene.quiet(jobs.len(), may_park).await];
    checks.extend(faults.evidence(&scene).await?);
    let workers = std::mem::take(&mut scene.workers);
    let stops = workers.into_iter().map(|worker| worker.stop(PATIENCE));
    let mut ends = Vec::new();
    for end in futures_util::future::join_all(stops).await {
        ends.push(match end {
            Ok(status) => status.to_string(),
            Err(error) => format!("{error:#}"),
        });
    }
    let in_order = ends.iter().all(|end| end == "exit status: 0");
    checks.push(seen("Every worker ends in order when it is asked to", in_order, ends.join(", ")));
    Ok(Course { jobs, caps: scene.caps, marks: scene.marks, checks })
}

/// The logs of a drill that failed stay, and the report says where.
fn keep_logs(rig: &Rig, name: &str, seed: u64, report: &mut Report) {
    let folder = std::env::temp_dir().join(format!("outlay-drill-{name}-{seed}"));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        for (n, log) in rig.logs().iter().enumerate() {
            std::fs::write(folder.join(format!("worker-{n}.log")), log)?;
        }
        Ok(())
    };
    match write() {
        Ok(()) => report.fact("logs", folder.display()),
        Err(error) => report.fact("logs", format!("could not be kept: {error}")),
    }
}

fn charts(looks: &[Look], marks: &[Mark]) -> Vec<Chart> {
    let line = |name: &str, of: &dyn Fn(&Look) -> Option<f64>, is_limit: bool| Series {
        name: name.to_owned(),
        points: looks.iter().filter_map(|look| Some((look.at_s, of(look)?))).collect(),
        is_limit,
    };
    let chart = |title: &str, unit: &str, series: Vec<Series>| Chart {
        title: title.to_owned(),
        unit: unit.to_owned(),
        plot: Plot::Lines { series },
        marks: marks.to_vec(),
    };
    let of_tight = |look: &Look, nano: fn(&oracle::WindowLook) -> Option<i64>| {
        let window = look.windows.iter().find(|window| window.project == TIGHT)?;
        nano(window).map(|nano| nano as f64 / USD as f64)
    };
    vec![
        chart(
            "Jobs",
            "jobs",
            vec![
                line("ended", &|look| Some(look.results as f64), false),
                line("parked", &|look| Some(look.parked as f64), false),
                line("under way", &|look| Some(look.held as f64), false),
            ],
        ),
        chart(
            "Money of a project that reaches its cap",
            "$",
            vec![
                line("committed", &|look| of_tight(look, |window| Some(window.committed)), false),
                line("spent", &|look| of_tight(look, |window| Some(window.spent)), false),
                line("cap", &|look| of_tight(look, |window| window.cap), true),
            ],
        ),
    ]
}
