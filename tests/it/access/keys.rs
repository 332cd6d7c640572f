//! `Idempotency-Key`, pages by cursor, throttling, headers.

use serde_json::json;

use super::{House, JsonBody as _};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_under_the_same_key_is_done_once() {
    let house = House::new().await;
    let pause = |caller: &'static str, key: &'static str, reason: &'static str| {
        let request = house.request("POST", "/projects/p/pause", caller).header("idempotency-key", key);
        house.send(request.json(&json!({ "reason": reason })))
    };
    let first = pause("admin", "k1", "tea").await;
    let again = pause("admin", "k1", "tea").await;
    assert_eq!((first.status.as_u16(), &first.body), (again.status.as_u16(), &again.body));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    assert_eq!(again.header("content-type"), "application/json");
    let other = pause("admin", "k1", "coffee").await;
    assert_eq!(
        (other.status.as_u16(), other.json()["type"].clone()),
        (422, json!("urn:outlay:problem:key-reused"))
    );
    // Another caller's key is another key, and what was refused may be tried again.
    assert_eq!(pause("admin of p", "k1", "coffee").await.status, 200);
    assert_eq!(pause("viewer", "k2", "tea").await.status, 403);
    let unknown = house.request("POST", "/projects/nobody/pause", "admin").header("idempotency-key", "k3");
    assert_eq!(house.send(unknown.json(&json!({}))).await.status, 404);
    assert_eq!(pause("admin", "k3", "tea").await.status, 200);
    assert_eq!(pause("admin", "a b", "tea").await.status, 400);
    let events = house.get("/events?what=project_stopped", "viewer").await.json();
    assert_eq!(events["items"].as_array().expect("items").len(), 3);

    let many = futures_util::future::join_all((0..8).map(|_| pause("admin", "k9", "all at once"))).await;
    assert!(many.iter().all(|answer| [200, 409].contains(&answer.status.as_u16())));
    let events = house.get("/events?what=project_stopped", "viewer").await.json();
    assert_eq!(events["items"].as_array().expect("items").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_join_up() {
    let house = House::new().await;
    for path in ["/jobs", "/events"] {
        let all = house.get(&format!("{path}?limit=500"), "viewer").await.json();
        let all = all["items"].as_array().expect("items").clone();
        assert!(all.len() >= 2, "{path} has too little to page through");
        let (mut paged, mut next) = (Vec::new(), None::<String>);
        loop {
            let cursor = next.map_or_else(String::new, |next| format!("&cursor={next}"));
            let page = house.get(&format!("{path}?limit=1{cursor}"), "viewer").await.json();
            paged.extend(page["items"].as_array().expect("items").iter().cloned());
            match page["next"].as_str() {
                Some(text) => next = Some(text.to_owned()),
                None => break,
            }
        }
        assert_eq!(paged, all, "{path}");
    }
    for wrong in ["cursor=%00", "cursor=abc", "limit=0", "limit=501", "limit=x", "colour=red"] {
        for path in ["/jobs", "/events"] {
            assert_eq!(house.get(&format!("{path}?{wrong}"), "viewer").await.status, 400, "{path} {wrong}");
        }
    }
}

/// Guessing is slow, and a token that is good is good from elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_throttled_by_address() {
    let house = House::new().await;
    let guess = || {
        let request = house.client.get(format!("{}/v1/me", house.url));
        house.send(request.bearer_auth(format!("outlay_{}", "0".repeat(64))))
    };
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(guess().await.status.as_u16());
    }
    assert_eq!(statuses[0], 401);
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    let shut = guess().await;
    assert!(shut.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    assert_eq!(house.get("/me", "admin").await.status, 429);
    // The whole of 127.0.0.0/8 is this machine, and only one address of it was guessing.
    let elsewhere = reqwest::Client::builder().local_address(std::net::IpAddr::from([127, 0, 0, 2]));
    let elsewhere = elsewhere.build().expect("a client").get(format!("{}/v1/me", house.url));
    assert_eq!(house.send(elsewhere.bearer_auth(house.token("admin"))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_its_headers_and_probes_need_no_token() {
    let house = House::new().await;
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/v1/openapi.json", 200),
        ("/v1/me", 401),
        ("/v1/none", 401),
        // Whoever is not signed in is asked to, whatever page it was.
        ("/none", 200),
    ] {
        let answer = house.send(house.client.get(format!("{}{path}", house.url))).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'; style-src 'self'"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        if status >= 400 {
            assert_eq!(answer.json()["instance"], path);
        }
    }
    assert!(house.get("/me", "none").await.header("www-authenticate").starts_with("Bearer"));
    assert_eq!(house.get("/none", "admin").await.status, 404);
    let method = house.send(house.request("DELETE", "/projects", "admin")).await;
    assert_eq!((method.status.as_u16(), method.header("allow")), (405, "GET,HEAD"));
}
