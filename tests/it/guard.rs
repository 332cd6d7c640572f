//! The loop guard of an embedded run as a user meets it: the binary, a provider with its own bill book.

use std::fmt::Write as _;

use crate::support::desk::Desk;

fn line(text: &mut String, id: &str, body: &str, more: &str) {
    writeln!(
        text,
        r#"{{"id":"{id}","project":"p","task":"t","messages":[{{"role":"user","content":"{body}"}}]{more}}}"#
    )
    .expect("text");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_prompts_again_and_again_are_parked_and_a_label_lets_them_go() {
    let desk = Desk::start(|_| {}).await;
    desk.configure(
        "budget = { total = \"1000\" }",
        "[defaults]\ncache_ttl = \"none\"\n[guard]\ncontent_jobs = 30\ncontent_alert = 10\n",
    );
    let mut text = String::new();
    for n in 0..1_000 {
        line(&mut text, &format!("j-{n:04}"), &format!("prompt {}", n % 5), "");
    }
    desk.write("jobs.jsonl", &text);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--json"]).await;
    assert_eq!(ended.code(), 3, "parked jobs are exit code 3: {}", ended.stderr);
    // A job that was let through may meet the trip of a later one right before its call.
    let calls = desk.provider.stats().calls;
    assert!((100..=150).contains(&calls), "{calls}");
    let (summary, parked) = (ended.json(), 1_000 - calls);
    assert_eq!((&summary["done"], &summary["parked"]), (&calls.into(), &parked.into()), "{summary}");
    let why = summary["parked_for"][0]["reason"].as_str().expect("a reason");
    assert!(why.contains("same content more than 30 times within 10m"), "{why}");
    desk.assert_books_in_order().await;

    let again = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!((again.code(), desk.provider.stats().calls), (3, calls), "{}", again.stderr);
    assert!(again.stderr.contains("outlay jobs release"), "says how to go on: {}", again.stderr);
    let listed = desk.run(&["jobs", "list", "--state", "parked", "--limit", "1"]).await;
    assert!(listed.stdout.contains("loop guard"), "{}", listed.stdout);
    let shown = desk.run(&["jobs", "show", "j-0999"]).await;
    assert!(shown.stdout.contains("--as loop"), "{}", shown.stdout);

    let unlabelled = desk.run(&["jobs", "release", "j-0999"]).await;
    assert_eq!(unlabelled.code(), 2);
    assert!(unlabelled.stderr.contains("--as"), "{}", unlabelled.stderr);
    let released = desk.run(&["jobs", "release", "--project", "p", "--as", "false-positive"]).await;
    assert_eq!(released.code(), 0, "{}", released.stderr);
    assert!(released.stdout.contains(&format!("{parked} parked jobs let go")), "{}", released.stdout);
    let last = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(last.code(), 0, "{}", last.stderr);
    assert_eq!((desk.results("out.jsonl").len(), desk.provider.stats().calls), (1_000, 1_000));
    // For a day the rule looks away, whatever the ids.
    desk.write("more.jsonl", text.replace("\"j-", "\"k-"));
    let muted = desk.run(&["run", "more.jsonl", "-o", "more.out"]).await;
    assert_eq!((muted.code(), desk.provider.stats().calls), (0, 2_000), "{}", muted.stderr);
    desk.assert_books_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_said_the_same_prompts_are_paid_for_twice_and_all_answered() {
    let desk = Desk::start(|_| {}).await;
    desk.configure("budget = { total = \"1000\" }", "");
    let mut text = String::new();
    for n in 0..2_000 {
        line(&mut text, &format!("j-{n:04}"), &format!("prompt {}", n % 5), "");
    }
    desk.write("jobs.jsonl", &text);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--json"]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(desk.provider.stats().calls, 10);
    let summary = ended.json();
    assert_eq!((&summary["done"], &summary["cached"]), (&2_000.into(), &1_990.into()), "{summary}");
    assert!(ended.stderr.contains("the same content at least 25 times within 10m"), "{}", ended.stderr);
    desk.assert_books_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_in_a_file_ends_after_seventeen_calls_whatever_it_claims() {
    let desk = Desk::start(|_| {}).await;
    let mut text = String::new();
    for n in 0..200 {
        let parent = format!(r#","parent":"link-{:03}","hops":{}"#, n - 1, n % 3);
        line(&mut text, &format!("link-{n:03}"), &format!("mail {n}"), if n == 0 { "" } else { &parent });
    }
    desk.write("jobs.jsonl", &text);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--json"]).await;
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    let calls = desk.provider.stats().calls;
    assert!((1..=17).contains(&calls), "{calls}");
    assert_eq!(ended.json()["parked"], 200 - calls);
    assert_eq!(ended.stderr.matches("loop guard, park").count(), 1, "told once: {}", ended.stderr);
    // Each by itself, as a consumer of results would: the store knows the line across runs.
    let other = Desk::start(|_| {}).await;
    for (n, one) in text.lines().take(20).enumerate() {
        other.write("one.jsonl", one);
        let ended = other.run(&["run", "one.jsonl", "-o", "out.jsonl"]).await;
        assert_eq!(ended.code(), if n < 17 { 0 } else { 3 }, "link {n}: {}", ended.stderr);
    }
    assert_eq!(other.provider.stats().calls, 17);
}
