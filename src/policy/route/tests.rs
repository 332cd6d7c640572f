//! The rules of the choice as a table, one case a paragraph; then what holds for any input.
//!
//! A paragraph is a title, the job, its offers and the expected explanation. What a notation leaves
//! out is what `Job::parse` and `offer` below start from: a prompt of 4,000 bytes (1,000 tokens are
//! expected, 4,528 at most), answers of 100 tokens after a second, $1 per million tokens.

mod properties;

use super::*;
use crate::types::catalogue::{Prices, Sale, ServiceTier, Tokenizer};
use crate::types::evidence::Figures;
use crate::types::job::{Content, Message, Request, Role, Terms};
use crate::types::route::Considered;
use crate::types::{JobKey, PicoUsdPerToken};

pub(in crate::policy) const NOW: Now =
    Now { mono: Mono(1_000_000_000_000), wall: Wall(1_700_000_000_000_000) };

const CASES: &str = include_str!("cases.txt");

/// A job and everything an [`Ask`] borrows.
pub(in crate::policy) struct Asked {
    job: Job,
    task: TaskRules,
    deadline: Option<Wall>,
    capped: bool,
    committed: NanoUsd,
    failed_on: Vec<ModelId>,
    invalid: Vec<Invalid>,
    pinned: Option<ModelId>,
}

impl Asked {
    pub(in crate::policy) fn ask(&self) -> Ask<'_> {
        Ask {
            job: &self.job,
            task: &self.task,
            deadline: self.deadline,
            capped: self.capped,
            committed: self.committed,
            failed_on: &self.failed_on,
            invalid: &self.invalid,
            pinned: self.pinned.as_ref(),
            now: NOW,
        }
    }

    pub(in crate::policy) fn parse(words: &str) -> Self {
        let content = Content::Text("hello".to_owned());
        let message =
            Message { role: Role::User, content, name: None, tool_calls: Vec::new(), tool_call_id: None };
        let mut asked = Self {
            job: Job {
                key: JobKey { project: "mail".into(), id: "1".into() },
                task: "email.parse".into(),
                request: Request { messages: vec![message], ..Request::default() },
                request_bytes: 4000,
                body_hash: [0; 32],
                terms: Terms::default(),
                metadata: None,
                source: None,
            },
            task: TaskRules::default(),
            deadline: None,
            capped: false,
            committed: NanoUsd::ZERO,
            failed_on: Vec::new(),
            invalid: Vec::new(),
            pinned: None,
        };
        words.split_whitespace().for_each(|word| asked.set(word));
        asked
    }

    fn set(&mut self, word: &str) {
        let (terms, task) = (&mut self.job.terms, &mut self.task);
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let models = || value.split(',').map(ModelId::from).collect::<Vec<_>>();
        match key {
            "job" => {}
            "bytes" => self.job.request_bytes = value.parse().unwrap(),
            "max" => self.job.request.max_output_tokens = Some(value.parse().unwrap()),
            "models" => terms.models = models(),
            "provider" => terms.provider = Some(value.into()),
            "tier" => terms.min_tier = Some(tier(value)),
            "max_cost" => terms.max_cost = Some(NanoUsd::parse_cap(value).unwrap()),
            "skip" => terms.late = Late::Skip,
            "task.max" => task.max_output_tokens = Some(value.parse().unwrap()),
            "task.models" => task.models = models(),
            "task.tier" => task.min_tier = tier(value),
            "class" => terms.class = serde_json::from_value(value.into()).unwrap(),
            "says" => {
                let content = Content::Text("x".repeat(value.parse().unwrap()));
                self.job.request.messages[0].content = content;
            }
            "schema" => self.job.request.response_format = Some(serde_json::json!({"type": "json_schema"})),
            "tools" => self.job.request.tools = vec![serde_json::json!({})],
            "rule" => {
                let mut parts = value.split(',');
                let mut part = || parts.next().unwrap();
                let name = part().to_owned();
                let (min_chars, max_chars) = part().split_once("..").unwrap();
                task.rules.push(InputRule {
                    name,
                    min_chars: min_chars.parse().ok(),
                    max_chars: max_chars.parse().ok(),
                    min_tier: tier(part()),
                });
            }
            "deadline" => self.deadline = Some(NOW.wall + span(value)),
            "overdue" => self.deadline = Some(NOW.wall - span(value)),
            "capped" => self.capped = true,
            "committed" => self.committed = NanoUsd::parse_cap(value).unwrap(),
            "floor" => task.quality_floor = Some(value.parse().unwrap()),
            "id" => self.job.key.id = value.into(),
            "pin" => task.pin = serde_json::from_value(value.into()).unwrap(),
            "pinned" => self.pinned = Some(value.into()),
            "failed" => self.failed_on = models(),
            "invalid" => {
                let why = || "it is not JSON".to_owned();
                self.invalid = models().into_iter().map(|model| Invalid { model, why: why() }).collect();
            }
            _ => panic!("`{word}` says nothing about a job"),
        }
    }
}

fn tier(name: &str) -> Tier {
    serde_json::from_value(name.into()).unwrap()
}

fn span(text: &str) -> Duration {
    crate::types::time::parse_span(text).unwrap()
}

fn prices(input: i64, output: i64) -> Prices {
    let input = PicoUsdPerToken(input);
    Prices { input, cached_input: input, cache_write: input, output: PicoUsdPerToken(output) }
}

fn offer(id: &str) -> Offer {
    Offer {
        id: id.into(),
        provider: "p".into(),
        name: id.into(),
        tier: Tier::Small,
        context_tokens: 100_000,
        max_output_tokens: 8_000,
        prices: Some(prices(1_000_000, 1_000_000)),
        price_version: 1,
        serves: Vec::new(),
        tokenizer: Tokenizer::Bytes,
        timeout: Duration::from_secs(60),
        simulated: false,
        sale: Sale::default(),
    }
}

fn view(offer: Offer) -> OfferView {
    OfferView {
        offer: Arc::new(offer),
        health: Health::Closed,
        quarantined: false,
        wait: Wait::For(Duration::ZERO),
        latency: Duration::from_secs(1),
        expected_output_tokens: 100,
        quality: Quality::UNKNOWN,
    }
}

/// `name word word ..`; `$2` or `$2/8` are dollars per million tokens, `$?` is unknown;
/// `open=10s,5s` may be tried in 10 s and has been down for 5 s.
fn parse_view(text: &str) -> OfferView {
    let mut words = text.split_whitespace();
    let mut view = view(offer(words.next().unwrap()));
    let offer = Arc::get_mut(&mut view.offer).unwrap();
    let usd = |text: &str| text.parse::<PicoUsdPerToken>().unwrap().0;
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match (key, key.strip_prefix('$')) {
            (_, Some("?")) => offer.prices = None,
            (_, Some(price)) => {
                let (input, output) = price.split_once('/').unwrap_or((price, price));
                offer.prices = Some(prices(usd(input), usd(output)));
            }
            ("flex", _) => offer.sale.service_tier = ServiceTier::Flex,
            ("hours", _) => offer.sale.hours = Some(value.parse().unwrap()),
            ("lacks", _) => offer.sale.lacks.push(serde_json::from_value(value.into()).unwrap()),
            ("at", _) => offer.provider = value.into(),
            ("tier", _) => offer.tier = tier(value),
            ("context", _) => offer.context_tokens = value.parse().unwrap(),
            ("writes", _) => offer.max_output_tokens = value.parse().unwrap(),
            ("unknown-tokenizer", _) => offer.tokenizer = Tokenizer::Unknown,
            ("wait", _) if value == "never" => view.wait = Wait::Never,
            ("wait", _) => view.wait = Wait::For(span(value)),
            ("takes", _) => view.latency = span(value),
            ("expected", _) => view.expected_output_tokens = value.parse().unwrap(),
            // Of so many calls so many were valid.
            ("did", _) => {
                let (valid, calls) = value.split_once('/').unwrap();
                let (valid, calls) = (valid.parse::<u64>().unwrap(), calls.parse::<u64>().unwrap());
                let (valid, invalid) = (valid * 1_000_000, (calls - valid) * 1_000_000);
                view.quality = evidence::quality(&Figures { valid, invalid, ..Figures::default() });
            }
            ("quarantined", _) => view.quarantined = true,
            ("open" | "hard", _) => {
                let (until, since) = value.split_once(',').unwrap();
                let (until, since) = (NOW.mono + span(until), NOW.mono - span(since));
                view.health = Health::Open { until, since, hard: key == "hard" };
            }
            _ => panic!("`{word}` says nothing about an offer"),
        }
    }
    view
}

pub(in crate::policy) fn parse_views(text: &str) -> Vec<OfferView> {
    text.split('|').map(str::trim).filter(|text| *text != "none").map(parse_view).collect()
}

/// A name as the stored explanation spells it.
fn code(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
}

fn show_offer(considered: &Considered) -> String {
    let Some(lost) = &considered.lost else { return String::new() };
    let why = code(&serde_json::to_value(lost).unwrap()["why"]);
    let numbers = match lost {
        Lost::ContextTooSmall { needed, has } => format!(" {needed} of {has}"),
        Lost::OutputTooSmall { has } => format!(" {has}"),
        Lost::LacksFeature { feature } => format!(" {}", feature.as_str()),
        _ => String::new(),
    };
    format!("; {} {why}{numbers}", considered.model)
}

fn show(choice: &Choice) -> String {
    let (head, explanation) = match choice {
        Choice::Call(route) => {
            let explanation = &route.explanation;
            assert_eq!(explanation.offers[0].model, route.offer.id, "the chosen one comes first");
            (format!("{} {}", route.offer.id, code(explanation.reason)), explanation)
        }
        Choice::Wait { until, park, explanation } => {
            let verb = if *park { "park" } else { "wait" };
            (format!("{verb} {:?}", until.since(NOW.mono)), explanation)
        }
        Choice::TooLate(explanation) => ("too late".to_owned(), explanation),
        Choice::Impossible(failure, explanation) => (code(failure.code), explanation),
    };
    let head = explanation.rule.iter().fold(head, |head, rule| format!("{head} by {rule}"));
    explanation.offers.iter().fold(head, |line, offer| line + &show_offer(offer))
}

/// Title, job, offers and expectation of each case.
fn cases() -> Vec<[&'static str; 4]> {
    let paragraph = |text: &'static str| {
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        <[&str; 4]>::try_from(lines).unwrap_or_else(|lines| panic!("not four lines: {lines:?}"))
    };
    CASES.trim_end().split("\n\n").map(paragraph).collect()
}

#[test]
fn each_case_is_explained_as_written() {
    let mut wrong = String::new();
    for [title, job, offers, expected] in cases() {
        let (asked, mut views) = (Asked::parse(job), parse_views(offers));
        let found = show(&choose(&asked.ask(), &views));
        views.reverse();
        let reversed = show(&choose(&asked.ask(), &views));
        for found in [found, reversed] {
            if format!("-> {found}") != expected {
                wrong += &format!("\n{title}\n  {job}\n  {offers}\n  {expected}\n  found: -> {found}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The table is worth something only while it is complete.
#[test]
fn every_reason_to_lose_and_every_outcome_has_a_case() {
    let expected: Vec<_> = cases().iter().map(|case| case[3]).collect();
    assert!(expected.len() >= 60, "{}", expected.len());
    let words = "not_allowed other_provider tier_too_low context_too_small output_too_small price_unknown \
        quarantined breaker_open failed_here invalid_here not_better further_up above_limit above_max_cost too_late dearer slower \
        lacks_feature too_unhurried closed below_quality_floor not_pinned not_explored explored best_below_floor pinned \
        cheapest_in_time cheapest only_eligible fastest_all_late escalated another_model wait park too context_length \
        no_eligible_model";
    for word in words.split_whitespace() {
        let is_told = |line: &&str| line.split([' ', ';']).any(|told| told == word);
        assert!(expected.iter().any(is_told), "no case for {word}");
    }
    assert!(expected.iter().any(|line| line.starts_with("-> price_unknown")));
}

/// Each line of `cures` removes the reason that is told, and the next one in order comes to light.
#[test]
fn reasons_are_told_in_order_of_precedence() {
    let mut job = Vec::from([
        "models=b",
        "task.models=b",
        "provider=q",
        "tier=large",
        "task.tier=large",
        "tools",
        "class=interactive",
        "max=9000",
        "bytes=400000",
        "capped",
        "failed=a",
        "invalid=a",
        "max_cost=0.0000001",
    ]);
    let mut offer = Vec::from([
        "a",
        "lacks=tools",
        "flex",
        "writes=8000",
        "context=100000",
        "$?",
        "quarantined",
        "wait=never",
        "open=10s,1s",
        "hours=01:00-02:00",
    ]);
    let cures = [
        ("not_allowed", "models=b"),
        ("not_allowed", "task.models=b"),
        ("other_provider", "provider=q"),
        ("tier_too_low", "tier=large"),
        ("tier_too_low", "task.tier=large"),
        ("lacks_feature tools", "tools"),
        ("too_unhurried", "flex"),
        ("output_too_small 8000", "max=9000"),
        ("context_too_small 100001 of 100000", "bytes=400000"),
        ("price_unknown", "capped"),
        ("price_unknown", "$?"),
        ("quarantined", "quarantined"),
        ("failed_here", "failed=a"),
        ("invalid_here", "invalid=a"),
        ("above_max_cost", "max_cost=0.0000001"),
        ("above_limit", "wait=never"),
        ("breaker_open", "open=10s,1s"),
        ("closed", "hours=01:00-02:00"),
    ];
    for (why, cure) in cures {
        let found = show(&choose(&Asked::parse(&job.join(" ")).ask(), &parse_views(&offer.join(" "))));
        assert!(found.ends_with(&format!("; a {why}")), "before {cure} is cured: {found}");
        job.retain(|word| *word != cure);
        offer.retain(|word| *word != cure);
    }
    let found = show(&choose(&Asked::parse(&job.join(" ")).ask(), &parse_views(&offer.join(" "))));
    assert_eq!(found, "a only_eligible");
}

fn route(job: &str, offers: &str) -> Route {
    match choose(&Asked::parse(job).ask(), &parse_views(offers)) {
        Choice::Call(route) => *route,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_hold_rests_on_the_caps_that_are_sent() {
    // 4,000 bytes, 16 for the message and 512 for the frame, each a token at worst.
    let capped = route("job max=1000", "a $1/2 expected=5000");
    assert_eq!((capped.input_tokens_max, capped.max_output_tokens), (4528, 1000));
    assert_eq!(capped.hold, NanoUsd(4_528_000 + 2_000_000));
    assert_eq!(capped.expected_output_tokens, 1000, "more than the cap is not to be expected");
    assert_eq!(capped.expected_cost, NanoUsd(1_000_000 + 2_000_000));
    // The job's own wish comes before the task's, the task's before the model's.
    assert_eq!(route("job max=10 task.max=20", "a").max_output_tokens, 10);
    assert_eq!(route("job task.max=20", "a").max_output_tokens, 20);
    assert_eq!(route("job", "a").max_output_tokens, 8000);
    assert_eq!(route("job", "a context=1500").max_output_tokens, 500, "what the window leaves");
    // Nothing but its window bounds what an unknown tokenizer makes of a text.
    assert_eq!(route("job", "a unknown-tokenizer").input_tokens_max, 100_000);
    assert_eq!(route("job", "a $?").hold, NanoUsd::ZERO, "nothing can be held at an unknown price");
}

#[test]
fn a_failure_names_every_offer_and_what_to_do() {
    let message = |job: &str, offers: &str| match choose(&Asked::parse(job).ask(), &parse_views(offers)) {
        Choice::Impossible(failure, _) => failure.message,
        other => panic!("{other:?}"),
    };
    assert_eq!(message("job", "none"), "no model may take this job: the catalogue is empty");
    assert_eq!(
        message("job capped models=a,b", "c | b $? | a $?"),
        "under a cap a model needs a price: set input_usd_per_mtok and output_usd_per_mtok for it \
         (task email.parse; a: its price is unknown; b: its price is unknown; c: not among the models allowed)"
    );
    assert_eq!(
        message("job bytes=8000 max=100", "a context=2000"),
        "no allowed model has room for prompt and answer \
         (task email.parse; a: needs 2100 tokens of context, has 2000)"
    );
}

#[test]
fn the_same_input_gives_the_same_route_each_time() {
    let views = parse_views("d | b takes=2s | a wait=1s | c $2 | e $? | f quarantined | g open=10s,1s");
    let asked = Asked::parse("job deadline=90s");
    let first = choose(&asked.ask(), &views);
    assert_eq!(
        show(&first),
        "d cheapest_in_time; a slower; b slower; c dearer; e price_unknown; f quarantined; g breaker_open"
    );
    for _ in 0..1000 {
        assert_eq!(choose(&asked.ask(), &views), first);
    }
}
