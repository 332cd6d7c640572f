//! Caps over HTTP: versions, what is written down, and answers that are given again.

use rstest::rstest;
use serde_json::{Value, json};

use super::{House, JsonBody as _};

fn caps(day: &str) -> Value {
    json!({ "day_usd": day, "month_usd": null, "total_usd": "100" })
}

/// Of two admins who have seen the same caps, the second one hears of the first, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_admins_is_told_and_changes_nothing() {
    let house = House::new().await;
    let seen = house.get("/projects/p/budget", "viewer").await;
    let version = seen.header("etag").to_owned();
    assert_eq!(version, format!("\"{}\"", seen.json()["version"].as_str().expect("a version")));

    let put = |caller: &'static str, version: &str, day: &str| {
        house.request("PUT", "/projects/p/budget", caller).header("if-match", version).json(&caps(day))
    };
    let first = house.send(put("admin", &version, "7")).await;
    assert_eq!((first.status.as_u16(), first.json()["day_usd"].clone()), (200, json!("7")));
    let before = house.dump().await;
    let second = house.send(put("admin of p", &version, "9")).await;
    assert_eq!(second.status, 412);
    assert_eq!(second.json()["type"], "urn:outlay:problem:stale-version");
    let without = house.request("PUT", "/projects/p/budget", "admin").json(&caps("9"));
    assert_eq!(house.send(without).await.status, 428);
    assert_eq!(house.send(put("admin", "*", "9")).await.status, 412);
    assert_eq!(before, house.dump().await);

    let again = house.send(put("admin of p", first.header("etag"), "9")).await;
    assert_eq!(again.json()["day_usd"], "9");
    let events = house.get("/events?what=cap_set&project=p", "viewer").await.json();
    let told: Vec<_> = events["items"].as_array().expect("items").iter().take(2).collect();
    assert_eq!(told[0]["who"], "admin of p");
    assert_eq!(told[0]["detail"], json!({ "kind": "day", "from_usd": "7", "to_usd": "9" }));
    assert_eq!(told[1]["who"], "admin");
    assert_eq!(told[1]["detail"]["from_usd"], "5");
}

/// Eight admins at the same instant: one of them gets what he wants.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_exactly_one_wins() {
    let house = House::new().await;
    let version = house.get("/projects/p/budget", "admin").await.header("etag").to_owned();
    let put = |n: u32| {
        let request = house.request("PUT", "/projects/p/budget", "admin").header("if-match", &version);
        house.send(request.json(&caps(&format!("{}", 20 + n))))
    };
    let answers = futures_util::future::join_all((0..8).map(put)).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
    let events = house.get("/events?what=cap_set", "viewer").await.json();
    assert_eq!(events["items"].as_array().expect("items").len(), 1);
}

#[rstest]
#[case(r#"{"day_usd":"5","month_usd":null}"#, "total_usd")]
#[case(r#"{"day_usd":5,"month_usd":null,"total_usd":null}"#, "day_usd")]
#[case(r#"{"day_usd":"-5","month_usd":null,"total_usd":null}"#, "day_usd")]
#[case(r#"{"day_usd":"1e3","month_usd":null,"total_usd":null}"#, "day_usd")]
#[case(r#"{"day_usd":"0.0000000001","month_usd":null,"total_usd":null}"#, "day_usd")]
#[case(r#"{"day_usd":"5","month_usd":null,"total_usd":null,"year_usd":null}"#, "year_usd")]
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_field_is_named(#[case] body: &'static str, #[case] field: &str) {
    let house = House::new().await;
    let request = house.request("PUT", "/projects/p/budget", "admin").header("if-match", "\"x\"");
    let answer = house.send(request.header("content-type", "application/json").body(body)).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    let problem = answer.json();
    assert!(problem["detail"].as_str().expect("a text").contains(field), "{problem}");
    assert!(problem["fields"][0]["field"].is_string(), "{problem}");
}
