//! What is granted never adds up to more than the limit, whoever comes, goes, dies or hears nothing.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const LIMIT: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

fn worker(n: u128) -> WorkerId {
    WorkerId(Uuid::from_u128(n))
}

fn at(seconds: u64) -> Wall {
    Wall(1_700_000_000_000_000) + Duration::from_secs(seconds)
}

fn ask(want: u32, held: u32) -> Ask {
    Ask { limit: LIMIT, want, held, need: 0, leaving: [0; SLOTS] }
}

/// The rows as a store keeps them.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn renew(&mut self, of: u128, ask: &Ask, now: Wall) -> u32 {
        let (row, _) = grant(worker(of), ask, &self.0, now);
        self.0.retain(|row| row.worker != worker(of));
        self.0.push(row);
        row.share
    }
}

#[test]
fn the_first_one_gets_all_and_a_newcomer_what_is_free() {
    let mut rows = Rows::default();
    assert_eq!(rows.renew(1, &ask(0, 0), at(0)), 100, "an idle worker may start at once");
    assert_eq!(rows.renew(2, &ask(100, 0), at(1)), 0, "all of it may have been used just now");
    // The first one hears of its smaller share, and next says that it keeps to it.
    assert_eq!(rows.renew(1, &ask(100, 100), at(2)), 100, "it goes on at half the pace");
    assert_eq!(rows.renew(2, &ask(100, 0), at(3)), 0, "nothing has left the minute yet");
    assert_eq!(rows.renew(1, &ask(100, 80), at(4)), 80, "80 of its calls are still counted");
    assert_eq!(rows.renew(2, &ask(100, 0), at(5)), 20);
    assert_eq!(rows.renew(1, &ask(100, 50), at(6)), 50);
    assert_eq!(rows.renew(2, &ask(100, 20), at(7)), 50);
}

#[test]
fn a_dead_workers_share_is_free_a_minute_after_it_ran_out() {
    let mut rows = Rows::default();
    assert_eq!(rows.renew(1, &ask(100, 0), at(0)), 100);
    for seconds in [9, 30, 69, 70] {
        assert_eq!(rows.renew(2, &ask(100, 0), at(seconds)), 0, "after {seconds} s");
    }
    assert_eq!(rows.renew(2, &ask(100, 0), at(71)), 100);
}

#[test]
fn what_a_dead_worker_told_of_its_calls_leaves_the_minute_with_them() {
    let mut rows = Rows::default();
    rows.renew(1, &ask(100, 0), at(0));
    // Ten units in the slot that ends 20 s from now, and twenty that leave before the share runs out:
    // those it may have sent again until then.
    let mut told = ask(100, 100);
    (told.leaving[3], told.leaving[9]) = (20, 10);
    assert_eq!(rows.renew(1, &told, at(8)), 100);
    for (seconds, free) in [(17, 0), (27, 0), (28, 10), (78, 10), (79, 100)] {
        let row = &rows.0[0];
        assert_eq!(LIMIT - row.counts(at(seconds)), free, "after {seconds} s");
    }
    assert_eq!(rows.renew(2, &ask(100, 0), at(28)), 10);
}

#[test]
fn what_is_free_goes_to_all_who_lack_something() {
    let mut rows = Rows::default();
    rows.renew(1, &ask(100, 0), at(0));
    let newcomers = |rows: &mut Rows, now| [2, 3, 4].map(|n| rows.renew(n, &ask(100, 0), now));
    assert_eq!(newcomers(&mut rows, at(1)), [0, 0, 0]);
    assert_eq!(rows.renew(1, &ask(100, 70), at(2)), 70);
    // A third of what was left by the one before, and so on; the rest comes with the next question.
    assert_eq!(newcomers(&mut rows, at(3)), [10, 8, 6]);
}

#[test]
fn who_leaves_gives_back_what_it_did_not_use() {
    let mut rows = Rows::default();
    assert_eq!(rows.renew(1, &ask(100, 0), at(0)), 100);
    rows.0 = vec![leave(worker(1), &ask(0, 30), at(5))];
    assert_eq!(rows.renew(2, &ask(100, 0), at(5)), 70);
    assert_eq!(rows.renew(2, &ask(100, 70), at(65)), 70);
    assert_eq!(rows.renew(2, &ask(100, 70), at(66)), 100);
}

#[test]
fn least_demand_is_met_first_and_the_rest_is_shared_out() {
    let parts = |wants: &[u32]| {
        let row =
            |(n, want): (usize, &u32)| Row { want: *want, ..leave(worker(n as u128), &ask(0, 0), at(0)) };
        let rows: Vec<Row> = wants.iter().enumerate().map(row).collect();
        let mut parts = shared_out(LIMIT, &rows, |row| row.want);
        parts.sort_unstable_by_key(|(worker, _)| worker.0);
        parts.into_iter().map(|(_, units)| units).collect::<Vec<_>>()
    };
    for (wants, expected) in [
        (&[100, 100][..], &[50, 50][..]),
        (&[10, 100], &[10, 90]),
        (&[0, 10, 200], &[0, 10, 90]),
        (&[10, 20], &[45, 55]),
        (&[0, 0, 0], &[34, 33, 33]),
        (&[7, 7, 7, 100], &[7, 7, 7, 79]),
        (&[100; 8], &[13, 13, 13, 13, 12, 12, 12, 12]),
    ] {
        assert_eq!(parts(wants), expected, "{wants:?}");
    }
}

#[test]
fn a_request_above_its_workers_part_gets_room_once_and_then_gives_way() {
    let mut rows = Rows::default();
    assert_eq!(rows.renew(1, &ask(100, 0), at(0)), 100);
    let large = Ask { need: 90, ..ask(100, 0) };
    assert_eq!(rows.renew(2, &large, at(1)), 0);
    assert_eq!(rows.renew(1, &ask(100, 100), at(2)), 10, "the need goes before");
    assert_eq!(rows.renew(2, &large, at(3)), 0);
    assert_eq!(rows.renew(1, &ask(100, 10), at(4)), 10);
    assert_eq!(rows.renew(2, &large, at(5)), 90);
    // Served: the need is gone, and for a minute it may not come again.
    assert_eq!(rows.renew(2, &ask(100, 90), at(7)), 90, "at half the pace, until it has left the minute");
    assert_eq!(rows.renew(2, &Ask { need: 90, ..ask(100, 90) }, at(9)), 90);
    assert_eq!(rows.renew(2, &Ask { need: 90, ..ask(100, 40) }, at(9)), 50);
    assert_eq!(rows.renew(1, &ask(100, 10), at(10)), 50);
}

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Pass(u64),
    Poll(usize, bool),
    Send(usize, u32),
    Kill(usize),
    Leave(usize),
}

/// A worker of the model: its calls, what it may use, until when, and which incarnation it is.
#[derive(Default, Clone)]
struct Model {
    calls: Vec<(Wall, u32)>,
    share: u32,
    pace: u32,
    until: Option<Wall>,
    life: u128,
}

impl Model {
    fn used(&self, now: Wall) -> u32 {
        self.calls.iter().filter(|(at, _)| *at + 60 * SECOND > now).map(|(_, n)| n).sum()
    }

    fn granted(&self, now: Wall) -> u32 {
        self.until.filter(|until| now < *until).map_or(0, |_| self.share)
    }

    /// As a fleet asks: what it gives up is given up before.
    fn asks(&mut self, now: Wall) -> Ask {
        let used = self.used(now);
        self.share = self.share.min(used.max(self.pace));
        let mut asks = ask(100, used.max(self.granted(now)));
        for (sent_at, units) in self.calls.iter().filter(|(at, _)| *at + 60 * SECOND > now) {
            let after = (*sent_at + 60 * SECOND).0 - now.0 - 1;
            let slot = usize::try_from(after).expect("not gone yet") / 2_000_000;
            if let Some(slot) = asks.leaving.get_mut(slot) {
                *slot += units;
            }
        }
        asks
    }
}

fn happens() -> impl Strategy<Value = Happens> {
    let who = 0..4_usize;
    prop_oneof![
        4 => (0..4_000_u64).prop_map(Happens::Pass),
        1 => (4_000..40_000_u64).prop_map(Happens::Pass),
        6 => (who.clone(), proptest::bool::weighted(0.85)).prop_map(|(who, heard)| Happens::Poll(who, heard)),
        8 => (who.clone(), 1..60_u32).prop_map(|(who, units)| Happens::Send(who, units)),
        1 => who.clone().prop_map(Happens::Kill),
        1 => who.prop_map(Happens::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// By the count of a provider that knows nothing of shares.
    #[test]
    fn no_minute_sees_more_than_the_limit(story in proptest::collection::vec(happens(), 1..300)) {
        let mut rows = Rows::default();
        let mut workers = vec![Model::default(); 4];
        let mut sent: Vec<(Wall, u32)> = Vec::new();
        let mut now = at(0);
        let id = |who: usize, model: &Model| 10 * model.life + who as u128;
        for step in story {
            match step {
                Happens::Pass(ms) => now = now + Duration::from_millis(ms),
                Happens::Poll(who, heard) => {
                    let model = &mut workers[who];
                    let (asks, id) = (model.asks(now), worker(id(who, model)));
                    let (row, grant) = grant(id, &asks, &rows.0, now);
                    rows.0.retain(|other| other.worker != id);
                    rows.0.push(row);
                    if heard {
                        (model.share, model.pace) = (grant.share, grant.pace);
                        model.until = Some(now + TTL);
                    }
                }
                Happens::Send(who, units) => {
                    let model = &mut workers[who];
                    let room = model.granted(now).saturating_sub(model.used(now));
                    let units = units.min(room);
                    model.calls.push((now, units));
                    sent.push((now, units));
                }
                Happens::Kill(who) => workers[who] = Model { life: workers[who].life + 1, ..Model::default() },
                Happens::Leave(who) => {
                    let model = &mut workers[who];
                    model.until = None;
                    let row = leave(worker(id(who, model)), &model.asks(now), now);
                    rows.0.retain(|other| other.worker != row.worker);
                    rows.0.push(row);
                    *model = Model { life: model.life + 1, ..Model::default() };
                }
            }
            let window: u32 = sent.iter().filter(|(at, _)| *at + 60 * SECOND > now).map(|(_, n)| n).sum();
            prop_assert!(window <= LIMIT, "{window} after {step:?}");
        }
    }
}
