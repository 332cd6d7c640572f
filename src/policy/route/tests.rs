//! The rules of the choice as a table, one case a paragraph; then what holds for any input.
//!
//! A paragraph is a title, the job, its offers and the expected explanation. What a notation leaves
//! out is what `Job::parse` and `offer` below start from: a prompt of 4,000 bytes (1,000 tokens are
//! expected, 4,528 at most), answers of 100 tokens after a second, $1 per million tokens.

use proptest::prelude::*;

use super::*;
use crate::types::catalogue::{Prices, Tokenizer};
use crate::types::job::{Content, Message, Request, Role, Terms};
use crate::types::{JobKey, PicoUsdPerToken};

const NOW: Now = Now { mono: Mono(1_000_000_000_000), wall: Wall(1_700_000_000_000_000) };

const CASES: &str = include_str!("cases.txt");

/// A job and everything an [`Ask`] borrows.
struct Asked {
    job: Job,
    task: TaskRules,
    deadline: Option<Wall>,
    capped: bool,
    committed: NanoUsd,
    failed_on: Vec<ModelId>,
    invalid: Vec<Invalid>,
}

impl Asked {
    fn ask(&self) -> Ask<'_> {
        Ask {
            job: &self.job,
            task: &self.task,
            deadline: self.deadline,
            capped: self.capped,
            committed: self.committed,
            failed_on: &self.failed_on,
            invalid: &self.invalid,
            now: NOW,
        }
    }

    fn parse(words: &str) -> Self {
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
            "deadline" => self.deadline = Some(NOW.wall + span(value)),
            "overdue" => self.deadline = Some(NOW.wall - span(value)),
            "capped" => self.capped = true,
            "committed" => self.committed = NanoUsd::parse_cap(value).unwrap(),
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
            ("at", _) => offer.provider = value.into(),
            ("tier", _) => offer.tier = tier(value),
            ("context", _) => offer.context_tokens = value.parse().unwrap(),
            ("writes", _) => offer.max_output_tokens = value.parse().unwrap(),
            ("unknown-tokenizer", _) => offer.tokenizer = Tokenizer::Unknown,
            ("wait", _) if value == "never" => view.wait = Wait::Never,
            ("wait", _) => view.wait = Wait::For(span(value)),
            ("takes", _) => view.latency = span(value),
            ("expected", _) => view.expected_output_tokens = value.parse().unwrap(),
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

fn parse_views(text: &str) -> Vec<OfferView> {
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
    assert!(expected.len() >= 35, "{}", expected.len());
    let words = "not_allowed other_provider tier_too_low context_too_small output_too_small price_unknown \
        quarantined breaker_open failed_here invalid_here not_better further_up above_limit above_max_cost too_late dearer slower \
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
        "max=9000",
        "bytes=400000",
        "capped",
        "failed=a",
        "invalid=a",
        "max_cost=0.0000001",
    ]);
    let mut offer =
        Vec::from(["a", "writes=8000", "context=100000", "$?", "quarantined", "wait=never", "open=10s,1s"]);
    let cures = [
        ("not_allowed", "models=b"),
        ("not_allowed", "task.models=b"),
        ("other_provider", "provider=q"),
        ("tier_too_low", "tier=large"),
        ("tier_too_low", "task.tier=large"),
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
        message("job capped models=a,b", "c | b quarantined | a $?"),
        "under a cap a model needs a price: set input_usd_per_mtok and output_usd_per_mtok for it \
         (task email.parse; a: its price is unknown; b: stopped for everyone; c: not among the models allowed)"
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

prop_compose! {
    fn any_view()(
        price in proptest::option::weighted(0.9, (0i64..5_000_000, 0i64..5_000_000, 0i64..5_000_000)),
        (wait_ms, takes_ms) in (0u64..5, 0u64..5),
        (context, writes, expected) in (1u64..20_000, 1u32..10_000, 0u32..20_000),
        (quarantined, open, unknown) in (proptest::bool::weighted(0.1), proptest::bool::weighted(0.1), any::<bool>()),
    ) -> OfferView {
        let mut offer = offer("");
        offer.prices = price.map(|(input, write, output)| Prices {
            cache_write: PicoUsdPerToken(write),
            ..prices(input, output)
        });
        (offer.context_tokens, offer.max_output_tokens) = (context, writes);
        if unknown {
            offer.tokenizer = Tokenizer::Unknown;
        }
        let mut view = OfferView { quarantined, expected_output_tokens: expected, ..view(offer) };
        view.wait = Wait::For(Duration::from_millis(wait_ms));
        view.latency = Duration::from_millis(takes_ms);
        if open {
            view.health = Health::Open { until: NOW.mono + Duration::from_secs(1), since: NOW.mono, hard: false };
        }
        view
    }
}

proptest! {
    /// Never dearer than another one in time, and never above what is held for it.
    #[test]
    fn the_chosen_offer_is_the_cheapest_in_time_and_its_hold_covers_it(
        mut views in proptest::collection::vec(any_view(), 1..12),
        bytes in 0u64..20_000,
        max in proptest::option::of(1u32..5_000),
        left_ms in proptest::option::of(0u64..9),
        capped in any::<bool>(),
    ) {
        for (n, view) in views.iter_mut().enumerate() {
            Arc::make_mut(&mut view.offer).id = format!("m{n}").into();
        }
        let mut asked = Asked::parse("job");
        asked.job.request_bytes = bytes;
        asked.job.request.max_output_tokens = max;
        asked.capped = capped;
        asked.deadline = left_ms.map(|left| NOW.wall + Duration::from_millis(left));
        let Choice::Call(route) = choose(&asked.ask(), &views) else { return Ok(()) };
        prop_assert!(route.hold >= route.expected_cost);
        prop_assert!(route.expected_output_tokens <= route.max_output_tokens);
        let offers = &route.explanation.offers;
        prop_assert_eq!(offers.len(), views.len());
        prop_assert!(offers[0].lost.is_none() && offers[1..].iter().all(|offer| offer.lost.is_some()));
        let in_time = |offer: &&Considered| offer.finish_ms.is_some_and(|ms| left_ms.is_none_or(|left| ms <= left));
        if offers.iter().any(|offer| in_time(&offer)) {
            prop_assert!(in_time(&&offers[0]));
            for other in offers.iter().filter(in_time) {
                // Without a cost its price is unknown, and that is dearer than any.
                let cost = |offer: &Considered| offer.cost.unwrap_or(NanoUsd::MAX);
                prop_assert!(cost(&offers[0]) <= cost(other), "{:?} before {other:?}", offers[0]);
            }
        } else {
            prop_assert!(offers.iter().all(|offer| offer.finish_ms.is_none_or(|ms| Some(ms) >= offers[0].finish_ms)));
        }
    }

    /// After invalid answers none of those models is asked again, and the next tier up comes first.
    #[test]
    fn after_an_invalid_answer_no_better_model_in_time_is_passed_over(
        mut views in proptest::collection::vec((any_view(), 0u8..3, proptest::bool::weighted(0.3)), 1..12),
        left_ms in proptest::option::of(0u64..9),
    ) {
        let mut asked = Asked::parse("job");
        asked.deadline = left_ms.map(|left| NOW.wall + Duration::from_millis(left));
        for (n, (view, rank, invalid)) in views.iter_mut().enumerate() {
            let offer = Arc::make_mut(&mut view.offer);
            offer.id = format!("m{n}").into();
            offer.tier = [Tier::Small, Tier::Medium, Tier::Large][usize::from(*rank)];
            if *invalid {
                asked.invalid.push(Invalid { model: offer.id.clone(), why: String::new() });
            }
        }
        let bar = views.iter().filter(|(.., invalid)| *invalid).map(|(view, ..)| view.offer.tier).max();
        let views: Vec<_> = views.into_iter().map(|(view, ..)| view).collect();
        let Choice::Call(route) = choose(&asked.ask(), &views) else { return Ok(()) };
        prop_assert!(asked.invalid.iter().all(|invalid| invalid.model != route.offer.id));
        prop_assert_eq!(&route.explanation.invalid, &asked.invalid);
        let Some(bar) = bar else { return Ok(()) };
        let in_time = |offer: &&Considered| offer.finish_ms.is_some_and(|ms| left_ms.is_none_or(|left| ms <= left));
        let tier = |model: &ModelId| views.iter().find(|view| view.offer.id == *model).map(|view| view.offer.tier);
        let better = route.explanation.offers.iter().filter(in_time).filter_map(|offer| tier(&offer.model));
        if let Some(next) = better.filter(|tier| *tier > bar).min() {
            prop_assert_eq!(route.offer.tier, next);
        }
    }
}
