//! What holds of a choice for any input.

use proptest::prelude::*;

use super::*;

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
