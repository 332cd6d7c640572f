//! `outlay doctor` over a file: no services, and nothing that is not there is missed.

use crate::support::desk::Desk;

#[tokio::test]
async fn a_file_is_looked_at_without_services() {
    let desk = Desk::start(|_| {}).await;
    desk.jobs("jobs.jsonl", 60);
    let ran = desk.run(&["run", "jobs.jsonl", "-o", "out.jsonl"]).await;
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let told = desk.run(&["doctor", "--json", "--strict"]).await;
    assert_eq!(told.code(), 0, "{}{}", told.stdout, told.stderr);
    let told = told.json();
    let findings = told["findings"].as_array().expect("findings");
    let severity = |id: &str| {
        let found = findings.iter().find(|finding| finding["id"] == id);
        found.map(|finding| finding["severity"].as_str().expect("a word").to_owned())
    };
    for id in
        ["routing_deviation", "presumed_money", "price_age", "deadline_late", "budget_lasts", "heartbeat_age"]
    {
        assert_eq!(severity(id).as_deref(), Some("ok"), "{id} in {told:#}");
    }
    assert_eq!((severity("queue_lag"), severity("clock_skew")), (None, None));
    let text = desk.run(&["doctor"]).await;
    assert!(text.stdout.contains("ok     presumed_money: 0 USD"), "{}", text.stdout);

    let nothing = desk.run(&["doctor", "--store", "sqlite:none.db"]).await;
    assert_eq!(nothing.code(), 2, "{}", nothing.stderr);
}
