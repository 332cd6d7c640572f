//! Every route and every kind of caller, with the answer that is expected.

use std::collections::BTreeSet;

use hmac::{Hmac, Mac};
use outlay::policy::access::{hex, secret_hash};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{House, JsonBody as _, operations};

/// One line a route: method, path, then what a viewer, a producer, an admin and the admin of another project
/// get, and the body. `{attempt}` and its like are put in. Whoever has no token that is good gets 401
/// everywhere. Where there is no queue, whoever may use one gets 503.
const ROUTES: &str = r#"
GET  /me                                200 200 200 200
GET  /projects                          200 403 200 200
GET  /projects/{project}                200 403 200 403
POST /projects/{project}/pause          403 403 200 403 {"reason":"tea"}
POST /projects/{project}/resume         403 403 200 403 {}
GET  /projects/{project}/budget         200 403 200 403
PUT  /projects/{project}/budget         403 403 428 403 {"day_usd":"5","month_usd":null,"total_usd":"100"}
GET  /spend                             200 403 200 200
GET  /jobs                              200 403 200 200
POST /jobs                              403 503 503 403 {"project":"p","messages":[{"role":"user","content":"hello"}]}
GET  /jobs/{project}/{id}               200 403 200 403
POST /jobs/{project}/{id}/cancel        403 403 200 403 {}
GET  /jobs/{project}/{id}/result        200 200 200 403
POST /jobs/release                      403 403 409 403 {"project":"p"}
GET  /parked                            200 403 200 200
POST /feedback                          403 200 200 403 {"project":"p","job":"job-1","score":1}
GET  /dead-letters                      503 403 503 503
GET  /dead-letters/{id}                 503 403 503 503
POST /dead-letters/redrive              403 403 503 403 {"project":"p","all":true}
POST /dead-letters/discard              403 403 503 403 {"project":"p","all":true}
GET  /models                            200 403 200 200
GET  /models/{model}/prices             200 403 200 200
POST /models/{model}/quarantine         403 403 200 403 {"reason":"tea"}
POST /models/{model}/release            403 403 200 403 {}
GET  /breakers                          200 403 200 200
GET  /limits                            200 403 200 200
GET  /workers                           200 403 200 200
GET  /events                            200 403 200 200
GET  /ledger/check                      200 403 200 403
GET  /presumed                          200 403 200 200
POST /presumed/{attempt}/settle         403 403 200 404 {"amount_usd":"0.01","why":"the invoice"}
POST /presumed/{attempt}/void           403 403 409 404 {"why":"the invoice"}
"#;

struct Line<'a> {
    method: &'a str,
    path: &'a str,
    expected: Vec<u16>,
    body: Option<Value>,
}

fn lines() -> Vec<Line<'static>> {
    let read = |line: &'static str| {
        let (head, body) = line.find(" {\"").or_else(|| line.find(" {}")).map_or((line, None), |at| {
            (&line[..at], Some(serde_json::from_str(&line[at..]).expect("a body")))
        });
        let mut words = head.split_whitespace();
        let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
        let expected: Vec<u16> = words.map(|word| word.parse().expect("a status")).collect();
        assert_eq!(expected.len(), 4, "{line}");
        Line { method, path, expected, body }
    };
    ROUTES.lines().filter(|line| !line.is_empty()).map(read).collect()
}

impl House {
    async fn presumed_of(&self, project: &str) -> String {
        let found = self.get(&format!("/presumed?project={project}"), "admin").await.json();
        found["items"][0]["attempt"].as_str().expect("a presumed call").to_owned()
    }

    /// A session of somebody, put into the store: its cookie and its CSRF token.
    async fn session(&self, caller: &str) -> (String, String) {
        let secret = format!("session-of-{caller}");
        let (hash, token) = (secret_hash(&secret).0, secret_hash(self.token(caller)).0);
        let sql = "INSERT INTO console_session (hash, token_id, created_at, expires_at) \
                   SELECT ?1, token_id, 0, 9223372036854775807 FROM api_token WHERE hash = ?2";
        self.meddle(sql, &[&hash, &token]).await;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key will do");
        mac.update(b"outlay console csrf");
        (format!("outlay_session={secret}"), hex(&mac.finalize().into_bytes()))
    }

    async fn ask(&self, line: &Line<'_>, path: &str, caller: &str) -> u16 {
        let request = self.request(line.method, path, caller);
        let request = match &line.body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = self.send(request).await;
        if !answer.status.is_success() {
            let problem = answer.json();
            assert_eq!(answer.header("content-type"), "application/problem+json", "{} {path}", line.method);
            assert_eq!(problem["status"], answer.status.as_u16(), "{problem}");
            for field in ["type", "title", "detail", "instance"] {
                assert!(problem[field].is_string(), "{field} of {problem}");
            }
        }
        answer.status.as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_every_caller_as_the_table_says() {
    let house = House::new().await;
    let attempt = house.presumed_of("p").await;
    let path_of = |path: &str| {
        path.replace("{project}", "p")
            .replace("{id}", "job-1")
            .replace("{model}", "m")
            .replace("{attempt}", &attempt)
    };
    let (cookie, csrf) = house.session("admin").await;
    let mut wrong = Vec::new();
    for line in lines() {
        let path = path_of(line.path);
        let callers = ["viewer", "producer", "admin of q", "admin"];
        let order = [0, 1, 3, 2];
        for nobody in ["none", "expired", "revoked"] {
            let got = house.ask(&line, &path, nobody).await;
            if got != 401 {
                wrong.push(format!("{} {path} {nobody}: {got} and not 401", line.method));
            }
        }
        // A session without its CSRF token may look and change nothing.
        let without = house.request(line.method, &path, "none").header("cookie", &cookie);
        let without = match &line.body {
            Some(body) => without.json(body),
            None => without,
        };
        let got = house.send(without).await.status.as_u16();
        let expected = if line.method == "GET" { line.expected[2] } else { 403 };
        if got != expected {
            wrong.push(format!("{} {path} session without CSRF: {got} and not {expected}", line.method));
        }
        for (caller, column) in callers.into_iter().zip(order) {
            let got = house.ask(&line, &path, caller).await;
            if got != line.expected[column] {
                wrong.push(format!(
                    "{} {path} {caller}: {got} and not {}",
                    line.method, line.expected[column]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // With it, a session does what its token may.
    let pause = |site: &'static str| {
        let request = house.request("POST", "/projects/p/pause", "none").header("cookie", &cookie);
        request.header("x-csrf-token", &csrf).header("sec-fetch-site", site).json(&json!({}))
    };
    assert_eq!(house.send(pause("cross-site")).await.status, 403);
    assert_eq!(house.send(pause("same-origin")).await.status, 200);
    assert_eq!(house.get("/projects/p", "viewer").await.json()["stopped"], "paused by admin");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_has_every_route_of_the_document_and_no_other() {
    let house = House::new().await;
    let document = house.document().await;
    assert_eq!(document["openapi"], "3.1.0");
    let described: BTreeSet<String> =
        operations(&document).into_iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    let tabled: BTreeSet<String> =
        lines().iter().map(|line| format!("{} {}", line.method, line.path)).collect();
    assert_eq!(described, tabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_project_sees_and_changes_only_that() {
    let house = House::new().await;
    for (caller, own, other) in
        [("admin of p", "p", "q"), ("viewer of p", "p", "q"), ("admin of q", "q", "p")]
    {
        let projects = house.get("/projects", caller).await.json();
        let ids: Vec<_> =
            projects["items"].as_array().expect("items").iter().map(|item| &item["id"]).collect();
        assert_eq!(ids, [own]);
        for path in ["/jobs", "/parked", "/presumed", "/events", "/spend?by=task"] {
            let mine = house.get(path, caller).await;
            assert_eq!(mine.status, 200, "{caller} {path}: {}", mine.body);
            let separator = if path.contains('?') { '&' } else { '?' };
            let theirs = house.get(&format!("{path}{separator}project={other}"), caller).await;
            assert_eq!(theirs.status, 403, "{caller} {path}");
            let told = mine.json();
            for item in told["items"].as_array().expect("items") {
                assert!(item.get("project").is_none_or(|project| *project == own), "{caller} {path}: {item}");
            }
        }
        let account = house.get("/projects/%2A/budget", caller).await;
        assert_eq!(account.status, 403);
    }
    let presumed = house.presumed_of("q").await;
    let settle = json!({ "amount_usd": "0", "why": "mine" });
    let path = format!("/presumed/{presumed}/settle");
    assert_eq!(house.post(&path, "admin of p", settle.clone()).await.status, 404);
    assert_eq!(house.post(&path, "admin of q", settle).await.status, 200);
    let events = house.get("/events?what=presumed_settled", "viewer").await.json();
    assert_eq!(events["items"][0]["who"], "admin of q");
}

/// Whoever steals a viewer's token can change nothing, by any route: not a byte of the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_viewer_token_changes_nothing() {
    let house = House::new().await;
    let attempt = house.presumed_of("p").await;
    let before = house.dump().await;
    let mut tried = 0;
    for line in lines().iter().filter(|line| line.method != "GET") {
        for (project, model) in [("p", "m"), ("q", "far"), ("%2A", "m")] {
            let path = line.path.replace("{project}", project).replace("{id}", "job-1");
            let path = path.replace("{model}", model).replace("{attempt}", &attempt);
            for caller in ["viewer", "viewer of p"] {
                for key in [None, Some("once")] {
                    let request = house.request(line.method, &path, caller);
                    let request = request.json(line.body.as_ref().expect("a change has a body"));
                    let request = request.header("if-match", "*");
                    let request = match key {
                        Some(key) => request.header("idempotency-key", key),
                        None => request,
                    };
                    assert_eq!(house.send(request).await.status, 403, "{} {path}", line.method);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 100, "{tried}");
    let after = house.dump().await;
    assert!(before == after, "the store has changed:\n{}", difference(&before, &after));
}

fn difference(before: &str, after: &str) -> String {
    let before: BTreeSet<_> = before.lines().collect();
    let after: BTreeSet<_> = after.lines().collect();
    let gone = before.difference(&after).map(|line| format!("- {line}\n"));
    let new = after.difference(&before).map(|line| format!("+ {line}\n"));
    gone.chain(new).collect()
}
