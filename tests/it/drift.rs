//! Models that change behind a run's back: another one answers, the price moves, a table says so.

use outlay_loadtest::provider::{Fault, Price, ProviderConfig, Running, Server};
use serde_json::json;
use sqlx::{Connection as _, Row as _};

use crate::support::desk::{Desk, nano, same_answer, shared_data, sorted_ids};

/// Calls at once, by the desk's configuration.
const SLOTS: usize = 64;

/// Another provider with the model `n` at twice the price of `m`, and its tables of configuration.
async fn another() -> (Running, String) {
    let mut config = ProviderConfig::default();
    config.prices.insert("n".into(), twice());
    let provider = Server::start(config, ([127, 0, 0, 1], 0).into()).await.expect("a provider");
    let tables = format!(
        "[[provider]]\nid = \"other\"\nkind = \"openai\"\nbase_url = \"{}/v1\"\n\
         [[model]]\nid = \"n\"\nprovider = \"other\"\ntier = \"small\"\ncontext_tokens = 128000\n\
         max_output_tokens = 16000\ntokenizer = \"bytes\"\ninput_usd_per_mtok = \"2\"\noutput_usd_per_mtok = \"8\"\n",
        provider.base_url()
    );
    (provider, tables)
}

/// Twice the price of `m`.
fn twice() -> Price {
    Price { input: 2_000_000, cached_input: 2_000_000, output: 8_000_000 }
}

/// Five times the price of `m`.
fn dear() -> Price {
    Price { input: 5_000_000, cached_input: 5_000_000, output: 20_000_000 }
}

/// The details of the audit log's lines of this name, the oldest first.
async fn events(desk: &Desk, what: &str) -> Vec<serde_json::Value> {
    let url = format!("sqlite://{}", desk.path("outlay.db").display());
    let mut store = sqlx::SqliteConnection::connect(&url).await.expect("the store");
    let rows = sqlx::query("SELECT detail FROM event WHERE what = ?1 ORDER BY event_id")
        .bind(what)
        .fetch_all(&mut store)
        .await
        .expect("events");
    store.close().await.expect("closed");
    rows.iter().map(|row| serde_json::from_str(row.get(0)).expect("JSON")).collect()
}

async fn reason_of_stop(desk: &Desk) -> String {
    let models = desk.run(&["models", "list", "--json"]).await.json();
    models[0]["quarantined"].as_str().unwrap_or_default().to_owned()
}

/// Another model answers in the middle of a run: the first such answer stops the one that was asked, what
/// was in flight counts with its whole hold, and the other jobs go to another model.
#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_model_is_stopped_on_its_first_answer() {
    let desk = Desk::start(|config| {
        config.latency.base_ms = 60.0;
        config.faults.wrong_model = "substitute".into();
        // Dearer, and still within what is held: its price is nobody's to know.
        config.prices.insert("substitute".into(), twice());
    })
    .await;
    let (other, tables) = another().await;
    desk.configure("budget = { total = \"1000\" }", &tables);
    desk.jobs("jobs.jsonl", 600);
    let mut run = desk.spawn(&["run", "jobs.jsonl", "-o", "out.jsonl"]);
    while desk.provider.stats().calls < 150 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    desk.provider
        .update(|config| {
            config.faults.rates.insert(Fault::WrongModel, 1.0);
        })
        .expect("an update");
    let status = loop {
        if let Some(status) = run.try_wait().expect("the run is there") {
            break status;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(status.code(), Some(0));
    let results = desk.results("out.jsonl");
    assert_eq!(sorted_ids(&results).len(), 600);
    assert!(results.iter().all(|result| result["status"] == "done"));

    let swapped: Vec<_> =
        desk.provider.bills().into_iter().filter(|bill| &*bill.model == "substitute").collect();
    assert!((1..=SLOTS).contains(&swapped.len()), "{} calls to a model that was swapped", swapped.len());
    assert!(other.stats().calls > 100, "{} calls went to the other model", other.stats().calls);
    let told = events(&desk, "model_drift").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["kind"], &told[0]["value"]), (&json!("served_model"), &json!("substitute")));
    assert_eq!(events(&desk, "model_quarantined").await.len(), 1);
    assert!(reason_of_stop(&desk).await.contains("answered as \"substitute\""));
    // Nobody knows its price: each such call counts with its whole hold.
    let (spent, presumed) = desk.spent_and_presumed().await;
    let billed: i64 = swapped.iter().map(|bill| bill.billed_nano_usd).sum();
    assert!(presumed > 0 && billed <= presumed, "{billed} billed, {presumed} presumed");
    let known = desk.provider.stats().billed_nano_usd - billed + other.stats().billed_nano_usd;
    assert_eq!(spent, known);
    eprintln!(
        "{} calls were swapped, ${} presumed for ${} billed, in nano-dollars",
        swapped.len(),
        presumed,
        billed
    );
    desk.assert_books_in_order().await;

    // Released as it is, it trips again at once; with the name among `serves` it is as good as its own.
    assert_eq!(desk.run(&["models", "release", "m"]).await.code(), 0);
    desk.write(
        "one.jsonl",
        r#"{"id":"again","project":"p","task":"t","messages":[{"role":"user","content":"Once more"}]}"#,
    );
    let again = desk.run(&["run", "one.jsonl", "--max-cost", "1"]).await;
    assert!(again.stderr.contains("m has drifted: answered as \"substitute\""), "{}", again.stderr);
    assert_eq!((events(&desk, "model_drift").await.len(), again.code()), (2, 0));
    assert_eq!(desk.run(&["models", "release", "m"]).await.code(), 0);
    let text = desk.read("outlay.toml").replacen(
        "tokenizer = \"bytes\"",
        "serves = [\"substitute\"]\ntokenizer = \"bytes\"",
        1,
    );
    desk.write("outlay.toml", text);
    desk.write(
        "two.jsonl",
        r#"{"id":"at last","project":"p","task":"t","messages":[{"role":"user","content":"And again"}]}"#,
    );
    let fine = desk.run(&["run", "two.jsonl"]).await;
    assert!(!fine.stderr.contains("drifted"), "{}", fine.stderr);
    assert_eq!(reason_of_stop(&desk).await, "");
}

/// A price five times as high, reported with each answer: the first answer stops the model, and the cap is
/// exceeded by no more than the counted overshoot of what was in flight.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_change_that_is_reported_costs_at_most_what_was_in_flight() {
    let desk = Desk::start(|config| {
        config.reports_cost = true;
        config.latency.base_ms = 300.0;
        // As long as it may be, so that the new price breaks every hold.
        config.output.median_tokens = 5000.0;
        config.prices.insert("m".into(), dear());
    })
    .await;
    desk.jobs("jobs.jsonl", 300);
    let forecast = desk.run(&["run", "jobs.jsonl", "--dry-run", "--json"]).await.json();
    let hold = nano(forecast["worst_usd"].as_str().expect("money")) / 300;
    let cap = hold * 40;
    desk.configure(&format!("budget = {{ total = \"{}\" }}", outlay::types::NanoUsd(cap)), "");
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("m has drifted").count(), 1, "{}", ended.stderr);
    assert!(reason_of_stop(&desk).await.contains("the provider reports a cost of $"));

    let bills = desk.provider.bills();
    assert!((1..=40).contains(&bills.len()), "{} calls at a price that nobody expected", bills.len());
    let billed: i64 = bills.iter().map(|bill| bill.billed_nano_usd).sum();
    assert_eq!(desk.spent_and_presumed().await, (billed, 0), "the books have what the provider says");
    let budget = desk.run(&["budget", "show", "p", "--json"]).await.json();
    let windows = budget["windows"].as_array().expect("windows");
    let total = windows.iter().find(|window| window["kind"] == "total").expect("the total");
    let overshoot = nano(total["overshoot_usd"].as_str().expect("money"));
    assert!(overshoot > 0 && billed > cap, "the test shows nothing: {billed} of {cap}");
    assert!(billed - cap <= overshoot, "{billed} of {cap}, and {overshoot} shown");
    eprintln!(
        "{} calls, {billed} billed under a cap of {cap}, overshoot {overshoot} (nano-dollars)",
        bills.len()
    );
    assert_eq!(events(&desk, "model_drift").await.len(), 1);
    desk.assert_books_in_order().await;

    // Nobody is lost: the rest waits, and goes on at the price that is true.
    let results = desk.results("out.jsonl");
    assert!(results.iter().all(|result| result["status"] == "done"));
    assert_eq!(results.len(), bills.len());
    desk.configure("budget = { total = \"1000\" }", "");
    let priced = desk
        .read("outlay.toml")
        .replace("_mtok = \"1\"", "_mtok = \"5\"")
        .replace("_mtok = \"4\"", "_mtok = \"20\"");
    desk.write("outlay.toml", priced);
    assert_eq!(desk.run(&["budget", "set", "p", "--total", "1000"]).await.code(), 0);
    assert_eq!(desk.run(&["models", "release", "m"]).await.code(), 0);
    let rest = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(rest.code(), 0, "{}", rest.stderr);
    assert_eq!(sorted_ids(&desk.results("out.jsonl")).len(), 300);
    assert_eq!(desk.provider.stats().calls, 300, "a job was called twice");
    desk.assert_books_in_order().await;
}

/// A tier that nobody asked for and nobody has a price for.
#[tokio::test(flavor = "multi_thread")]
async fn another_service_tier_is_noticed() {
    let desk = Desk::start(|config| config.service_tier = "priority".into()).await;
    desk.jobs("jobs.jsonl", 1);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert!(ended.stderr.contains("served at the tier \"priority\""), "{}", ended.stderr);
    let (spent, presumed) = desk.spent_and_presumed().await;
    assert!(spent == 0 && presumed > 0, "{spent} {presumed}");
    let explained = desk.run(&["explain", "j-00000"]).await;
    assert!(explained.stdout.contains("served at the tier"), "{}", explained.stdout);
}

/// Nothing in the answers shows that the price has moved; the table does, and is heard once.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_moved_silently_is_found_by_the_price_check() {
    let desk = Desk::start(|config| {
        config.prices.insert("m".into(), dear());
    })
    .await;
    desk.jobs("jobs.jsonl", 5);
    let table = |input: &str| {
        json!({"mock/m": {"input_cost_per_token": input.parse::<serde_json::Number>().expect("a number"),
                          "output_cost_per_token": 0.000_004}})
        .to_string()
    };
    desk.write("prices.json", table("1e-06"));
    desk.configure("budget = { total = \"1000\" }", "[prices]\ntable = \"prices.json\"\n");
    let silent = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(silent.code(), 0, "{}", silent.stderr);
    assert!(!silent.stderr.contains("drifted"), "{}", silent.stderr);
    let (spent, billed) = (desk.spent_and_presumed().await.0, desk.provider.stats().billed_nano_usd);
    assert!(
        spent * 4 < billed,
        "the provider billed {billed}, and the books have {spent}: nothing told them"
    );

    desk.write("prices.json", table("5e-06"));
    let says = "m has drifted: ";
    let told = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert!(told.stderr.contains("lists mock/m as input $1 -> $5"), "{}", told.stderr);
    let again = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert!(!again.stderr.contains(says), "told twice: {}", again.stderr);
    desk.write("prices.json", table("6e-06"));
    let moved = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert!(moved.stderr.contains(says), "another change was not told: {}", moved.stderr);
    let kinds: Vec<_> =
        events(&desk, "model_drift").await.into_iter().map(|event| event["value"].clone()).collect();
    assert_eq!(kinds, [json!("input $1 -> $5"), json!("input $1 -> $6")]);
    assert_eq!(reason_of_stop(&desk).await, "", "a table stops nothing");
    // Each table is kept once, with what moved since the one before.
    let imported = events(&desk, "prices_imported").await;
    let moved: Vec<_> = imported.iter().map(|event| event["moved"].clone()).collect();
    assert_eq!(moved, [json!([]), json!(["mock/m"]), json!(["mock/m"])]);
    assert_eq!((&imported[0]["before"], &imported[2]["before"]), (&json!(null), &json!(2)));

    desk.write("prices.json", "{");
    let broken = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(broken.code(), 0, "{}", broken.stderr);
}

/// The commands around price tables: `check --prices`, `diff` and `import`, from files and an address.
#[tokio::test(flavor = "multi_thread")]
async fn price_tables_are_compared_by_command() {
    let desk = Desk::start(|_| {}).await;
    let body = r#"{"mock/m": {"input_cost_per_token": 1e-06, "output_cost_per_token": 4.5e-06}}"#;
    let url = same_answer("200 OK", body).await;
    let check = desk.run(&["models", "check", "--prices", &url, "--json"]).await;
    assert_eq!(check.code(), 1, "{}", check.stderr);
    assert_eq!(check.json()[0]["message"], "output $4 -> $4.5 (listed as mock/m)");
    desk.write("same.json", body.replace("4.5e-06", "0.000004"));
    let same = desk.run(&["models", "check", "--prices", "same.json"]).await;
    assert_eq!(same.code(), 0, "{}{}", same.stdout, same.stderr);
    let diff = desk.run(&["models", "diff", "same.json", &url, "--json"]).await;
    let diff_code = diff.code();
    let diff = diff.json();
    let told =
        ["model", "field", "old", "new", "change_percent"].map(|key| diff[0][key].as_str().unwrap_or("-"));
    assert_eq!(told, ["mock/m", "output_cost_per_token", "4", "4.5", "+12.5"]);
    assert_eq!((diff_code, diff.as_array().map(Vec::len)), (0, Some(1)));
    // One table is compared with the newest import; nothing was imported yet.
    assert_eq!(desk.run(&["models", "diff", "same.json"]).await.code(), 2);
    let import = desk.run(&["models", "import", "same.json"]).await;
    assert!(import.stdout.contains("output_usd_per_mtok = \"4\""), "{}", import.stdout);
    for (arguments, code) in [
        (vec!["models", "diff", "none.json", "same.json"], 2),
        (vec!["models", "diff", "same.json"], 0),
        (vec!["models", "diff", "@9", "same.json"], 2),
        (vec!["models", "diff", "@x", "same.json"], 2),
        (vec!["models", "diff", "same.json", "http://127.0.0.1:9/prices.json"], 4),
    ] {
        assert_eq!(desk.run(&arguments).await.code(), code, "{arguments:?}");
    }
    let gone = same_answer("404 Not Found", "no").await;
    assert_eq!(desk.run(&["models", "check", "--prices", &gone]).await.code(), 4);
}

/// Two real tables, months apart, with moves that people were surprised by.
#[tokio::test(flavor = "multi_thread")]
async fn real_tables_show_what_moved() {
    let Some(data) = shared_data() else {
        eprintln!("skipped: no shared data here");
        return;
    };
    let desk = Desk::start(|_| {}).await;
    let [old, new] = ["litellm_1.90.0_trimmed.json", "litellm_1.109.1_trimmed.json"]
        .map(|name| data.join("prices").join(name).display().to_string());
    let diff = desk.run(&["models", "diff", &old, &new, "--json"]).await;
    assert_eq!(diff.code(), 0, "{}", diff.stderr);
    let diff = diff.json();
    let moved = |model: &str, field: &str| {
        let found =
            diff.as_array().expect("a list").iter().find(|m| m["model"] == model && m["field"] == field);
        found.map(|m| format!("{} -> {}", m["old"], m["new"]))
    };
    let medium = |field| moved("mistral/mistral-medium-latest", field);
    assert_eq!(medium("input_cost_per_token").as_deref(), Some("\"0.4\" -> \"1.5\""));
    assert_eq!(medium("output_cost_per_token").as_deref(), Some("\"2\" -> \"7.5\""));
    let grok = moved("xai/grok-code-fast-1", "input_cost_per_token");
    assert_eq!(grok.as_deref(), Some("\"0.2\" -> \"1\""));
    assert_eq!(desk.run(&["models", "diff", &old, &old, "--json"]).await.json(), json!([]));
}
