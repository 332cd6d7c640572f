//! Values that tests are made of.

pub(crate) mod browser;
pub(crate) mod database;
pub(crate) mod desk;
pub(crate) mod services;
pub(crate) mod stand_in;
pub(crate) mod wire_cutter;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use outlay::ports::Clock;
use outlay::types::job::{Message, Request, Role, Terms};
use outlay::types::outcome::Timing;
use outlay::types::{Job, JobKey, JobResult, Mono, NanoUsd, Now, Status, Usage, Wall};

/// A clock that only moves when told to.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn at(text: &str) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(wall(text).0)))
    }

    pub(crate) fn set(&self, text: &str) {
        self.0.store(wall(text).0, Ordering::SeqCst);
    }

    pub(crate) fn forward(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Now {
        let wall = Wall(self.0.load(Ordering::SeqCst));
        // Both move together, so that silence can be told from the one that is asked.
        Now { mono: Mono(u64::try_from(wall.0).unwrap_or(0).saturating_mul(1000)), wall }
    }

    async fn sleep_until(&self, _at: Mono) {
        unreachable!("stores do not sleep");
    }
}

pub(crate) fn wall(text: &str) -> Wall {
    text.parse::<jiff::Timestamp>().expect("a timestamp").into()
}

pub(crate) fn key(project: &str, id: &str) -> JobKey {
    JobKey { project: project.into(), id: id.into() }
}

/// A job whose body is `body` and nothing else.
pub(crate) fn job(project: &str, id: &str, body: u8) -> Arc<Job> {
    let message = Message {
        role: Role::User,
        content: outlay::types::job::Content::Text(format!("say {body}")),
        name: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
    };
    Arc::new(Job {
        key: key(project, id),
        task: "greet".into(),
        request: Request { messages: vec![message], ..Request::default() },
        request_bytes: 60,
        body_hash: [body; 32],
        terms: Terms::default(),
        metadata: None,
        source: None,
    })
}

/// A result with as little in it as can be.
pub(crate) fn result(key: &JobKey, status: Status, cost: i64) -> Arc<JobResult> {
    Arc::new(JobResult {
        id: key.id.clone(),
        project: key.project.clone(),
        task: "greet".into(),
        status,
        output: Some("hello".to_owned()),
        tool_calls: Vec::new(),
        finish_reason: Some("stop".to_owned()),
        error: None,
        route: None,
        attempts: Vec::new(),
        usage: Usage::default(),
        cost_usd: NanoUsd(cost),
        presumed_usd: NanoUsd::ZERO,
        cached: false,
        cached_from: None,
        late: false,
        timing: Timing { finished_at: wall("2026-11-21T12:00:00Z"), ..Timing::default() },
        metadata: None,
    })
}
