//! What a decision costs: each is made at least once a job, under no lock and without I/O.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use outlay::policy::breaker::Health;
use outlay::policy::budget::{self, Period, Window};
use outlay::policy::price;
use outlay::policy::route::{Ask, OfferView, TaskRules, Wait, choose};
use outlay::types::catalogue::{Offer, Prices, Sale, Tier, Tokenizer};
use outlay::types::evidence::Quality;
use outlay::types::job::{Content, Message, Request, Role, Terms};
use outlay::types::ledger::WindowKind;
use outlay::types::{Job, JobKey, Mono, NanoUsd, Now, PicoUsdPerToken, Wall, WindowId};

/// Prices and speeds run against each other, so that neither order is the order of the catalogue.
fn view(n: u32) -> OfferView {
    let price = PicoUsdPerToken(i64::from(n * 7 % 30 + 1) * 100_000);
    let offer = Offer {
        id: format!("model-number-{n:02}").into(),
        provider: format!("provider-{}", n % 4).into(),
        name: "model".into(),
        tier: Tier::Medium,
        context_tokens: 128_000,
        max_output_tokens: 8_000,
        prices: Some(Prices {
            input: price,
            cached_input: price,
            cache_write: price,
            output: PicoUsdPerToken(price.0 * 4),
        }),
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout: Duration::from_secs(60),
        simulated: false,
        sale: Sale::default(),
    };
    OfferView {
        offer: Arc::new(offer),
        health: Health::Closed,
        quarantined: false,
        wait: Wait::For(Duration::from_millis(u64::from(n * 11 % 30) * 100)),
        latency: Duration::from_millis(u64::from(n * 13 % 30) * 200),
        expected_output_tokens: 256,
        quality: Quality { calls: n % 90, ..Quality::UNKNOWN },
    }
}

fn job() -> Job {
    let message = Message {
        role: Role::User,
        content: Content::Text("x".repeat(4000)),
        name: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
    };
    Job {
        key: JobKey { project: "bench".into(), id: "job".into() },
        task: "email.parse".into(),
        request: Request { messages: vec![message; 2], max_output_tokens: Some(1000), ..Request::default() },
        request_bytes: 8100,
        body_hash: [0; 32],
        terms: Terms::default(),
        metadata: None,
        source: None,
    }
}

fn route(c: &mut Criterion) {
    let (job, task) = (job(), TaskRules::default());
    let now = Now { mono: Mono(1_000_000_000_000), wall: Wall(1_700_000_000_000_000) };
    let ask = Ask {
        job: &job,
        task: &task,
        deadline: Some(now.wall + Duration::from_secs(5)),
        capped: true,
        committed: NanoUsd::ZERO,
        failed_on: &[],
        invalid: &[],
        pinned: None,
        now,
    };
    let healthy: Vec<_> = (0..30).map(view).collect();
    let (until, since) = (now.mono + Duration::from_secs(10), now.mono);
    let open = Health::Open { until, since, hard: false };
    let outage: Vec<_> = healthy.iter().cloned().map(|view| OfferView { health: open, ..view }).collect();
    let task_of_one = TaskRules { models: vec!["model-number-17".into()], ..TaskRules::default() };
    let pinned = Ask { task: &task_of_one, ..ask };
    c.bench_function("route/choose/30", |b| b.iter(|| choose(black_box(&ask), black_box(&healthy))));
    c.bench_function("route/choose/30_all_open", |b| b.iter(|| choose(black_box(&ask), black_box(&outage))));
    c.bench_function("route/choose/30_one_allowed", |b| {
        b.iter(|| choose(black_box(&pinned), black_box(&healthy)));
    });
}

fn worst_case(c: &mut Criterion) {
    let (job, view) = (job(), view(3));
    let prices = view.offer.prices.expect("the view has prices");
    c.bench_function("price/worst_case", |b| {
        b.iter(|| {
            let input = price::input_tokens_at_most(&view.offer, black_box(&job.request), job.request_bytes);
            price::worst_case_rounded_up(black_box(&prices), input, 1000)
        });
    });
}

/// A job's usual set: day and month of its project, day and month of the account.
fn fit(c: &mut Criterion) {
    let window = |id: i64, project: &str, kind: WindowKind, cap: i64| {
        let period = Period { starts_at: Wall(0), ends_at: Some(Wall(id)) };
        let mut window = Window::empty(WindowId(id), project.into(), kind, period, Some(NanoUsd(cap)));
        window.hold(NanoUsd(cap / 2));
        window
    };
    let windows = [
        window(1, "bench", WindowKind::Day, 10_000_000_000),
        window(2, "bench", WindowKind::Month, 100_000_000_000),
        window(3, "*", WindowKind::Day, 50_000_000_000),
        window(4, "*", WindowKind::Month, 500_000_000_000),
    ];
    c.bench_function("budget/fit/4", |b| {
        b.iter(|| budget::fit(black_box(&windows), black_box(NanoUsd(5_528_000))));
    });
    c.bench_function("budget/fit/4_spent", |b| {
        b.iter(|| budget::fit(black_box(&windows), black_box(NanoUsd(9_000_000_000))));
    });
}

criterion_group!(benches, route, worst_case, fit);
criterion_main!(benches);
