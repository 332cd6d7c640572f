//! A recorded trace against real workers: every job ends, the books agree, the trace's lengths are billed.

use outlay_loadtest::replay::{Replay, Replayed};
use outlay_loadtest::report::Report;
use outlay_loadtest::trace::Shape;

use super::{PATIENCE, here};

#[derive(clap::Parser)]
struct Words {
    #[command(flatten)]
    shape: Shape,
}

/// Models that never stall, so that nobody waits a minute for a test.
const WORLD: &str = "[tier.small]\nbase_ms = 150.0\ninvalid_share = 0.05\n[tier.medium]\nbase_ms = 150.0\n";

fn replay(world: &tempfile::NamedTempFile, words: &str, cap_usd: Option<&str>) -> Replay {
    std::fs::write(world.path(), WORLD).expect("written");
    let words = std::iter::once("replay").chain(words.split_whitespace());
    let Words { shape } = clap::Parser::parse_from(words);
    Replay {
        trace: concat!(env!("CARGO_MANIFEST_DIR"), "/examples/trace.csv").to_owned(),
        shape,
        world: Some(world.path().to_owned()),
        outages: Vec::new(),
        workers: 2,
        slots: 256,
        cap_usd: cap_usd.map(str::to_owned),
        outlay: env!("CARGO_BIN_EXE_outlay").into(),
        allow_remote: true,
    }
}

/// Plays it to the end; `None` where there are no services.
async fn play(replay: &Replay) -> Option<(Replayed, Report, u64)> {
    let (trace, plan, world) = replay.plan().await.expect("a plan");
    let rig = here(replay.rig(&plan, &world).await)?;
    let mut workers = Vec::new();
    for _ in 0..replay.workers {
        workers.push(rig.worker().await.expect("a worker"));
    }
    let replayed = replay.send(&rig, &plan).await.expect("every job ends");
    for worker in workers {
        assert_eq!(worker.stop(PATIENCE).await.expect("it ends").code(), Some(0));
    }
    let report = replay.report(&trace, &rig, &plan, &replayed).await.expect("figures");
    let output_tokens = plan.iter().map(|planned| u64::from(planned.output_tokens)).sum();
    rig.close().await.expect("closed");
    Some((replayed, report, output_tokens))
}

/// Everything but the sender's punctuality, which a busy machine decides.
fn assert_sound(report: &Report) {
    let broken: Vec<_> = report.checks.iter().skip(1).filter(|check| !check.held).collect();
    assert!(broken.is_empty(), "{broken:?}");
    assert!(report.checks.len() > 10, "the oracle has looked");
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_jobs_are_answered_at_their_recorded_lengths() {
    let world = tempfile::NamedTempFile::new().expect("a file");
    let replay = replay(&world, "--for 30s --speed 4 --deadlines none", None);
    let Some((replayed, report, output_tokens)) = play(&replay).await else { return };
    assert_eq!(replayed.counts.done, replayed.jobs, "{:?}", replayed.counts);
    assert!(replayed.jobs > 20, "{}", replayed.jobs);
    assert_sound(&report);
    // Answers that are worth nothing are billed besides, so the recorded lengths are the least.
    let billed: i64 = replayed.by_model.values().map(|(_, nano_usd)| nano_usd).sum();
    assert_eq!(billed, replayed.billed_nano_usd);
    assert!(
        billed >= i64::try_from(output_tokens).expect("small") * 400,
        "{billed} for {output_tokens} tokens"
    );
    assert!(replayed.latency_at(0.5) > 100.0, "answers take their time: {}", replayed.latency_at(0.5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_parks_what_it_has_no_room_for() {
    let world = tempfile::NamedTempFile::new().expect("a file");
    let replay = replay(&world, "--for 30s --speed 10 --deadlines none", Some("0.004"));
    let Some((replayed, report, _)) = play(&replay).await else { return };
    assert!(replayed.counts.parked > 0 && replayed.counts.done > 0, "{:?}", replayed.counts);
    assert!(replayed.billed_nano_usd <= 4_000_000, "{}", replayed.billed_nano_usd);
    assert_sound(&report);
}
