//! Price tables, planned prices and bills by command, from the file to the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use outlay::policy::price::schedule::MARGIN;
use outlay_loadtest::provider::{Fault, Price};
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};

use crate::support::desk::{Desk, nano, shared_data};

const OLD: &str = r#"{
  "mock/m": {"litellm_provider": "mock", "input_cost_per_token": 1e-06, "output_cost_per_token": 4e-06, "mode": "chat"},
  "mock/noise": {"litellm_provider": "mock", "input_cost_per_token": 1.5e-07},
  "x/gone": {"litellm_provider": "x", "input_cost_per_token": 0, "output_cost_per_token": 2.8e-09},
  "x/same": {"litellm_provider": "x", "input_cost_per_token": 5e-07, "max_tokens": 7}
}"#;

const NEW: &str = r#"{
  "mock/m": {"litellm_provider": "mock", "input_cost_per_token": 1.25e-06, "output_cost_per_token": 3e-06, "mode": "chat"},
  "mock/noise": {"litellm_provider": "mock", "input_cost_per_token": 1.5000000000000002e-07},
  "x/come": {"litellm_provider": "x", "mode": "chat"},
  "x/same": {"litellm_provider": "x", "input_cost_per_token": 0.0000005, "max_tokens": 8}
}"#;

/// What stands in a table of the store, as text.
async fn rows(desk: &Desk, sql: &'static str) -> Vec<Vec<String>> {
    let url = format!("sqlite://{}", desk.path("outlay.db").display());
    let mut store = sqlx::SqliteConnection::connect(&url).await.expect("the store");
    let found = sqlx::query(sql).fetch_all(&mut store).await.expect("rows");
    store.close().await.expect("closed");
    let text = |row: &sqlx::sqlite::SqliteRow, at: usize| {
        row.try_get::<Option<String>, _>(at).ok().flatten().unwrap_or_else(|| "-".to_owned())
    };
    found.iter().map(|row| (0..row.len()).map(|at| text(row, at)).collect()).collect()
}

/// A decimal number with an exponent as whole pico-dollars, by moving the point in its text; the flag says
/// whether something was cut off. Nothing of outlay's reads it.
fn pico_by_hand(text: &str) -> (i128, bool) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let exponent: i64 = exponent.parse().expect("an exponent");
    let mut point = i64::try_from(whole.len()).expect("short") + exponent + 12;
    while point < 0 {
        digits.insert(0, b'0');
        point += 1;
    }
    let point = usize::try_from(point).expect("a place");
    while digits.len() < point {
        digits.push(b'0');
    }
    let (kept, cut) = digits.split_at(point);
    let kept = std::str::from_utf8(kept).expect("digits");
    let pico: i128 = if kept.is_empty() { 0 } else { kept.parse().expect("digits") };
    (pico + i128::from(cut.first().is_some_and(|d| *d >= b'5')), cut.iter().any(|d| *d != b'0'))
}

/// Every number of a table, by model and the path of its field, as the text that it is.
fn numbers(path: &Path) -> BTreeMap<(String, String), String> {
    fn walk(at: String, value: &serde_json::value::RawValue, found: &mut Vec<(String, String)>) {
        if let Ok(inner) =
            serde_json::from_str::<BTreeMap<String, Box<serde_json::value::RawValue>>>(value.get())
        {
            for (name, value) in inner {
                walk(format!("{at}.{name}"), &value, found);
            }
        } else if value.get().starts_with(|c: char| c.is_ascii_digit()) {
            found.push((at, value.get().to_owned()));
        }
    }
    let text = std::fs::read_to_string(path).expect("a table");
    let models: BTreeMap<String, BTreeMap<String, Box<serde_json::value::RawValue>>> =
        serde_json::from_str(&text).expect("a table");
    let mut all = BTreeMap::new();
    for (model, fields) in models {
        for (field, value) in
            fields.iter().filter(|(name, _)| name.contains("cost") || name.contains("pricing"))
        {
            let mut found = Vec::new();
            walk(field.clone(), value, &mut found);
            all.extend(found.into_iter().map(|(path, text)| ((model.clone(), path), text)));
        }
    }
    all
}

/// The two snapshots, price by price, against a reading that shares nothing with ours.
#[tokio::test(flavor = "multi_thread")]
async fn real_tables_are_imported_exactly() {
    let Some(data) = shared_data() else {
        eprintln!("skipped: no shared data here");
        return;
    };
    let desk = Desk::start(|_| {}).await;
    let paths = ["litellm_1.90.0_trimmed.json", "litellm_1.109.1_trimmed.json"]
        .map(|name| data.join("prices").join(name));
    let mut listed = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        let import = desk.run(&["models", "import", &path.display().to_string(), "--json"]).await;
        assert_eq!(import.code(), 0, "{}", import.stderr);
        let import = import.json();
        let numbers = numbers(path);
        let noise = numbers.values().filter(|text| pico_by_hand(text).1).count();
        assert_eq!(import["rounded"].as_array().expect("a list").len(), noise);
        assert_eq!((&import["table"], &import["unreadable"]), (&json!(at + 1), &json!([])));
        let table = desk.run(&["models", "table", &format!("@{}", at + 1), "--json"]).await.json();
        let ours: BTreeMap<(String, String), String> = table
            .as_array()
            .expect("a list")
            .iter()
            .filter(|price| {
                price["per"] == "token" || price["field"].as_str().is_some_and(|f| f.contains("query"))
            })
            .map(|price| {
                let text = |key: &str| price[key].as_str().unwrap_or_default().to_owned();
                ((text("model"), text("field")), text("usd"))
            })
            .collect();
        assert!(ours.len() > 200, "{} prices", ours.len());
        // Every number is there, and there is nothing else.
        assert_eq!(ours.keys().collect::<BTreeSet<_>>(), numbers.keys().collect::<BTreeSet<_>>());
        for (place, text) in &numbers {
            let ours = &ours[place];
            assert!(!ours.contains(['e', 'E']), "{place:?}: {ours}");
            assert_eq!(pico_by_hand(ours), (pico_by_hand(text).0, false), "{place:?}: {text} became {ours}");
        }
        listed.push(numbers);
    }
    // The diff names the models whose numbers differ, and no others.
    let diff = desk.run(&["models", "diff", "@1", "@2", "--json"]).await.json();
    let named: BTreeSet<String> = diff
        .as_array()
        .expect("a list")
        .iter()
        .filter(|moved| moved["field"].as_str().is_none_or(|field| !field.contains("windows")))
        .map(|moved| moved["model"].as_str().expect("a model").to_owned())
        .collect();
    let of = |numbers: &BTreeMap<(String, String), String>, model: &str| -> Vec<(String, i128)> {
        let its = numbers.iter().filter(|((name, _), _)| name == model);
        its.map(|((_, field), text)| (field.clone(), pico_by_hand(text).0)).collect()
    };
    let models: BTreeSet<&String> = listed.iter().flat_map(|n| n.keys().map(|(model, _)| model)).collect();
    let differ: BTreeSet<String> =
        models.into_iter().filter(|m| of(&listed[0], m) != of(&listed[1], m)).cloned().collect();
    assert_eq!(named, differ);
    assert!(differ.len() > 30, "{} models", differ.len());
    let between = desk.run(&["models", "diff", &paths[0].display().to_string(), "@2", "--json"]).await.json();
    assert_eq!(between, diff, "from a file or from the store, a table is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_imported_filtered_kept_and_compared() {
    let desk = Desk::start(|_| {}).await;
    desk.write("old.json", OLD);
    desk.write("new.json", NEW);
    let dry = desk.run(&["models", "import", "old.json", "--dry-run", "--json"]).await.json();
    assert_eq!((&dry["table"], &dry["models"], &dry["token_prices"]), (&Value::Null, &json!(4), &json!(6)));
    assert!(!desk.path("outlay.db").exists(), "a look makes no store");
    assert_eq!(desk.run(&["models", "import", "old.json"]).await.code(), 0);
    let noisy = desk.run(&["models", "import", "new.json", "--json"]).await.json();
    let rounded = json!([{"model": "mock/noise", "field": "input_cost_per_token",
                          "listed": "1.5000000000000002e-07", "usd_per_token": "0.00000015"}]);
    assert_eq!((&noisy["rounded"], &noisy["unpriced"]), (&rounded, &json!(["x/come"])));
    assert_eq!(
        noisy["changes"],
        json!({"before": 1, "moved": ["mock/m"], "appeared": ["x/come"], "vanished": ["x/gone"]})
    );
    let said = desk.run(&["models", "import", "new.json", "--dry-run"]).await.stderr;
    assert!(
        said.contains("mock/noise: input_cost_per_token 1.5000000000000002e-07 is kept as 0.00000015"),
        "{said}"
    );
    assert!(said.contains("x/come: no price of a token is listed; that is not a price of 0"), "{said}");

    // A price of 0 is one, and what is not listed is none.
    let kept = rows(&desk, "SELECT model, CAST(input AS TEXT), CAST(output AS TEXT) FROM price_table_model WHERE table_id = 1 ORDER BY model").await;
    assert_eq!(kept[2], ["x/gone", "0", "2800"]);
    assert_eq!(kept[3], ["x/same", "500000", "-"]);

    // Before any call: nothing is spent, so nothing changes.
    let diff = |arguments: &'static [&'static str]| {
        let desk = &desk;
        async move { desk.run(&[&["models", "diff", "--json"], arguments].concat()).await }
    };
    let two = diff(&["old.json", "new.json"]).await;
    let told = |diff: &Value| -> Vec<String> {
        let line = |m: &Value| {
            ["model", "kind", "field", "old", "new", "change_percent", "monthly_effect_usd"]
                .map(|key| m[key].as_str().unwrap_or("-").to_owned())
                .join(" ")
        };
        diff.as_array().expect("a list").iter().map(line).collect()
    };
    let lines = [
        "mock/m moved input_cost_per_token 1 1.25 +25 0",
        "mock/m moved output_cost_per_token 4 3 -25 0",
        "x/come appeared - - listed - -",
        "x/gone vanished - listed - - -",
    ];
    assert_eq!((two.code(), told(&two.json())), (0, lines.map(str::to_owned).to_vec()));
    for same in [&["@1", "new.json"][..], &["old.json", "@newest"], &["@1", "@2"]] {
        let same = desk.run(&[&["models", "diff", "--json"], same].concat()).await;
        assert_eq!(told(&same.json()), lines);
    }
    assert_eq!(diff(&["@1", "@2", "--fail-on-change"]).await.code(), 1);
    assert_eq!(diff(&["@2", "new.json", "--fail-on-change"]).await.code(), 0);
    // Without names the catalogue stands beside the newest import: $1 and $4 are configured.
    let catalogue = diff(&[]).await.json();
    assert_eq!(told(&catalogue), lines[..2]);
    assert_eq!(catalogue[0]["offers"], json!(["m"]));
    let check = desk.run(&["models", "check", "--json"]).await;
    assert_eq!((check.code(), check.json().as_array().map(Vec::len)), (1, Some(2)), "{}", check.stdout);
    assert_eq!(desk.run(&["models", "check", "--prices", "@1"]).await.code(), 0);

    // Twenty calls later the move has a price: tokens times the difference, to the last digit.
    desk.jobs("jobs.jsonl", 20);
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 0);
    let spend = desk.run(&["spend", "--by", "model", "--json"]).await.json();
    let tokens = |kind: &str| spend["rows"][0]["usage"][kind].as_i64().expect("tokens");
    let (input, output) = (tokens("input_tokens"), tokens("output_tokens"));
    assert!(input > 0 && output > 0);
    let priced = diff(&["@1", "@2"]).await.json();
    let effect = |at: usize| {
        pico_by_hand(priced[at]["monthly_effect_usd"].as_str().expect("dollars").trim_start_matches('-')).0
    };
    assert_eq!((effect(0), effect(1)), (i128::from(input) * 250_000, i128::from(output) * 1_000_000));
    assert!(priced[1]["monthly_effect_usd"].as_str().expect("dollars").starts_with('-'));
    let text = desk.run(&["models", "diff", "@1", "@2"]).await;
    assert!(
        text.stderr.contains("1 models moved (1 of them per token), 1 models appeared, 1 vanished"),
        "{}",
        text.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_take_only_what_was_asked_for_and_name_what_is_wrong() {
    let desk = Desk::start(|_| {}).await;
    desk.write("old.json", OLD);
    let models = |ended: crate::support::desk::Ended| ended.json()["models"].clone();
    for (arguments, count) in [
        (vec!["--provider", "mock"], 2),
        (vec!["--provider", "x"], 2),
        (vec!["--only", "x/*"], 2),
        (vec!["--only", "*/same"], 1),
        (vec!["--provider", "x", "--only", "*?one"], 1),
    ] {
        let all = [vec!["models", "import", "old.json", "--json"], arguments.clone()].concat();
        assert_eq!(models(desk.run(&all).await), json!(count), "{arguments:?}");
    }
    let tables = desk.run(&["models", "tables", "--json"]).await.json();
    assert_eq!(tables[0]["source"], "old.json, provider x, only *?one");
    assert_eq!((&tables[4]["table"], &tables[4]["who"]), (&json!(1), &json!("tester")));

    desk.write("bad.json", r#"{"m":{"input_cost_per_token":"free","output_cost_per_token":-1e-06}, "n":{"input_cost_per_token":1e30}}"#);
    let bad = desk.run(&["models", "import", "bad.json", "--json"]).await;
    assert_eq!(bad.code(), 1, "{}", bad.stderr);
    let unreadable = json!([
        {"model": "m", "field": "input_cost_per_token", "says": "free"},
        {"model": "m", "field": "output_cost_per_token", "says": "-1e-06"},
        {"model": "n", "field": "input_cost_per_token", "says": "1e30"},
    ]);
    assert_eq!((&bad.json()["unreadable"], &bad.json()["token_prices"]), (&unreadable, &json!(0)));
    for (arguments, code, says) in [
        (vec!["import", "none.json"], 2, "cannot read"),
        (vec!["import", "outlay.toml"], 2, "is no price table"),
        (vec!["import", "old.json", "--provider", "nobody"], 2, "known: mock, x"),
        (vec!["import", "old.json", "--only", "zzz"], 2, "lists no model of such a name"),
        (vec!["import", "http://127.0.0.1:9/p.json"], 4, "no connection to 127.0.0.1"),
        (vec!["table", "@99"], 2, "there is no import @99"),
        (
            vec!["price", "set", "nobody", "--input", "1", "--output", "1", "--from", "24h", "--why", "x"],
            2,
            "known: m",
        ),
        (
            vec!["price", "set", "m", "--input", "1e3", "--output", "1", "--from", "24h", "--why", "x"],
            2,
            "--input: ",
        ),
        (
            vec!["price", "set", "m", "--input", "1", "--output", "1", "--from", "2020-01-01", "--why", "x"],
            2,
            "has passed",
        ),
        (
            vec!["price", "set", "m", "--input", "1", "--output", "1", "--from", "soon", "--why", "x"],
            2,
            "--from: `soon`",
        ),
        (vec!["price", "revoke", "m", "7", "--why", "x"], 2, "version 7 of m is not there"),
    ] {
        let ended = desk.run(&[vec!["models"], arguments.clone()].concat()).await;
        assert_eq!(ended.code(), code, "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{arguments:?}: {}", ended.stderr);
    }
}

/// A run under way takes a planned price up without a restart; the provider bills the new price from that
/// instant on, and no bill is above what the ledger counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_price_takes_effect_under_a_run() {
    let desk = Desk::start(|config| config.latency.base_ms = 400.0).await;
    desk.jobs("first.jsonl", 4);
    assert_eq!(desk.run(&["run", "first.jsonl", "-o", "first-out.jsonl"]).await.code(), 0);
    let set = async |from: &str| {
        let price =
            ["models", "price", "set", "m", "--input", "5", "--output", "20", "--why", "mail", "--json"];
        desk.run(&[&price[..], &["--from", from]].concat()).await.json()
    };
    assert_eq!(set("240h").await["version"], 2);
    assert_eq!(desk.run(&["models", "price", "revoke", "m", "2", "--why", "not so"]).await.code(), 0);
    let job = |n: usize| {
        format!(
            "{{\"id\":\"k-{n:05}\",\"project\":\"p\",\"task\":\"t\",\"messages\":[{{\"role\":\"user\",\"content\":\"{n}\"}}]}}\n"
        )
    };
    desk.write("jobs.jsonl", (0..3000).map(job).collect::<String>());
    let mut run = desk.spawn(&["run", "jobs.jsonl", "-o", "out.jsonl"]);
    while desk.provider.stats().calls < 100 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let planned = set("6s").await;
    assert_eq!(planned["version"], 3);
    let from: jiff::Timestamp =
        planned["effective_at"].as_str().expect("a time").parse().expect("a timestamp");
    let left = from.duration_since(jiff::Timestamp::now());
    tokio::time::sleep(std::time::Duration::try_from(left).unwrap_or_default()).await;
    let dear = Price { input: 5_000_000, cached_input: 5_000_000, output: 20_000_000 };
    desk.provider
        .update(|config| {
            config.prices.insert("m".into(), dear);
        })
        .expect("an update");
    let status = loop {
        if let Some(status) = run.try_wait().expect("the run is there") {
            break status;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(status.code(), Some(0));
    let late = desk.run(&["models", "price", "revoke", "m", "3", "--why", "late"]).await;
    assert!(late.code() == 2 && late.stderr.contains("has been in effect since"), "{}", late.stderr);
    let listed = desk.run(&["models", "price", "list", "m", "--json"]).await.json();
    let states: Vec<_> =
        (0..3).map(|at| listed[at]["state"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(states, ["in_force", "revoked", "past"]);
    // Each attempt pins the version that held when its permission was asked for, and begins soon after.
    let versions = rows(
        &desk,
        "SELECT CAST(price_version AS TEXT), CAST(min(begun_at) AS TEXT), CAST(max(begun_at) AS TEXT), \
           CAST(sum(counted > hold) AS TEXT) FROM attempt GROUP BY price_version ORDER BY price_version",
    )
    .await;
    let [first, second] = &versions[..] else { panic!("{versions:?}") };
    let at = |text: &String| text.parse::<i64>().expect("a time");
    assert_eq!((&*first[0], &*second[0]), ("1", "3"));
    let soon = i64::try_from(MARGIN.as_micros()).expect("seconds");
    assert!(at(&first[2]) <= from.as_microsecond() + soon, "{versions:?} around {from}");
    assert!(at(&second[1]) >= from.as_microsecond(), "{versions:?} around {from}");
    assert_eq!((&*first[3], &*second[3]), ("0", "0"), "a bill was above its hold");
    let (spent, presumed) = desk.spent_and_presumed().await;
    let billed = desk.provider.stats().billed_nano_usd;
    eprintln!("{billed} billed, {spent} counted (nano-dollars)");
    assert!(billed <= spent && presumed == 0, "{billed} billed, {spent} counted, {presumed} presumed");
    desk.assert_books_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bill_is_laid_beside_the_ledger_and_settles_what_it_names() {
    let desk = Desk::start(|config| {
        // Every call ends without anybody knowing what it cost.
        config.faults.rates.insert(Fault::NoUsage, 1.0);
    })
    .await;
    desk.jobs("jobs.jsonl", 3);
    desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    let presumed = desk.run(&["ledger", "presumed", "list", "--json"]).await.json();
    let presumed = presumed.as_array().expect("a list");
    assert!(presumed.len() >= 3, "{presumed:?}");
    let attempt = |at: usize| presumed[at]["attempt"].as_str().expect("an id").to_owned();
    let day = presumed[0]["begun_at"].as_str().expect("a time")[..10].to_owned();
    let hold = nano(presumed[0]["hold_usd"].as_str().expect("money"));

    // The day's sum says that presumed money would explain it, and changes nothing.
    desk.write(
        "days.csv",
        format!("date,provider,model,usd\n{day},mock,m,0.0000123\n{day},mock,elsewhere,1\n"),
    );
    let days = desk.run(&["reconcile", "days.csv", "--apply", "--json"]).await;
    assert_eq!(days.code(), 0, "{}", days.stderr);
    let days = days.json();
    let verdicts: Vec<_> =
        days["days"].as_array().expect("days").iter().map(|day| day["verdict"].clone()).collect();
    assert_eq!(verdicts, [json!("not_in_catalogue"), json!("explained_by_presumed")]);
    assert_eq!(days["days"][1]["billed_usd"], "0.0000123");
    assert_eq!(
        desk.run(&["ledger", "presumed", "list", "--json"]).await.json().as_array().map(Vec::len),
        Some(presumed.len())
    );
    desk.write("above.csv", format!("date,model,usd\n{day},m,900\n"));
    let above = desk.run(&["reconcile", "above.csv", "--provider", "mock"]).await;
    assert_eq!(above.code(), 1, "{}", above.stdout);
    assert!(above.stdout.contains("beyond all that is counted"), "{}", above.stdout);

    // Calls that are named are settled to the nano-dollar, once, with an event.
    let text = format!("attempt_id,usd\n{},0.0000000015\n{},1.5e-06\n", attempt(0), attempt(1));
    desk.write("calls.csv", text);
    let look = desk.run(&["reconcile", "calls.csv"]).await;
    assert!(
        look.stderr.contains("2 presumed calls can be settled by this bill: add --apply"),
        "{}",
        look.stderr
    );
    let done = desk.run(&["reconcile", "calls.csv", "--apply", "--json"]).await.json();
    assert_eq!(
        done["calls"].as_array().expect("calls").iter().filter(|call| call["settled"] == true).count(),
        2
    );
    let (spent, left) = desk.spent_and_presumed().await;
    assert_eq!(spent, 2 + 1500);
    assert!(left < hold * i64::try_from(presumed.len()).expect("few"));
    let again = desk.run(&["reconcile", "calls.csv", "--apply", "--json"]).await;
    assert_eq!(
        (again.code(), &again.json()["calls"][0]["verdict"]),
        (0, &json!("matches")),
        "{}",
        again.stderr
    );
    let events = rows(
        &desk,
        "SELECT who, subject, detail->>'why' FROM event WHERE what = 'presumed_settled' ORDER BY event_id",
    )
    .await;
    assert_eq!(events, [["tester", &attempt(0), "calls.csv:2"], ["tester", &attempt(1), "calls.csv:3"]]);
    desk.assert_books_in_order().await;

    desk.write("wrong.csv", format!("attempt_id,usd\n{},x\nnobody,1\n", attempt(2)));
    let wrong = desk.run(&["reconcile", "wrong.csv"]).await;
    assert_eq!(wrong.code(), 2);
    for says in ["wrong.csv:2: usd: `x` is no amount", "wrong.csv:3: attempt_id: `nobody` is no attempt id"] {
        assert!(wrong.stderr.contains(says), "{}", wrong.stderr);
    }
    desk.write("twice.csv", format!("attempt_id,usd\n{},2\n", attempt(0)));
    let other = desk.run(&["reconcile", "twice.csv", "--apply", "--json"]).await;
    assert_eq!((other.code(), &other.json()["calls"][0]["verdict"]), (1, &json!("differs")));
}
