//! Planned prices, imported price tables, and what is compared with a bill: the same on every store.

use std::time::Duration;

use outlay::policy::price::diff;
use outlay::policy::price::table::{Table, fingerprint};
use outlay::ports::Clock as _;
use outlay::ports::audit::OUTLAY;
use outlay::ports::prices::{AUTOMATIC_KEPT, Changes, Imported, TableImport};
use outlay::types::catalogue::Prices;
use outlay::types::ledger::HoldState;
use outlay::types::price::{Planned, PriceOrigin, PriceVersion, Revoked};
use outlay::types::{AttemptId, Bill, ModelId, NanoUsd, PicoUsdPerToken, Status, Usage, Wall};

use crate::conformance::Bench;
use crate::support::wall;

exercise! {
    a_price_is_planned_taken_back_and_then_holds,
    the_configuration_and_plans_keep_apart,
    an_imported_table_comes_back_as_it_was,
    automatic_imports_are_kept_once_and_not_for_ever,
    what_was_bought_is_summed_by_model,
    the_ledger_is_laid_out_as_a_bill_is,
}

fn prices(input: i64, output: i64) -> Prices {
    let [input, output] = [input, output].map(PicoUsdPerToken);
    Prices { input, cached_input: input, cache_write: input, output }
}

async fn plan(b: &Bench, input: i64, from: Wall) -> Planned {
    b.prices.plan(&"small".into(), prices(input, 9), from, "ann", "their mail").await.expect("an answer")
}

async fn revoke(b: &Bench, version: i64) -> Revoked {
    b.prices.revoke(&"small".into(), version, "bob", "they took it back").await.expect("an answer")
}

async fn sync(b: &Bench, input: i64) -> i64 {
    let price = [(ModelId::from("small"), Some(prices(input, 9)))];
    b.directory.sync_prices(&price).await.expect("versions")[0]
}

async fn a_price_is_planned_taken_back_and_then_holds(b: Bench) {
    let now = b.clock.now().wall;
    assert_eq!(sync(&b, 1).await, 1);
    assert_eq!(b.directory.planned_prices().await.expect("plans"), []);
    let noon = now + Duration::from_secs(3600);
    assert_eq!(plan(&b, 2, noon).await, Planned::Version(2));
    assert_eq!(plan(&b, 3, noon).await, Planned::Version(3));
    assert_eq!(plan(&b, 3, now).await, Planned::TooLate(now));
    assert_eq!(revoke(&b, 1).await, Revoked::NotPlanned);
    assert_eq!(revoke(&b, 9).await, Revoked::Unknown);
    assert_eq!(revoke(&b, 3).await, Revoked::Done);
    assert_eq!(revoke(&b, 3).await, Revoked::Already);
    b.clock.forward(3600);
    assert_eq!(revoke(&b, 2).await, Revoked::InEffect(noon));

    let versions = b.prices.versions(Some(&"small".into())).await.expect("versions");
    let told =
        |v: &PriceVersion| (v.version, v.origin, v.effective_at, v.revoked_at.is_some(), v.who.clone());
    let (ann, outlay) = ("ann".to_owned(), OUTLAY.to_owned());
    let expected = [
        (3, PriceOrigin::Plan, noon, true, ann.clone()),
        (2, PriceOrigin::Plan, noon, false, ann),
        (1, PriceOrigin::Config, now, false, outlay),
    ];
    assert_eq!(versions.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!((versions[1].prices, &*versions[1].why), (Some(prices(2, 9)), "their mail"));
    let mut planned = b.directory.planned_prices().await.expect("plans");
    planned.sort_by_key(|version| -version.version);
    assert_eq!(planned, versions);
    assert_eq!(b.prices.versions(None).await.expect("versions"), versions);
    assert_eq!(b.prices.versions(Some(&"none".into())).await.expect("versions"), []);

    let events = b.directory.events(10).await.expect("events");
    let of_prices: Vec<_> = events.iter().rev().filter(|event| event.what.starts_with("price_")).collect();
    let names: Vec<_> = of_prices
        .iter()
        .map(|e| format!("{} {} {} {}", e.what, e.who, e.subject, e.detail["version"]))
        .collect();
    assert_eq!(
        names,
        ["price_planned ann small 2", "price_planned ann small 3", "price_revoked bob small 3"]
    );
    // In dollars per million tokens, from what holds until then.
    let detail = &of_prices[0].detail;
    assert_eq!((&detail["from"]["input"], &detail["to"]["input"]), (&"0.000001".into(), &"0.000002".into()));
    assert_eq!((&detail["why"], &detail["effective_at"]), (&"their mail".into(), &noon.to_string().into()));
}

async fn the_configuration_and_plans_keep_apart(b: Bench) {
    let later = b.clock.now().wall + Duration::from_secs(60);
    assert_eq!(sync(&b, 1).await, 1);
    assert_eq!(plan(&b, 2, later).await, Planned::Version(2));
    // As it was configured before: no new version, whatever is planned or holds.
    assert_eq!(sync(&b, 1).await, 1);
    b.clock.forward(120);
    assert_eq!(sync(&b, 1).await, 1);
    assert_eq!(sync(&b, 2).await, 3, "the configuration says something else, even if a plan said it first");
    // A model that nobody configured can be planned for.
    let planned =
        b.prices.plan(&"new".into(), prices(5, 5), later + Duration::from_secs(600), "ann", "").await;
    assert_eq!(planned.expect("an answer"), Planned::Version(1));
    let changes = b.event_names().await;
    assert_eq!(changes.iter().filter(|event| event.starts_with("price_changed")).count(), 1);
}

const TABLE: &str = r#"{
  "a": {"litellm_provider": "x", "input_cost_per_token": 1.5000000000000002e-07, "output_cost_per_token": 0,
        "cache_read_input_token_cost": null, "search_context_cost_per_query": {"low": 0.0100},
        "output_cost_per_token_batches": 2.8e-09},
  "odd \u0000 name": {"input_cost_per_token": "dear", "mode": "chat"},
  "free of prices": {"mode": "chat"}
}"#;

async fn import(b: &Bench, text: &str, source: &str, who: &str) -> Imported {
    let (table, sha256) = (Table::parse(text).expect("a table"), fingerprint(text));
    let changes = Changes::since(7, &diff::diff(&Table::default(), &table, &[]));
    let import = TableImport { source, sha256: &sha256, table: &table, who, changes: &changes };
    b.prices.import(&import).await.expect("an answer")
}

async fn an_imported_table_comes_back_as_it_was(b: Bench) {
    assert_eq!(b.prices.table(None).await.expect("an answer"), None);
    let plain = TABLE.replace("\\u0000", "\u{fffd}");
    assert_eq!(import(&b, TABLE, "p.json", "ann").await, Imported::New(1));
    assert_eq!(import(&b, "{}", "p.json", "ann").await, Imported::New(2));
    // What a person imports is kept each time.
    assert_eq!(import(&b, "{}", "p.json", "ann").await, Imported::New(3));
    let (info, table) = b.prices.table(Some(1)).await.expect("an answer").expect("a table");
    let expected = Table::parse(&plain).expect("a table");
    assert_eq!(table.models().collect::<Vec<_>>(), expected.models().collect::<Vec<_>>());
    assert_eq!(
        (&*info.source, &*info.who, info.models, info.sha256),
        ("p.json", "ann", 3, fingerprint(TABLE))
    );
    let entry = table.get("a").expect("a model");
    assert_eq!(entry.per_token("input_cost_per_token"), Some(PicoUsdPerToken(150_000)));
    assert_eq!(entry.per_token("output_cost_per_token"), Some(PicoUsdPerToken(0)));
    assert_eq!(entry.per_token("cache_read_input_token_cost"), None, "not listed is not 0");
    let newest = b.prices.table(None).await.expect("an answer").expect("a table");
    assert_eq!((newest.0.table, newest.1.len()), (3, 0));
    assert_eq!(b.prices.table(Some(9)).await.expect("an answer"), None);
    let tables = b.prices.tables(2).await.expect("tables");
    assert_eq!(tables.iter().map(|info| info.table).collect::<Vec<_>>(), [3, 2]);
    let events = b.directory.events(3).await.expect("events");
    let first = &events[2];
    assert_eq!((&*first.what, &*first.who, &*first.subject), ("prices_imported", "ann", "p.json"));
    assert_eq!((&first.detail["before"], &first.detail["appeared_count"]), (&7.into(), &3.into()));
}

async fn automatic_imports_are_kept_once_and_not_for_ever(b: Bench) {
    assert_eq!(import(&b, "{}", "p.json", "ann").await, Imported::New(1));
    assert_eq!(import(&b, "{}", "p.json", OUTLAY).await, Imported::New(2));
    assert_eq!(import(&b, "{}", "p.json", OUTLAY).await, Imported::Same(2));
    assert_eq!(import(&b, "{}", "q.json", OUTLAY).await, Imported::New(3));
    for n in 0..AUTOMATIC_KEPT {
        let text = format!("{{\"m\":{{\"input_cost_per_token\":{n}}}}}");
        assert!(matches!(import(&b, &text, "p.json", OUTLAY).await, Imported::New(_)));
    }
    let kept = b.prices.tables(1000).await.expect("tables");
    let of = |source: &str, who: &str| kept.iter().filter(|i| i.source == source && i.who == who).count();
    let all = usize::try_from(AUTOMATIC_KEPT).expect("few");
    assert_eq!((of("p.json", OUTLAY), of("p.json", "ann"), of("q.json", OUTLAY)), (all, 1, 1));
    assert_eq!(b.prices.table(Some(2)).await.expect("an answer"), None, "the oldest automatic one");
}

/// Four calls of project `free`: settled, presumed, void, and one that is under way.
async fn four_calls(b: &Bench) -> [AttemptId; 4] {
    let settled = b.go("free", "a", 50).await;
    b.finish("free", "a", settled, 7, Status::Done).await;
    let presumed = b.go("free", "b", 40).await;
    b.settle("free", "b", presumed, Bill::Unknown).await;
    let void = b.go("free", "c", 30).await;
    b.settle("free", "c", void, Bill::Nothing).await;
    [settled, presumed, void, b.go("free", "d", 20).await]
}

async fn what_was_bought_is_summed_by_model(b: Bench) {
    four_calls(&b).await;
    b.clock.forward(86_400);
    let again = b.go("free", "e", 50).await;
    b.finish("free", "e", again, 7, Status::Done).await;
    let bought = b.prices.bought(wall("2026-11-21T00:00:00Z")).await.expect("sums");
    let usage = Usage { input_tokens: 20, output_tokens: 10, ..Usage::default() };
    let [one] = &bought[..] else { panic!("{bought:?}") };
    assert_eq!((one.model.as_str(), one.provider.as_str()), ("small", "house"));
    // The void call was billed nothing, and the one under way is not over.
    assert_eq!((one.usage, one.calls_untold), (usage, 1));
    let bought = b.prices.bought(wall("2026-11-22T00:00:00Z")).await.expect("sums");
    assert_eq!((bought[0].usage.input_tokens, bought[0].calls_untold), (10, 0));
    assert_eq!(b.prices.bought(wall("2026-11-25T00:00:00Z")).await.expect("sums"), []);
}

async fn the_ledger_is_laid_out_as_a_bill_is(b: Bench) {
    let [settled, presumed, void, held] = four_calls(&b).await;
    b.clock.forward(12 * 3600);
    b.go("free", "e", 3).await;
    let days = async |from: &str, until: &str| {
        let days = b.bills.booked_days(wall(from), wall(until)).await.expect("days");
        let told = |d: &outlay::ports::bills::BookedDay| {
            (d.calls, d.settled.0, d.presumed.0, d.presumed_calls, d.held.0, d.model.as_str().to_owned())
        };
        days.iter().map(told).collect::<Vec<_>>()
    };
    let small = || "small".to_owned();
    let first = (3, 7, 40, 1, 20, small());
    // Days are UTC's: the second one begins at midnight.
    let second = (1, 0, 0, 0, 3, small());
    let all = days("2026-11-21T00:00:00Z", "2026-11-23T00:00:00Z").await;
    assert_eq!(all, [first.clone(), second]);
    assert_eq!(days("2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z").await, [first]);

    let unknown = AttemptId(uuid::Uuid::from_u128(u128::MAX));
    let mut calls = b.bills.booked_calls(&[settled, presumed, void, held, unknown]).await.expect("calls");
    calls.sort_by_key(|call| call.attempt);
    let told: Vec<_> = calls.iter().map(|call| (call.state, call.hold, call.counted)).collect();
    let nano = NanoUsd;
    let expected = [
        (HoldState::Settled, nano(50), nano(7)),
        (HoldState::Presumed, nano(40), nano(40)),
        (HoldState::Void, nano(30), nano(0)),
        (HoldState::Held, nano(20), nano(20)),
    ];
    assert_eq!(told, expected);
    assert_eq!(b.bills.booked_calls(&[]).await.expect("calls"), []);
}
