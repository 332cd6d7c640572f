//! Tokens, sessions, keys and pages: what both stores answer, one operation a line.

use std::sync::Arc;

use outlay::adapters::{postgres, sqlite};
use outlay::policy::access::{caps_version, secret_hash};
use outlay::ports::access::{Claim, KeptAnswer, NewToken, RequestKey, TokenMade, TokenRevoked};
use outlay::ports::directory::{CapsSet, ProjectSeed};
use outlay::ports::records::EventPage;
use outlay::ports::{Access, Directory, Records, StoreMode};
use outlay::types::NanoUsd;
use outlay::types::access::{Role, TokenId};
use outlay::types::ledger::{Caps, OnCap};
use uuid::Uuid;

use crate::support::database::Database;
use crate::support::{TestClock, key, wall};

const START: &str = "2026-11-21T12:00:00Z";

struct Stand {
    clock: Arc<TestClock>,
    access: Arc<dyn Access>,
    directory: Arc<dyn Directory>,
    records: Arc<dyn Records>,
    /// What goes with the store.
    _keeps: (Option<tempfile::TempDir>, Option<Database>),
}

impl Stand {
    async fn sqlite() -> Option<Self> {
        let (clock, folder) = (TestClock::at(START), tempfile::tempdir().expect("a folder"));
        let path = folder.path().join("outlay.db").display().to_string();
        let store = sqlite::Store::open(&path, StoreMode::Create, Arc::<TestClock>::clone(&clock)).await;
        let store = Arc::new(store.expect("a store"));
        let (access, directory, records) = (Arc::clone(&store), Arc::clone(&store), store);
        Some(Self { clock, access, directory, records, _keeps: (Some(folder), None) }.seeded().await)
    }

    async fn postgres() -> Option<Self> {
        let (clock, database) = (TestClock::at(START), Database::new().await?);
        let store =
            postgres::Store::open(&database.url(), StoreMode::Create, Arc::<TestClock>::clone(&clock)).await;
        let store = Arc::new(store.expect("a store").on_callers_clock());
        let (access, directory, records) = (Arc::clone(&store), Arc::clone(&store), store);
        Some(Self { clock, access, directory, records, _keeps: (None, Some(database)) }.seeded().await)
    }

    async fn seeded(self) -> Self {
        let seed = |id: &str| ProjectSeed {
            id: id.into(),
            time_zone: "UTC".into(),
            on_cap: OnCap::Park,
            uncapped: false,
            caps: Caps { day: Some(NanoUsd(5)), ..Caps::default() },
        };
        self.directory.seed_projects(&[seed("p"), seed("q")]).await.expect("seeded");
        self
    }

    async fn make(&self, name: &str, project: Option<&str>) -> TokenMade {
        self.make_of(name, name, project).await
    }

    async fn make_of(&self, secret: &str, name: &str, project: Option<&str>) -> TokenMade {
        let token = NewToken {
            id: TokenId(Uuid::now_v7()),
            hash: secret_hash(secret),
            name: name.to_owned(),
            role: Role::Admin,
            project: project.map(Into::into),
            expires_at: None,
        };
        self.access.create_token(&token, "ann").await.expect("an answer")
    }

    async fn made(&self, name: &str) -> TokenId {
        match self.make(name, None).await {
            TokenMade::Made(row) => row.id,
            other => panic!("{other:?}"),
        }
    }
}

macro_rules! on_both {
    ($($case:ident,)*) => {
        mod sqlite_store {
            $(#[tokio::test] async fn $case() { super::$case(super::Stand::sqlite().await.expect("a store")).await })*
        }
        mod postgres_store {
            $(#[tokio::test] async fn $case() {
                if let Some(stand) = super::Stand::postgres().await {
                    super::$case(stand).await
                }
            })*
        }
    };
}

on_both! { tokens, sessions, keys, caps_at_once, pages_and_notes, }

async fn tokens(s: Stand) {
    let id = s.made("ci").await;
    assert!(matches!(s.make("ci", None).await, TokenMade::NameTaken(taken) if taken == id));
    assert_eq!(s.make("other", Some("nobody")).await, TokenMade::UnknownProject);
    assert_eq!(s.access.find_token(&secret_hash("no")).await.expect("an answer"), None);

    let found = s.access.find_token(&secret_hash("ci")).await.expect("an answer").expect("there");
    assert_eq!((found.id, found.last_used_at, found.created_by.as_str()), (id, None, "ann"));
    // Its use is written down once a minute.
    let used = async |s: &Stand| {
        s.access.find_token(&secret_hash("ci")).await.expect("an answer").expect("there").last_used_at
    };
    assert_eq!(used(&s).await, Some(wall(START)));
    s.clock.forward(59);
    assert_eq!(used(&s).await, Some(wall(START)));
    assert_eq!(used(&s).await, Some(wall(START)));
    s.clock.forward(1);
    assert_eq!(used(&s).await, Some(wall(START)));
    assert_eq!(used(&s).await, Some(wall("2026-11-21T12:01:00Z")));

    assert!(matches!(s.access.revoke_token(id, "bob").await, Ok(TokenRevoked::Revoked(_))));
    assert!(matches!(s.access.revoke_token(id, "bob").await, Ok(TokenRevoked::Already(_))));
    let nobody = TokenId(Uuid::now_v7());
    assert_eq!(s.access.revoke_token(nobody, "bob").await, Ok(TokenRevoked::Unknown));
    let rows = s.access.tokens().await.expect("rows");
    assert_eq!(rows.iter().map(|row| row.revoked_at.is_some()).collect::<Vec<_>>(), [true]);
    // The name is free again.
    assert!(matches!(s.make_of("new", "ci", None).await, TokenMade::Made(_)));
    let events = s.directory.events(3).await.expect("events");
    let told: Vec<_> = events.iter().map(|event| (event.what.as_str(), event.who.as_str())).collect();
    assert_eq!(told, [("token_created", "ann"), ("token_revoked", "bob"), ("token_created", "ann")]);
}

async fn sessions(s: Stand) {
    let id = s.made("ann's").await;
    let (hash, until) = (secret_hash("cookie"), wall("2026-11-21T13:00:00Z"));
    s.access.open_session(&hash, id, until).await.expect("open");
    let found = async |s: &Stand| s.access.find_session(&hash).await.expect("an answer").map(|row| row.id);
    assert_eq!(found(&s).await, Some(id));
    s.clock.set("2026-11-21T13:00:00Z");
    assert_eq!(found(&s).await, None);
    s.clock.set(START);
    s.access.close_session(&hash).await.expect("closed");
    s.access.close_session(&hash).await.expect("closed");
    assert_eq!(found(&s).await, None);
    s.access.open_session(&hash, id, until).await.expect("open");
    s.access.revoke_token(id, "bob").await.expect("revoked");
    assert_eq!(found(&s).await, None);
}

async fn keys(s: Stand) {
    let key = |key: &str| RequestKey { token: TokenId(Uuid::nil()), key: key.to_owned() };
    let answer = KeptAnswer { status: 200, content_type: "application/json".into(), body: b"{}".to_vec() };
    let claim = async |s: &Stand, word: &str, body: u8| {
        s.access.claim(&key(word), &[body; 32]).await.expect("an answer")
    };
    assert_eq!(claim(&s, "a", 1).await, Claim::Yours);
    assert_eq!(claim(&s, "a", 1).await, Claim::UnderWay);
    assert_eq!(claim(&s, "a", 2).await, Claim::Other);
    s.access.remember(&key("a"), &answer).await.expect("kept");
    assert_eq!(claim(&s, "a", 1).await, Claim::Answered(answer.clone()));
    assert_eq!(claim(&s, "a", 2).await, Claim::Other);
    // Nothing was done: it may come again. What was answered is not forgotten so.
    assert_eq!(claim(&s, "b", 1).await, Claim::Yours);
    s.access.forget(&key("b")).await.expect("forgotten");
    s.access.forget(&key("a")).await.expect("an answer");
    assert_eq!(claim(&s, "b", 2).await, Claim::Yours);
    assert_eq!(claim(&s, "a", 1).await, Claim::Answered(answer));
    // Whoever handled it is gone.
    s.clock.forward(119);
    assert_eq!(claim(&s, "b", 2).await, Claim::UnderWay);
    s.clock.forward(1);
    assert_eq!(claim(&s, "b", 2).await, Claim::Yours);
    s.clock.forward(86_400);
    s.access.tidy().await.expect("tidied");
    assert_eq!(claim(&s, "a", 2).await, Claim::Yours);
}

async fn caps_at_once(s: Stand) {
    let seen = Caps { day: Some(NanoUsd(5)), ..Caps::default() };
    let new = Caps { day: Some(NanoUsd(7)), month: Some(NanoUsd(70)), total: None };
    let p = "p".into();
    assert_eq!(s.directory.set_caps(&p, seen, new, "ann").await, Ok(CapsSet::Done));
    assert_eq!(s.directory.set_caps(&p, seen, seen, "bob").await, Ok(CapsSet::Stale(new)));
    assert_eq!(s.directory.set_caps(&"nobody".into(), seen, new, "bob").await, Ok(CapsSet::Unknown));
    let projects = s.directory.projects().await.expect("projects");
    assert_eq!(projects[0].caps, new);
    assert_ne!(caps_version(&p, &seen), caps_version(&p, &new));
    let windows = s.directory.windows(&p).await.expect("windows");
    let caps: Vec<_> = windows.iter().map(|window| window.cap).collect();
    assert_eq!(caps, [new.day, new.month, new.total]);
    // Only what has changed is an event.
    let events = s.directory.events(10).await.expect("events");
    assert_eq!(events.iter().filter(|event| event.what == "cap_set").count(), 2);
    // The account has caps as well, whether or not somebody spoke of it before.
    let account = outlay::types::ProjectId::account();
    let all = Caps { total: Some(NanoUsd(9)), ..Caps::default() };
    assert_eq!(s.directory.set_caps(&account, Caps::default(), all, "ann").await, Ok(CapsSet::Done));
    assert_eq!(s.directory.set_caps(&account, Caps::default(), all, "ann").await, Ok(CapsSet::Stale(all)));
}

async fn pages_and_notes(s: Stand) {
    for n in 0..3 {
        s.directory.set_stopped(&"p".into(), Some(&format!("{n}")), "ann").await.expect("stopped");
    }
    s.directory.set_stopped(&"q".into(), Some("x"), "bob").await.expect("stopped");
    let all = EventPage { what: Some("project_stopped".into()), ..EventPage::default() };
    let found = s.records.event_page(&all, 2).await.expect("events");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].1.subject, "q");
    let rest = EventPage { before: Some(found[1].0), ..all.clone() };
    assert_eq!(s.records.event_page(&rest, 10).await.expect("events").len(), 2);
    let of_p = EventPage { project: Some("p".into()), ..all.clone() };
    assert_eq!(s.records.event_page(&of_p, 10).await.expect("events").len(), 3);
    let by_bob = EventPage { who: Some("bob".into()), ..EventPage::default() };
    assert_eq!(s.records.event_page(&by_bob, 10).await.expect("events").len(), 1);

    assert!(!s.records.was_submitted(&key("p", "a")).await.expect("an answer"));
    s.records.note_submitted(&key("p", "a")).await.expect("noted");
    s.records.note_submitted(&key("p", "a")).await.expect("noted");
    assert!(s.records.was_submitted(&key("p", "a")).await.expect("an answer"));
    s.clock.forward(86_400);
    s.access.tidy().await.expect("tidied");
    assert!(!s.records.was_submitted(&key("p", "a")).await.expect("an answer"));
}
