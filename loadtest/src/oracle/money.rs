//! Bills against the ledger: what has to hold at any moment, whatever went wrong.

use std::collections::{BTreeMap, HashMap};

use super::books::{Attempt, Books};
use super::{Finding, check};
use crate::provider::Bill;
use crate::report::Check;

/// Checks that hold at rest and under way.
pub(super) fn checks(books: &Books) -> Vec<Check> {
    let calls: HashMap<&str, &Attempt> =
        books.attempts.iter().map(|attempt| (attempt.id.as_str(), attempt)).collect();
    vec![
        known(books, &calls),
        settled(books),
        sent_once(books),
        difference(books, &calls),
        sums(books),
        charged(books),
    ]
}

fn known(books: &Books, calls: &HashMap<&str, &Attempt>) -> Check {
    let mut wrong = Finding::default();
    for bill in books.bills.iter().filter(|bill| bill.billed) {
        let id = bill.attempt_id.as_deref().unwrap_or("a call without an id");
        match calls.get(id) {
            None => wrong.add(|| format!("the ledger does not know {id}, billed {}", bill.billed_nano_usd)),
            Some(attempt) if bill.billed_nano_usd > attempt.counted => wrong.add(|| {
                format!(
                    "{id}: billed {}, counted {} as {}",
                    bill.billed_nano_usd, attempt.counted, attempt.state
                )
            }),
            Some(_) => {}
        }
    }
    let billed = books.bills.iter().filter(|bill| bill.billed).count();
    let name = "Every bill is known to the ledger and counted at no less";
    check(name, wrong, format!("{billed} bills, {} calls in the ledger", books.attempts.len()))
}

fn settled(books: &Books) -> Check {
    let mut billed: HashMap<&str, i64> = HashMap::with_capacity(books.bills.len());
    for bill in &books.bills {
        *billed.entry(bill.attempt_id.as_deref().unwrap_or_default()).or_default() += bill.billed_nano_usd;
    }
    let (mut wrong, mut sum, mut count) = (Finding::default(), 0_i128, 0_u64);
    for attempt in books.ours().filter(|attempt| attempt.state == "settled") {
        let bill = billed.get(attempt.id.as_str()).copied().unwrap_or_default();
        if bill != attempt.counted {
            wrong.add(|| format!("{}: settled at {}, billed {bill}", attempt.id, attempt.counted));
        }
        (sum, count) = (sum + i128::from(attempt.counted), count + 1);
    }
    let name = "What is settled is what was billed, to the nano-dollar";
    check(name, wrong, format!("{count} calls, {}", usd(sum)))
}

fn sent_once(books: &Books) -> Check {
    let (mut wrong, mut seen) = (Finding::default(), HashMap::<&str, u32>::new());
    for bill in &books.bills {
        match bill.attempt_id.as_deref() {
            None => wrong.add(|| format!("call {} names no attempt", bill.seq)),
            Some(id) => {
                let times = seen.entry(id).or_default();
                *times += 1;
                if *times == 2 {
                    wrong.add(|| format!("{id} was sent more than once"));
                }
            }
        }
    }
    let name = "No attempt was sent twice, and every call named its attempt";
    check(name, wrong, format!("{} calls of {} attempts", books.bills.len(), seen.len()))
}

/// Two sums that are made in different ways: over all, and over the calls whose bill is unknown.
fn difference(books: &Books, calls: &HashMap<&str, &Attempt>) -> Check {
    let billed: i128 = books.bills.iter().map(|bill| i128::from(bill.billed_nano_usd)).sum();
    let counted: i128 = books.ours().map(|attempt| i128::from(attempt.counted)).sum();
    let open = |attempt: &Attempt| attempt.state == "presumed" || attempt.state == "held";
    let presumed: i128 =
        books.ours().filter(|attempt| open(attempt)).map(|attempt| i128::from(attempt.counted)).sum();
    let call_of = |bill: &Bill| calls.get(bill.attempt_id.as_deref()?).copied();
    let billed_of_them: i128 = (books.bills.iter())
        .filter(|bill| call_of(bill).is_some_and(open))
        .map(|bill| i128::from(bill.billed_nano_usd))
        .sum();
    let (gap, unbilled) = (counted - billed, presumed - billed_of_them);
    let mut wrong = Finding::default();
    if gap != unbilled {
        wrong.add(|| format!("they differ by {gap} nano-dollars, presumed and not billed are {unbilled}"));
    }
    let name = "Ledger and bill book differ by exactly what is presumed and was not billed";
    check(name, wrong, format!("ledger {}, billed {}, {} apart", usd(counted), usd(billed), usd(gap)))
}

fn sums(books: &Books) -> Check {
    let mut sums: BTreeMap<i64, [i128; 3]> = BTreeMap::new();
    for attempt in &books.attempts {
        let place = match attempt.state.as_str() {
            "held" => 0,
            "settled" => 1,
            "presumed" => 2,
            _ => continue,
        };
        for window in &attempt.windows {
            sums.entry(*window).or_default()[place] += i128::from(attempt.counted);
        }
    }
    let mut wrong = Finding::default();
    for window in &books.windows {
        let [held, spent, presumed] = sums.remove(&window.id).unwrap_or_default();
        let counted = [held, spent + i128::from(window.purged), presumed];
        let told = [window.held, window.spent, window.presumed].map(i128::from);
        if counted != told {
            wrong.add(|| {
                let (project, kind) = (&window.project, &window.kind);
                format!("{project} {kind}: held, spent, presumed are {told:?}, of its calls {counted:?}")
            });
        }
    }
    for id in sums.keys() {
        wrong.add(|| format!("calls are charged to window {id}, which is not there"));
    }
    let name = "The sums of every window are those of its calls";
    check(name, wrong, format!("{} windows", books.windows.len()))
}

/// Which windows a call has to be charged to is told by when it began; it may be charged to those that
/// begin while it may still run.
fn charged(books: &Books) -> Check {
    let mut wrong = Finding::default();
    for attempt in &books.attempts {
        for window in &books.windows {
            let payer = window.project == "*" || window.project == attempt.project;
            let open = window.starts_at <= attempt.begun_at
                && window.ends_at.is_none_or(|end| attempt.begun_at < end);
            let is_charged = attempt.windows.contains(&window.id);
            let over = window.ends_at.is_some_and(|end| end <= attempt.begun_at);
            let standing = window.kind != "run";
            if payer && open && standing && !is_charged || is_charged && (!payer || over) {
                wrong.add(|| {
                    let (id, project, kind) = (&attempt.id, &window.project, &window.kind);
                    format!("{id} and the {kind} of {project}: charged is {is_charged}, open {open}")
                });
            }
        }
    }
    let name = "Every call is charged to each window that it falls into, and to no other";
    check(name, wrong, format!("{} calls", books.attempts.len()))
}

/// Nano-dollars as people read them.
pub(super) fn usd(nano: i128) -> String {
    let sign = if nano < 0 { "-" } else { "" };
    let nano = nano.unsigned_abs();
    format!("{sign}${}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}
