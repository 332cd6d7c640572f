//! What `explain` prints, for jobs made up here.

use super::*;
use crate::ports::reports::ParkedRow;
use crate::types::ledger::CapReached;
use crate::types::route::{Considered, Fallback, Invalid, Lost, Reason};
use crate::types::{AttemptId, AttemptOutcome, JobKey, Usage};

fn offer(model: &str, cost: Option<i64>, lost: Option<Lost>) -> Considered {
    Considered {
        model: model.into(),
        provider: "sim".into(),
        cost: cost.map(NanoUsd),
        worst: cost.map(|cost| NanoUsd(cost * 10)),
        success_cost: None,
        quality: None,
        wait_ms: cost.map(|_| 0),
        finish_ms: cost.map(|_| 900),
        lost,
    }
}

fn attempt(state: HoldState, counted: i64) -> AttemptRow {
    let explanation = Explanation {
        reason: Reason::CheapestInTime,
        offers: vec![
            offer("small-a", Some(400_000), None),
            offer("large-c", Some(9_000_000), Some(Lost::Dearer)),
            offer("tiny-b", None, Some(Lost::ContextTooSmall { needed: 900, has: 512 })),
        ],
        ..Explanation::default()
    };
    AttemptRow {
        attempt: AttemptId(uuid::Uuid::nil()),
        job: JobKey { project: "inbox".into(), id: "mail-1".into() },
        generation: 1,
        n: 1,
        provider: "sim".into(),
        model: "small-a".into(),
        price_version: 1,
        state,
        hold_usd: NanoUsd(4_000_000),
        counted_usd: NanoUsd(counted),
        outcome: Some(AttemptOutcome::Ok),
        usage: Some(Usage { input_tokens: 812, output_tokens: 96, ..Usage::default() }),
        model_served: Some("small-a-2026-05".into()),
        begun_at: Wall(0),
        ended_at: Some(Wall(810_000)),
        provider_ms: Some(810),
        detail: Some("fine\u{1b}[31m".into()),
        explanation: serde_json::to_string(&explanation).unwrap(),
    }
}

fn job(attempts: Vec<AttemptRow>, parked: Option<ParkReason>) -> JobHistory {
    let key = JobKey { project: "inbox".into(), id: "mail-1".into() };
    let task = TaskId::from("email.parse");
    JobHistory {
        parked: parked.map(|reason| ParkedRow {
            job: key.clone(),
            task: task.clone(),
            reason,
            since: Wall(0),
        }),
        key,
        task,
        generation: 1,
        accepted_at: Wall(0),
        result: None,
        attempts,
    }
}

#[test]
fn a_call_tells_why_this_one_why_not_the_others_and_the_money() {
    let text = text(&job(vec![attempt(HoldState::Settled, 431_000)], None), &TimeZone::UTC);
    let expected = "\
inbox/mail-1  open
  task email.parse, accepted 1970-01-01 00:00:00 UTC

  call 1: small-a at sim, begun 1970-01-01 00:00:00 UTC
    chosen: cheapest that meets the deadline ($0.0004 expected, at most $0.004; answer in 900 ms)
    outcome: ok after 810 ms, 812 tokens in, 96 out, answered as small-a-2026-05
    detail: fine [31m
    money: settled: cost $0.000431 of a hold of $0.004 (10 %)
    not large-c at sim: dearer ($0.009 expected, at most $0.09; answer in 900 ms)
    not tiny-b at sim: needs 900 tokens of context, has 512";
    assert_eq!(text, expected);
}

#[test]
fn each_state_of_money_has_its_sentence() {
    assert!(money(&attempt(HoldState::Held, 0)).contains("held while the call runs"));
    assert!(money(&attempt(HoldState::Void, 0)).contains("given back"));
    assert!(money(&attempt(HoldState::Presumed, 4_000_000)).contains("presumed settle 00000000"));
    assert!(money(&attempt(HoldState::Settled, 5_000_000)).contains("$0.001 ABOVE"));
}

#[test]
fn a_parked_job_tells_reason_until_and_what_to_do() {
    let cap = CapReached { window: WindowKind::Day, resets_at: Some(Wall(1)), firm: NanoUsd::ZERO };
    let parked = job(Vec::new(), Some(ParkReason::Cap(cap)));
    let text = text(&parked, &TimeZone::UTC);
    for part in [
        "inbox/mail-1  parked",
        "parked: the day cap is reached",
        "until 1970-01-01 00:00:00 UTC at the earliest",
        "`outlay budget set inbox --day USD`",
        "no call was made",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let stopped = ParkReason::Stopped { reason: "tea".into() };
    assert!(advice(&"inbox".into(), &stopped).contains("outlay project resume inbox"));
}

#[test]
fn a_run_cap_is_not_the_projects() {
    let cap = CapReached { window: WindowKind::Run, resets_at: None, firm: NanoUsd::ZERO };
    assert!(advice(&"inbox".into(), &ParkReason::Cap(cap)).contains("--max-cost"));
}

#[test]
fn json_has_the_decision_and_survives_one_that_cannot_be_read() {
    let mut broken = attempt(HoldState::Held, 0);
    broken.explanation = "no json".into();
    let job = job(vec![attempt(HoldState::Settled, 431_000), broken], None);
    let json = serde_json::to_value(view(&job)).unwrap();
    assert_eq!(json["state"], "in_flight");
    assert_eq!(json["attempts"][0]["counted_usd"], "0.000431");
    assert_eq!(json["attempts"][0]["explanation"]["offers"][1]["lost"]["why"], "dearer");
    assert_eq!(json["attempts"][1]["explanation"], "no json");
    assert!(text(&job, &TimeZone::UTC).contains("cannot be read"));
}

#[test]
fn an_escalation_tells_the_validator_and_whose_answer_did_not_pass() {
    let mut first = attempt(HoldState::Settled, 431_000);
    first.outcome = Some(AttemptOutcome::InvalidOutput);
    first.detail = Some("the answer of small-a did not validate: it is not JSON".into());
    let invalid = Invalid { model: "small-a".into(), why: "it is not JSON".into() };
    let explanation = Explanation {
        rule: Some("trivial".to_owned()),
        reason: Reason::Escalated,
        offers: vec![
            offer("large-c", Some(9_000_000), None),
            offer("small-a", None, Some(Lost::InvalidHere)),
        ],
        validator: Some("json".into()),
        invalid: vec![invalid],
        fallback: None,
    };
    let second = AttemptRow {
        n: 2,
        model: "large-c".into(),
        explanation: serde_json::to_string(&explanation).unwrap(),
        ..attempt(HoldState::Settled, 431_000)
    };
    let job = job(vec![first, second], None);
    let text = text(&job, &TimeZone::UTC);
    for line in [
        "    outcome: invalid output after 810 ms, 812 tokens in, 96 out, answered as small-a-2026-05",
        "    detail: the answer of small-a did not validate: it is not JSON",
        "    chosen: the next better model after an invalid answer ($0.009 expected, at most $0.09; answer in 900 ms)",
        "    because: the answer of small-a did not validate: it is not JSON",
        "    rule about its input: trivial",
        "    validator: json",
        "    not small-a at sim: its answer to this job did not validate",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} in {text}");
    }
    let json = serde_json::to_value(view(&job)).unwrap();
    assert_eq!(json["attempts"][1]["explanation"]["invalid"][0]["model"], "small-a");
    assert_eq!(json["attempts"][1]["explanation"]["validator"], "json");
}

#[test]
fn a_hedge_tells_when_it_was_due_and_who_it_went_to() {
    let fallback = Fallback {
        model: "quick-q".into(),
        provider: "sim".into(),
        worst: Some(NanoUsd(12_000_000)),
        finish_ms: 900,
        overdue_ms: Some(3000),
        escalate_at: Some(Wall(8_000_000)),
    };
    let planned = Explanation { fallback: Some(fallback), ..Explanation::default() };
    let hedge = Explanation {
        reason: Reason::Hedge,
        offers: vec![offer("quick-q", Some(900_000), None), offer("small-a", None, Some(Lost::Running))],
        ..Explanation::default()
    };
    let row = |n: u32, explanation: &Explanation| AttemptRow {
        n,
        explanation: serde_json::to_string(explanation).unwrap(),
        ..attempt(HoldState::Settled, 431_000)
    };
    let text = text(&job(vec![row(1, &planned), row(2, &hedge)], None), &TimeZone::UTC);
    for line in [
        "    fallback: quick-q at sim, after 3.0 s without an answer or at 1970-01-01 00:00:08 UTC for the deadline (answer in 900 ms, at most $0.012)",
        "    chosen: a hedge: the fastest other model, beside a call that had no answer yet ($0.0009 expected, at most $0.009; answer in 900 ms)",
        "    not small-a at sim: its call is the one under way",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} in {text}");
    }
}
