//! What people say of answers, as a user says it: the real binary and a provider with two models.

use std::fmt::Write as _;

use outlay_loadtest::provider::Price;
use serde_json::Value;

use crate::support::desk::Desk;

/// Two models of one tier, `m` the cheaper one, and the task `parse` with these terms.
async fn desk(task: &str) -> Desk {
    let desk = Desk::start(|config| {
        let (input, output) = (2_000_000, 8_000_000);
        config.prices.insert("other".into(), Price { input, cached_input: input, output });
    })
    .await;
    let more = format!(
        "[[model]]\nid = \"other\"\nprovider = \"mock\"\ntier = \"small\"\ncontext_tokens = 128000\n\
         max_output_tokens = 16000\ntokenizer = \"bytes\"\ninput_usd_per_mtok = \"2\"\noutput_usd_per_mtok = \"8\"\n\
         [[task]]\nid = \"parse\"\nmax_output_tokens = 100\n{task}\n"
    );
    desk.configure("budget = { total = \"1000\" }", &more);
    desk
}

/// Runs jobs of the task `parse` with these numbers, and tells which model answered each.
async fn run(desk: &Desk, numbers: std::ops::Range<usize>) -> Vec<(String, String)> {
    let mut text = String::new();
    for n in numbers.clone() {
        writeln!(
            text,
            r#"{{"id":"j-{n}","project":"p","task":"parse","messages":[{{"role":"user","content":"Mail {n}"}}]}}"#
        )
        .expect("text");
    }
    let file = format!("jobs-{}.jsonl", numbers.start);
    desk.write(&file, text);
    let out = format!("out-{}.jsonl", numbers.start);
    let ended = desk.run(&["run", &file, "-o", &out]).await;
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let of = |result: &Value, field: &str| result[field].as_str().expect("text").to_owned();
    desk.results(&out).iter().map(|result| (of(result, "id"), of(&result["route"], "model"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_scores_move_a_task_to_another_model_and_explain_says_so() {
    let desk = desk("quality_floor = 0.7").await;
    let first = run(&desk, 0..30).await;
    assert!(first.iter().all(|(_, model)| model == "m"), "{first:?}");
    for (id, _) in first.iter().take(15) {
        let ended = desk.run(&["feedback", id, "--score", "0.1", "--note", "wrong date", "--json"]).await;
        assert_eq!(ended.code(), 0, "{}", ended.stderr);
        let counted = ended.json();
        assert_eq!((&counted["model"], &counted["task"]), (&"m".into(), &"parse".into()));
        assert_eq!(counted["score"], 0.1);
    }
    let second = run(&desk, 100..200).await;
    // Two in a hundred may look how the cheaper one does by now.
    let moved = second.iter().filter(|(_, model)| model == "other").count();
    assert!(moved >= 92, "{moved}");
    let (id, _) = second.iter().find(|(_, model)| model == "other").expect("one that moved");
    let told = desk.run(&["explain", id]).await.stdout;
    let lost = told.lines().find(|line| line.contains("not m at mock")).expect("why not m");
    assert!(lost.contains("below the task's quality floor") && lost.contains("scores"), "{told}");
    desk.assert_books_in_order().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_that_cannot_count_is_refused_with_the_reason() {
    let desk = desk("pin = \"task\"").await;
    run(&desk, 0..1).await;
    for (arguments, code, says) in [
        (&["feedback", "j-0", "--score", "1.5"][..], 2, "must be a number from 0 to 1"),
        (&["feedback", "j-0", "--score", "good"], 2, "must be a number from 0 to 1"),
        (&["feedback", "nobody", "--score", "1"], 1, "p/nobody has no result"),
        (&["feedback", "j-0", "--score", "1", "--project", "q"], 2, "q"),
    ] {
        let ended = desk.run(arguments).await;
        assert_eq!(ended.code(), code, "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{arguments:?}: {}", ended.stderr);
    }
    // The first job has pinned its model, which the project shows.
    let shown = desk.run(&["project", "show", "p", "--json"]).await.json();
    assert_eq!((&shown["id"], &shown["pins"][0]["model"]), (&"p".into(), &"m".into()));
    assert_eq!((&shown["pins"][0]["task"], &shown["pins"][0]["switches"]), (&"parse".into(), &0.into()));
    assert!(desk.run(&["project", "show", "p"]).await.stdout.contains("parse"));
}
