//! Tokens and keys are seen by nobody: not in logs, answers, events, the document, or the store.

use outlay::policy::access::{hex, secret_hash};
use serde_json::json;

use super::{House, JsonBody as _, PROVIDER_KEY, operations};

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_or_answered_anywhere() {
    let house = House::new().await;
    let mut seen = String::new();
    for (method, path, _) in operations(&house.document().await) {
        let path = path.replace("{project}", "p").replace("{id}", "job-1").replace("{model}", "far");
        let path = path.replace("{attempt}", "0190b0a0-0000-7000-8000-000000000000");
        for caller in ["none", "viewer", "producer", "admin", "expired", "revoked"] {
            let request =
                house.request(&method, &path, caller).header("cookie", "outlay_session=stolen-secret-cookie");
            // A token where none belongs, too.
            let body = json!({ "reason": house.token("admin"), "token": house.token("admin") });
            let request = if method == "GET" { request } else { request.json(&body) };
            let answer = house.send(request).await;
            seen.push_str(&format!("{} {:?} {}\n", answer.status, answer.headers, answer.body));
        }
    }
    let wrong = house.client.get(format!("{}/v1/me", house.url)).bearer_auth("outlay_mistyped-secret");
    seen.push_str(&house.send(wrong).await.body);
    seen.push_str(&house.document().await.to_string());
    seen.push_str(&house.get("/events?limit=500", "admin").await.body);
    for args in [&["token", "list", "--json"][..], &["config", "show"], &["token", "list"]] {
        let printed = house.outlay(args);
        seen.push_str(&String::from_utf8_lossy(&printed.stdout));
        seen.push_str(&String::from_utf8_lossy(&printed.stderr));
    }
    let log = house.log();
    assert!(log.contains("somebody named a token that does not exist"), "the log is not looked at: {log}");
    seen.push_str(&log);
    let dump = house.dump().await;
    for (name, token) in &house.tokens {
        assert!(token.starts_with("outlay_") && token.len() == 71, "{name}");
        assert!(!seen.contains(token.as_str()), "the token {name} was seen");
        assert!(!seen.contains(&hex(&secret_hash(token).0)), "the hash of {name} was seen");
        assert!(!dump.contains(token.as_str()), "the store has the token {name}");
        assert!(dump.to_lowercase().contains(&hex(&secret_hash(token).0)), "the store lacks {name}");
    }
    for secret in [PROVIDER_KEY, "mistyped-secret", "stolen-secret-cookie"] {
        assert!(!seen.contains(secret) && !dump.contains(secret), "{secret} was seen");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_token_ends_what_was_begun_with_it() {
    let house = House::new().await;
    assert_eq!(house.get("/me", "admin of p").await.status, 200);
    let listed = house.outlay(&["token", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let rows = listed.as_array().expect("rows");
    let row = rows.iter().find(|row| row["name"] == "admin of p").expect("there");
    assert!(row["last_used_at"].is_string(), "{row}");
    let id = row["id"].as_str().expect("an id");
    assert!(house.outlay(&["token", "revoke", id]).status.success());
    let answer = house.get("/me", "admin of p").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["detail"].clone()),
        (401, json!("this token was revoked"))
    );
    let events = house.get("/events?what=token_revoked", "viewer").await.json();
    assert_eq!(events["items"][0]["detail"]["name"], "admin of p");
    // Its name is free again; a name that is in use is not.
    let again = house.outlay(&["token", "create", "--name", "admin of p", "--role", "viewer"]);
    assert!(again.status.success());
    let taken = house.outlay(&["token", "create", "--name", "admin", "--role", "viewer"]);
    assert_eq!(taken.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&taken.stderr).contains("outlay token revoke"));
}
