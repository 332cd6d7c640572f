//! Policies side by side, on a trace that was made up for it and on a recorded one.

use std::path::Path;

use clap::Parser as _;

use super::*;

#[derive(clap::Parser)]
struct Words {
    trace: String,
    #[arg(long)]
    outage: Vec<Outage>,
    #[command(flatten)]
    shape: Shape,
}

fn comparison(words: &str) -> Comparison {
    let made = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/trace.csv");
    let words = words.replace("MADE", made);
    let words = Words::parse_from(std::iter::once("compare").chain(words.split_whitespace()));
    Comparison { trace: words.trace, shape: words.shape, config: None, world: None, outages: words.outage }
}

async fn of(words: &str) -> Compared {
    compare(&comparison(words), &|_, _| {}).await.expect(words)
}

fn one(compared: &Compared, policy: Policy) -> &Figures {
    compared.policies.iter().find(|figures| figures.policy == policy.name()).expect("each policy has run")
}

#[tokio::test]
async fn the_router_is_cheap_in_time_and_valid_and_nobody_beats_the_bound() {
    let compared = of("MADE --outage cheap:4m-5m --seed 3").await;
    let premium = one(&compared, Policy::PremiumOnly);
    let ours = one(&compared, Policy::Outlay);
    assert_eq!((premium.misses, premium.valid), (0, 1_200), "{premium:?}");
    assert_eq!((ours.misses, ours.valid), (0, 1_200), "{ours:?}");
    assert!(ours.cost_nano_usd * 5 < premium.cost_nano_usd * 2, "60 % less: {ours:?} {premium:?}");
    let cheapest = one(&compared, Policy::CheapestOnly);
    assert!(cheapest.misses > 50, "an outage of its only provider is no use to it: {cheapest:?}");
    assert!(one(&compared, Policy::RoundRobin).cost_nano_usd > ours.cost_nano_usd);
    // Whoever gives every job a valid answer in time pays at least the bound.
    let complete = compared.policies.iter().filter(|one| one.misses == 0 && one.valid == 1_200);
    let mut seen = 0;
    for figures in complete {
        assert!(figures.cost_nano_usd >= compared.optimum_nano_usd, "{figures:?}");
        seen += 1;
    }
    assert!(seen >= 2);
    assert!(compared.optimum_nano_usd > 0);
    let titles: Vec<_> = compared.report.charts.iter().map(|chart| chart.title.as_str()).collect();
    assert_eq!(titles.len(), 5, "{titles:?}");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_figures_and_another_one_others() {
    let [first, again, other] = [
        of("MADE --for 2m --seed 1").await,
        of("MADE --for 2m --seed 1").await,
        of("MADE --for 2m --seed 2").await,
    ];
    assert_eq!(first.policies, again.policies);
    assert_eq!(first.optimum_nano_usd, again.optimum_nano_usd);
    assert_ne!(first.policies, other.policies);
}

#[tokio::test]
async fn repeated_jobs_are_paid_for_twice_at_most() {
    let plain = of("MADE --for 3m").await;
    let repeated = of("MADE --for 3m --duplicates 0.6").await;
    let (plain, repeated) = (one(&plain, Policy::Outlay), one(&repeated, Policy::Outlay));
    assert_eq!(repeated.valid, plain.valid, "every job has its answer");
    assert!(
        repeated.calls < plain.calls * 8 / 10,
        "{} calls, {} without repeats",
        repeated.calls,
        plain.calls
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_name() {
    let refused = async |comparison: Comparison, named: &str| {
        let error = compare(&comparison, &|_, _| {}).await.expect_err(named);
        let error = format!("{error:#}");
        assert!(error.contains(named), "{error}");
    };
    refused(comparison("MADE --outage nobody:1m-2m"), "nobody: no such provider").await;
    refused(comparison("/nowhere/trace.csv"), "/nowhere/trace.csv").await;
    refused(comparison("MADE --from 5h"), "nothing came").await;
    let folder = std::env::temp_dir().join(format!("outlay-world-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let table = [
        ("[model.nobody]\nbase_ms = 1.0\n", "the model nobody"),
        ("[tier.small]\nbase_ms = -1.0\n", "base_ms is -1"),
        ("[tier.tiny]\n", "tier.tiny"),
        ("[tier.small]\nbase = 1.0\n", "base"),
        ("[tier.small]\ninvalid_share = 2.0\n", "invalid_share is 2"),
    ];
    for (n, (text, named)) in table.into_iter().enumerate() {
        let path = folder.join(format!("{n}.toml"));
        std::fs::write(&path, text).expect("written");
        refused(Comparison { world: Some(path), ..comparison("MADE --for 1m") }, named).await;
    }
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// The recorded hour, with the cheap provider down for five minutes of it.
#[tokio::test]
async fn on_the_recorded_hour_it_is_within_five_percent_of_the_optimum() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/traces/azure_llm_2023_conv.csv");
    if !Path::new(path).exists() {
        eprintln!("SKIPPED: {path} is not here");
        return;
    }
    let compared = of(&format!("{path} --outage cheap:20m-25m")).await;
    let premium = one(&compared, Policy::PremiumOnly);
    let ours = one(&compared, Policy::Outlay);
    assert_eq!((premium.misses, premium.valid), (0, 19_366), "{premium:?}");
    assert!(ours.misses <= 19, "at most one in a thousand: {ours:?}");
    assert!(ours.cost_nano_usd as f64 <= 0.4 * premium.cost_nano_usd as f64, "{ours:?}");
    let to_optimum = ours.cost_nano_usd as f64 / compared.optimum_nano_usd as f64;
    assert!((1.0..=1.05).contains(&to_optimum), "{to_optimum}");
}
