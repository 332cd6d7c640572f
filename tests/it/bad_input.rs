//! Bad input: each gets a clear error that names the place and the field; nothing is lost, and the
//! neighbours go on.

use rstest::rstest;

use crate::support::desk::Desk;

const GOOD: &str = r#"{"id":"good","project":"p","task":"t","messages":[{"role":"user","content":"hi"}]}"#;

#[rstest]
#[case::not_json("not json", "jobs.jsonl:1: ", "JSON")]
#[case::unknown_field(
    r#"{"id":"x","project":"p","messages":[{"role":"user","content":"a"}],"modell":"m"}"#,
    "jobs.jsonl:1: ",
    "modell"
)]
#[case::no_messages(r#"{"id":"x","project":"p","messages":[]}"#, "jobs.jsonl:1: ", "messages")]
#[case::negative_tokens(
    r#"{"id":"x","project":"p","messages":[{"role":"user","content":"a"}],"max_output_tokens":-5}"#,
    "jobs.jsonl:1: ",
    "max_output_tokens"
)]
#[case::unknown_project(
    r#"{"id":"x","project":"nobody","messages":[{"role":"user","content":"a"}]}"#,
    "jobs.jsonl:1: ",
    "project"
)]
#[case::unknown_model(r#"{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-0","messages":[{"role":"user","content":"a"}]}}"#, "jobs.jsonl:1: ", "gpt-0")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_fails_with_its_place_and_its_neighbour_is_done(
    #[case] line: &str,
    #[case] place: &str,
    #[case] field: &str,
) {
    let desk = Desk::start(|_| {}).await;
    desk.write("jobs.jsonl", format!("{line}\n{GOOD}\n"));
    for round in 0..2 {
        let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
        assert_eq!(ended.code(), 1, "round {round}: {}", ended.stderr);
        assert!(ended.stderr.contains(place) && ended.stderr.contains(field), "{}", ended.stderr);
        let results = desk.results("out.jsonl");
        assert_eq!(results.len(), 2, "round {round}: {results:?}");
        let bad = results.iter().find(|result| result["status"] == "failed").expect("the bad line's result");
        let message = bad["error"]["message"].as_str().expect("a message");
        assert!(message.contains(place) && message.contains(field), "{message}");
    }
    assert_eq!(desk.provider.stats().calls, 1);
    desk.assert_books_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_or_too_many_leave_the_neighbours_alone() {
    let desk = Desk::start(|_| {}).await;
    let mut file = b"\xef\xbb\xbf".to_vec();
    file.extend(GOOD.replace("good", "after-bom").as_bytes());
    file.extend(b"\r\n\r\n{\"id\":\"broken\",\"project\":\"p\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}\r\n");
    let huge = GOOD.replace("good", "huge").replace("hi", &"x".repeat(2 << 20));
    file.extend(huge.as_bytes());
    file.extend(b"\n");
    file.extend(GOOD.replace("good", "no-newline").as_bytes());
    desk.write("jobs.jsonl", file);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 1, "{}", ended.stderr);
    let results = desk.results("out.jsonl");
    let done: Vec<_> = results.iter().filter(|r| r["status"] == "done").map(|r| r["id"].as_str()).collect();
    assert_eq!(results.len(), 4, "{results:?}");
    assert_eq!(done.len(), 2, "{done:?}");
    assert!(done.contains(&Some("after-bom")) && done.contains(&Some("no-newline")), "{done:?}");
    for place in ["jobs.jsonl:3: ", "jobs.jsonl:4: "] {
        assert!(ended.stderr.contains(place), "{place} is missing: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_with_two_bodies_keeps_the_first_and_names_the_second() {
    let desk = Desk::start(|_| {}).await;
    let other = GOOD.replace("hi", "something else");
    desk.write("jobs.jsonl", format!("{GOOD}\n{GOOD}\n{other}\n"));
    for _ in 0..2 {
        let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
        assert_eq!(ended.code(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("jobs.jsonl:3: id: "), "{}", ended.stderr);
        let results = desk.results("out.jsonl");
        assert_eq!(results.len(), 2, "{results:?}");
        assert_eq!(results.iter().filter(|r| r["status"] == "done" && r["id"] == "good").count(), 1);
    }
    assert_eq!(desk.provider.stats().calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_price_under_a_cap_refuses_the_model() {
    let desk = Desk::start(|_| {}).await;
    desk.write("jobs.jsonl", GOOD);
    let unpriced = desk.read("outlay.toml").replace("output_usd_per_mtok = \"4\"", "");
    desk.write("outlay.toml", unpriced);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ended.code(), 1, "{}", ended.stderr);
    assert_eq!(desk.results("out.jsonl")[0]["error"]["code"], "price_unknown");
    assert!(
        ended.stderr.contains("jobs.jsonl:1: ") && ended.stderr.contains("output_usd_per_mtok"),
        "{}",
        ended.stderr
    );
    assert_eq!(desk.provider.stats().calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_cannot_be_used_are_named_before_anything_is_sent() {
    let desk = Desk::start(|_| {}).await;
    desk.write("jobs.jsonl", GOOD);
    desk.write("text.db", "this is no database, but a text that is long enough to look at");
    std::fs::create_dir(desk.path("folder.db")).expect("a folder");
    desk.write("bits.db", "");
    let mut bits = std::fs::metadata(desk.path("bits.db")).expect("metadata").permissions();
    bits.set_readonly(true);
    std::fs::set_permissions(desk.path("bits.db"), bits).expect("permissions");
    for (store, says) in [
        ("text.db", "text.db"),
        ("folder.db", "folder"),
        ("bits.db", "read-only"),
        ("no/such/folder.db", "folder"),
    ] {
        let ended =
            desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl", "--store", &format!("sqlite:{store}")]).await;
        assert_eq!(ended.code(), 2, "{store}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{store}: {}", ended.stderr);
    }
    assert_eq!(desk.provider.stats().calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_results_is_told_and_the_store_keeps_them() {
    let desk = Desk::start(|_| {}).await;
    desk.jobs("jobs.jsonl", 50);
    let ended = desk.run(&["run", "jobs.jsonl", "-o", "/dev/full"]).await;
    assert_eq!(ended.code(), 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("/dev/full"), "{}", ended.stderr);
    assert_eq!(desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await.code(), 0);
    assert_eq!(desk.results("out.jsonl").len(), 50);
    assert_eq!(desk.provider.stats().calls, 50, "a job that was answered was called again");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_configurations_that_are_wrong_are_usage_errors() {
    let desk = Desk::start(|_| {}).await;
    let missing = desk.run(&["run", "nowhere.jsonl"]).await;
    assert_eq!(missing.code(), 2);
    assert!(missing.stderr.contains("nowhere.jsonl"), "{}", missing.stderr);
    let text = desk.read("outlay.toml").replace("max_in_flight", "max_inflight");
    desk.write("outlay.toml", text);
    let wrong = desk.run(&["config", "check"]).await;
    assert_eq!(wrong.code(), 2);
    assert!(
        wrong.stderr.contains("max_inflight") && wrong.stderr.contains("max_in_flight"),
        "{}",
        wrong.stderr
    );
}
