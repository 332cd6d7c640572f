//! A circuit breaker: whether a provider, or one model of it, may be called now.
//!
//! Opens when half of at least 20 calls in two minutes failed, or five failed in a row; then lets **one**
//! probe through at a time and closes after three successes. A probe goes every 12 s in an outage of up to
//! five minutes, and at 1/25 of its length later on (at most 300 s): that is quick to notice the end, and
//! wastes few calls until then. "Slow down" answers are not failures: limits are admission's business.
//!
//! What calls met is counted by each process for itself. How a breaker stands is [shared] by
//! those of a fleet: whoever opens one opens it for all, and only one of them probes.

pub mod shared;

use std::time::Duration;

use crate::types::Mono;

const BUCKETS: usize = 12;
const BUCKET: Duration = Duration::from_secs(10);
const COMPLETED_MIN: u32 = 20;
const FAILED_SHARE_PERCENT: u32 = 50;
const CONSECUTIVE_MAX: u32 = 5;
/// Time between two probes: a share of the outage so far, within these bounds.
const OPEN_SHARE: u32 = 25;
const OPEN_SHORTEST: Duration = Duration::from_secs(12);
const OPEN_LONGEST: Duration = Duration::from_secs(300);
const SUCCESSES_TO_CLOSE: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A probe without an answer for so long has failed, whatever its call's own timeout is.
const PROBE_LONGEST: Duration = Duration::from_secs(30);
/// How long the others' consent to a probe is waited for before somebody asks for it again.
const CONSENT_WAIT: Duration = Duration::from_millis(500);

/// What one call says about health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It answered, even if with a refusal of the request.
    Success,
    /// It failed: 5xx, timeout, connection error.
    Failure,
    /// It says nothing, as a 429 does.
    Neutral,
}

/// Whether a call may go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Yes.
    Go,
    /// Yes, as the one probe; its [`Breaker::record`] must say so.
    Probe,
    /// Not before.
    No {
        /// The earliest instant at which asking again can help.
        until: Mono,
    },
}

/// A change worth telling people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Calls stop until then.
    Opened {
        /// When a probe may go.
        until: Mono,
        /// For a reason that waiting a little does not mend.
        hard: bool,
    },
    /// A probe may go.
    HalfOpened,
    /// Calls go on.
    Closed,
}

/// How a breaker stands, without changing it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Health {
    /// Calls may go.
    #[default]
    Closed,
    /// No calls before `until`; none has succeeded since `since`.
    Open {
        /// When a probe may go.
        until: Mono,
        /// When the outage began.
        since: Mono,
        /// Opened for good reason (no credit, bad key): waiting a little will not help.
        hard: bool,
    },
}

/// How a call ended, for a breaker.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// What it was let go as.
    pub permit: Permit,
    /// What it says.
    pub signal: Signal,
    /// When it was sent.
    pub began: Mono,
    /// 0..=1000, to spread what fails together.
    pub jitter_permille: u32,
}

/// What the other processes of a fleet are to know, or are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nobody calls for so long.
    Open {
        /// How long.
        span: Duration,
        /// For a reason that waiting a little does not mend.
        hard: bool,
    },
    /// To be the one that probes, or to go on being it.
    Probe,
    /// The probes went well: everybody may call.
    Close,
}

/// How the fleet's breaker stands, as one process hears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Everybody may call.
    Closed,
    /// Nobody may.
    Open {
        /// Before then.
        until: Mono,
        /// When the outage began.
        since: Mono,
        /// For a reason that waiting a little does not mend.
        hard: bool,
    },
    /// This process probes.
    Ours {
        /// Until then, unless it says so again.
        until: Mono,
    },
    /// Another one does.
    Theirs {
        /// Until then at the latest.
        until: Mono,
        /// When the outage began.
        since: Mono,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        /// Calls that began before say nothing new.
        since: Mono,
    },
    Open {
        until: Mono,
        hard: bool,
    },
    HalfOpen {
        /// Until when the fleet lets this process probe; `None` where it is alone.
        lease: Option<Mono>,
        probe_since: Option<Mono>,
        successes: u32,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    epoch: u64,
    completed: u32,
    failed: u32,
}

/// Failures with nothing between them that shows the opposite.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// When the first of these calls was sent. A success of an earlier one says nothing of the time since.
    began: Mono,
    failures: u32,
    /// Calls let go since the first failure was seen.
    sent: u32,
    /// No success at all came in between, not even of an earlier call.
    unbroken: u32,
}

/// One breaker. Time and jitter are passed in.
#[derive(Debug, Clone)]
pub struct Breaker {
    state: State,
    buckets: [Bucket; BUCKETS],
    run: Option<Run>,
    /// When the outage began.
    since: Mono,
    /// A probe that takes longer than this counts as failed.
    probe_timeout: Duration,
    /// Whether others have to agree to a probe and hear of openings.
    shared: bool,
    wish: Option<Wish>,
}

impl Breaker {
    /// A closed breaker whose calls may take `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            state: State::Closed { since: Mono(0) },
            buckets: [Bucket::default(); BUCKETS],
            run: None,
            since: Mono(0),
            probe_timeout: timeout.min(PROBE_LONGEST),
            shared: false,
            wish: None,
        }
    }

    /// From now on other processes have a say: what they are to know is in [`Self::take_wish`].
    pub fn share(&mut self) {
        self.shared = true;
    }

    /// Whether there is something to tell the others.
    #[must_use]
    pub fn has_wish(&self) -> bool {
        self.wish.is_some()
    }

    /// What there is to tell the others; once.
    pub fn take_wish(&mut self) -> Option<Wish> {
        self.wish.take()
    }

    /// A wish that nobody heard, unless there is a newer one.
    pub fn wish_again(&mut self, wish: Wish) {
        self.wish.get_or_insert(wish);
    }

    /// How it stands.
    #[must_use]
    pub fn health(&self, now: Mono) -> Health {
        let open = |until, hard| Health::Open { until, since: self.since, hard };
        match self.state {
            State::Open { until, hard } if now < until => open(until, hard),
            State::HalfOpen { probe_since: Some(since), .. } if !self.hangs(since, now) => {
                open(self.look_again(since, now), false)
            }
            State::HalfOpen { probe_since: Some(since), .. } => {
                let failed_at = since + self.probe_timeout;
                let until = failed_at + self.pause(failed_at);
                if now < until { open(until, false) } else { Health::Closed }
            }
            _ => Health::Closed,
        }
    }

    /// Asks to make a call.
    pub fn permit(&mut self, now: Mono) -> Permit {
        if let State::HalfOpen { probe_since: Some(since), .. } = self.state
            && self.hangs(since, now)
        {
            self.open(since + self.probe_timeout, 0);
        }
        match self.state {
            State::Closed { .. } => {
                if let Some(run) = &mut self.run {
                    run.sent = run.sent.saturating_add(1);
                }
                Permit::Go
            }
            State::Open { until, .. } if now < until => Permit::No { until },
            State::HalfOpen { lease: Some(lease), probe_since: None, .. } if now >= lease => {
                self.ask(now, false)
            }
            State::Open { hard, .. } if self.shared => self.ask(now, hard),
            State::Open { .. } => self.probe(None, 0, now),
            State::HalfOpen { probe_since: Some(since), .. } => {
                Permit::No { until: self.look_again(since, now) }
            }
            State::HalfOpen { lease, successes, .. } => self.probe(lease, successes, now),
        }
    }

    /// A permit that was not used.
    pub fn give_back(&mut self, permit: Permit) {
        if let (Permit::Probe, State::HalfOpen { lease, successes, .. }) = (permit, self.state) {
            self.state = State::HalfOpen { lease, probe_since: None, successes };
        }
        if let (Permit::Go, Some(run)) = (permit, &mut self.run) {
            run.sent = run.sent.saturating_sub(1);
        }
    }

    /// Hears how a call ended.
    pub fn record(&mut self, ended: Ended, now: Mono) -> Option<Transition> {
        let Ended { permit, signal, began, jitter_permille } = ended;
        if permit == Permit::Probe {
            return self.record_probe(signal, began, now, jitter_permille);
        }
        // What was under way when it opened, or before it closed again, tells nothing new.
        let State::Closed { since } = self.state else { return None };
        if signal == Signal::Neutral || began < since {
            return None;
        }
        let bucket = self.bucket(now);
        bucket.completed += 1;
        bucket.failed += u32::from(signal == Signal::Failure);
        if signal == Signal::Success {
            self.run = self.run.filter(|run| began < run.began).map(|run| Run { unbroken: 0, ..run });
            return None;
        }
        let run = self.run.get_or_insert(Run { began, failures: 0, sent: 0, unbroken: 0 });
        run.began = run.began.min(began);
        run.failures += 1;
        run.unbroken += 1;
        self.is_failing(now).then(|| {
            self.since = now;
            self.open(now, jitter_permille)
        })
    }

    /// Opens at once for a reason that waiting does not mend: no credit, a bad key, no such model.
    pub fn open_hard(&mut self, now: Mono, span: Duration) -> Option<Transition> {
        let already = matches!(self.state, State::Open { hard: true, until } if now < until);
        if already {
            return None;
        }
        if let State::Closed { .. } = self.state {
            self.since = now;
        }
        Some(self.open_for(now, span, true))
    }

    /// Hears how the fleet's breaker stands.
    pub fn hear(&mut self, heard: Heard, now: Mono) -> Option<Transition> {
        // What the others do not know yet is newer.
        if matches!(self.wish, Some(Wish::Open { .. } | Wish::Close)) {
            return None;
        }
        let was_closed = matches!(self.state, State::Closed { .. });
        match heard {
            Heard::Closed if was_closed => None,
            Heard::Closed => {
                self.close(now);
                Some(Transition::Closed)
            }
            Heard::Ours { until } => {
                self.state = match self.state {
                    State::HalfOpen { probe_since, successes, .. } => {
                        State::HalfOpen { lease: Some(until), probe_since, successes }
                    }
                    _ => State::HalfOpen { lease: Some(until), probe_since: None, successes: 0 },
                };
                None
            }
            Heard::Open { until, since, hard } => {
                // Somebody here asks for a probe already.
                let asks = self.wish == Some(Wish::Probe) && until <= now;
                if !asks {
                    (self.state, self.since) = (State::Open { until, hard }, since);
                }
                was_closed.then_some(Transition::Opened { until, hard })
            }
            Heard::Theirs { until, since } => {
                (self.state, self.since) = (State::Open { until, hard: false }, since);
                was_closed.then_some(Transition::Opened { until, hard: false })
            }
        }
    }

    fn probe(&mut self, lease: Option<Mono>, successes: u32, now: Mono) -> Permit {
        self.state = State::HalfOpen { lease, probe_since: Some(now), successes };
        Permit::Probe
    }

    /// A probe needs the others' consent; whoever asks meanwhile is told to wait for it.
    fn ask(&mut self, now: Mono, hard: bool) -> Permit {
        let until = now + CONSENT_WAIT;
        self.wish = Some(Wish::Probe);
        self.state = State::Open { until, hard };
        Permit::No { until }
    }

    fn hangs(&self, probe_since: Mono, now: Mono) -> bool {
        now >= probe_since + self.probe_timeout
    }

    /// A probe's answer usually comes long before its timeout, so whoever waits looks again soon.
    fn look_again(&self, probe_since: Mono, now: Mono) -> Mono {
        (now + LOOK_AGAIN).min(probe_since + self.probe_timeout)
    }

    fn record_probe(
        &mut self,
        signal: Signal,
        began: Mono,
        now: Mono,
        jitter_permille: u32,
    ) -> Option<Transition> {
        let (lease, successes) = match self.state {
            // One that was given up: another may be under way, or the fleet has gone on.
            State::HalfOpen { probe_since: Some(since), .. } if began < since => return None,
            State::HalfOpen { lease, successes, .. } => (lease, successes),
            // Later than was waited for, and still the first good news.
            State::Open { hard: false, .. } if signal == Signal::Success && !self.shared => (None, 0),
            _ => return None,
        };
        match signal {
            Signal::Failure => return Some(self.open(now, jitter_permille)),
            Signal::Success if successes + 1 >= SUCCESSES_TO_CLOSE => {
                self.close(now);
                self.wish = self.shared.then_some(Wish::Close);
                return Some(Transition::Closed);
            }
            Signal::Success => {
                self.state = State::HalfOpen { lease, probe_since: None, successes: successes + 1 };
                // The next probe may take its time.
                self.wish = self.shared.then_some(Wish::Probe);
            }
            Signal::Neutral => self.state = State::HalfOpen { lease, probe_since: None, successes },
        }
        (successes == 0 && signal == Signal::Success).then_some(Transition::HalfOpened)
    }

    /// The time until the next probe.
    fn pause(&self, now: Mono) -> Duration {
        (now.since(self.since) / OPEN_SHARE).clamp(OPEN_SHORTEST, OPEN_LONGEST)
    }

    fn open(&mut self, now: Mono, jitter_permille: u32) -> Transition {
        let span = self.pause(now);
        self.open_for(now, span + span / 20 * jitter_permille.min(1000) / 1000, false)
    }

    fn open_for(&mut self, now: Mono, span: Duration, hard: bool) -> Transition {
        let until = now + span;
        self.run = None;
        self.buckets = [Bucket::default(); BUCKETS];
        self.state = State::Open { until, hard };
        self.wish = self.shared.then_some(Wish::Open { span, hard });
        Transition::Opened { until, hard }
    }

    fn close(&mut self, now: Mono) {
        self.run = None;
        self.buckets = [Bucket::default(); BUCKETS];
        self.state = State::Closed { since: now };
    }

    fn bucket(&mut self, now: Mono) -> &mut Bucket {
        let epoch = epoch(now);
        let bucket = &mut self.buckets[(epoch % BUCKETS as u64) as usize];
        if bucket.epoch != epoch {
            *bucket = Bucket { epoch, ..Bucket::default() };
        }
        bucket
    }

    fn is_failing(&self, now: Mono) -> bool {
        // Failures come back sooner than answers do, so some of them in a row are nothing while most of
        // the calls sent since the first are still under way.
        let in_a_row = self.run.is_some_and(|run| {
            run.unbroken >= CONSECUTIVE_MAX
                || (run.failures >= CONSECUTIVE_MAX && run.failures * 2 > run.sent)
        });
        let oldest = epoch(now).saturating_sub(BUCKETS as u64 - 1);
        let recent = self.buckets.iter().filter(|bucket| bucket.epoch >= oldest);
        let (completed, failed) = recent.fold((0, 0), |(c, f), b| (c + b.completed, f + b.failed));
        in_a_row || (completed >= COMPLETED_MIN && failed * 100 >= completed * FAILED_SHARE_PERCENT)
    }
}

fn epoch(now: Mono) -> u64 {
    now.0 / BUCKET.as_nanos() as u64
}

#[cfg(test)]
mod tests;
