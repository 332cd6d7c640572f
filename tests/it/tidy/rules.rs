//! Every rule fires on a small offence and stays silent on the allowed form.

use super::*;

/// Asserts what `check_source` says of `text` at `path`: `line: what` for each offence. Line 1 is the module's docs.
#[track_caller]
fn check(path: &str, text: &str, expected: &[&str]) {
    let offences = check_source(path, &format!("//! Docs.\n{text}"));
    let said: Vec<_> = offences.iter().map(|o| format!("{}: {}", o.line, o.what)).collect();
    assert_eq!(said, expected, "{path}: {text}");
}

/// One case a line: path, code, and what is wrong with it, if anything.
#[track_caller]
fn check_table(table: &str) {
    for row in table.lines().filter(|row| !row.trim().is_empty()) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [path, code, what] = cells[..] else { panic!("not three cells: {row}") };
        let expected = [&*format!("2: `{what}`")];
        check(path, code, &expected[usize::from(what.is_empty())..]);
    }
}

#[test]
fn layers() {
    check_table(
        "
        src/types/money.rs    | use crate::types::ids::JobId;                       |
        src/types/money.rs    | use crate::policy::price;                           | crate::policy
        src/policy/route.rs   | use crate::{policy::price, types::{ids, money}};    |
        src/policy/route.rs   | use crate::{types::ids, ports::{self, clock}};      | crate::ports
        src/policy/route.rs   | use super::price;                                   |
        src/policy/route.rs   | use super::super::ports::clock;                     | crate::ports
        src/policy/mod.rs     | use super::engine;                                  | crate::engine
        src/policy/mod.rs     | use super::*;                                       | crate::*
        src/policy/route.rs   | pub(crate) fn f() {} // crate::engine               |
        src/policy/route.rs   | const A: &str = \"crate::engine\";                  |
        src/ports/ledger.rs   | fn f(a: crate::policy::budget::Hold) {}             |
        src/ports/ledger.rs   | fn f(a: &crate::engine::Fleet) {}                   | crate::engine
        src/engine/process.rs | use crate::ports::ledger::Ledger;                   |
        src/engine/process.rs | use crate::config::Config;                          | crate::config
        src/engine/process.rs | use crate::adapters::sqlite::Store;                 | crate::adapters
        src/adapters/clock.rs | use crate::engine::tasks;                           | crate::engine
        src/admin/mod.rs      | use crate::adapters::clock;                         | crate::adapters
        src/telemetry.rs      | use crate::config::Config;                          | crate::config
        src/config/raw.rs     | use crate::ports::queue;                            | crate::ports
        src/config/raw.rs     | use crate::policy::breaker;                         |
        src/cli/run.rs        | use crate::{app, types::job};                       |
        src/cli/run.rs        | use crate::engine::fleet;                           | crate::engine
        src/main.rs           | fn main() { outlay::cli::main() }                   |
        src/main.rs           | fn main() { outlay::engine::run() }                 | crate::engine
        src/app.rs            | use crate::{adapters::sqlite, engine, config};      |
        ",
    );
    check("src/policy/route.rs", "use crate::{\n    types,\n    ports,\n};", &["4: `crate::ports`"]);
    check("src/util.rs", "", &["1: root module `util`"]);
}

#[test]
fn adapters_do_not_name_each_other() {
    check_table(
        "
        src/adapters/openai.rs        | use crate::adapters::wire::post;         |
        src/adapters/openai/stream.rs | use super::Client;                       |
        src/adapters/openai/stream.rs | use crate::adapters::openai::Key;        |
        src/adapters/openai.rs        | use crate::adapters::gemini::Key;        | crate::adapters::gemini
        src/adapters/openai.rs        | use super::{clock, wire};                | crate::adapters::clock
        src/adapters/openai/stream.rs | use super::super::gemini;                | crate::adapters::gemini
        src/adapters/wire.rs          | use crate::adapters::openai;             | crate::adapters::openai
        src/adapters/mod.rs           | pub use crate::adapters::sqlite::Store;  |
        ",
    );
}

#[test]
fn vendors_stay_at_home() {
    for (vendor, homes, _) in VENDOR_HOMES {
        let text = format!("use {vendor}::Thing;");
        check("src/lib.rs", &text, &[&format!("2: `{vendor}`")]);
        for home in *homes {
            check(&format!("src/{home}.rs"), &text, &[]);
        }
    }
    check_table(
        "
        src/adapters/sqlite/rows.rs | #[derive(sqlx::FromRow)] struct Row;             |
        src/ports/ledger.rs         | #[derive(sqlx::FromRow)] struct Row;             | sqlx
        src/ports/ledger.rs         | use sqlx;                                        | sqlx
        src/ports/ledger.rs         | fn f(e: &::sqlx::Error) {}                       | sqlx
        src/policy/price.rs         | fn f(rand: u64) { g(rand); self.rand.h() }       |
        tests/it/cli.rs             | use anyhow::Result;                              |
        ",
    );
}

#[test]
fn our_backoff_module_is_not_the_backoff_crate() {
    check_table(
        "
        src/engine/a.rs   | use crate::policy::{backoff, price}; fn f() { backoff::wait() }  |
        src/engine/a.rs   | fn f() { crate::policy::backoff::wait() }                        |
        src/policy/mod.rs | pub mod backoff; pub use backoff::wait;                          |
        src/engine/a.rs   | fn f() { backoff::wait() }                                       | backoff
        src/engine/a.rs   | use crate::policy::backoff as b; use ::backoff::Never;           | backoff
        ",
    );
}

#[test]
fn policy_is_pure() {
    for path in ["src/policy/route.rs", "src/types/time.rs"] {
        check(path, "async fn f() {}", &["2: `async`"]);
        check(path, "fn f() { Instant::now() }", &["2: `::now(`"]);
        check(path, "fn f() { start.elapsed() }", &["2: `.elapsed(`"]);
        check(path, "use std::sync::Mutex;", &["2: `Mutex`"]);
        check(path, "struct S { a: std::sync::RwLock<u8> }", &["2: `RwLock`"]);
        check(path, "fn f() { std::env::var(\"A\") }", &["2: `std::env`"]);
        check(path, "fn f() { now.elapsed_ms(then); limiter.now() } /* async */ // Mutex", &[]);
    }
    check("src/policy/route.rs", "fn f() { rand::random() }", &["2: `rand::`", "2: `rand`"]);
    check("src/engine/process.rs", "async fn f(a: Mutex<u8>) {}", &[]);
}

#[test]
fn money_is_never_a_float() {
    for path in [
        "src/types/money.rs",
        "src/policy/price.rs",
        "src/policy/budget.rs",
        "src/policy/budget_window.rs",
        "src/adapters/sqlite/ledger.rs",
        "src/adapters/postgres.rs",
    ] {
        check(path, "fn f(a: f64) {}", &["2: `f64`"]);
        check(path, "const A: u8 = 1_f32 as u8;", &["2: `f32`"]);
        check(path, "fn f(a: i64, b: u128) -> u32 { 0xf64 }", &[]);
    }
    check("src/policy/latency.rs", "fn f(a: f64) {}", &[]);
}

#[test]
fn tasks_are_spawned_in_one_place() {
    check("src/engine/consumer.rs", "fn f() { tokio::spawn(g()) }", &["2: `tokio::spawn`"]);
    check("src/adapters/sqlite.rs", "fn f() { task::spawn(g()) }", &["2: `task::spawn`"]);
    check("src/engine/tasks.rs", "fn f() { tokio::spawn(g()); tokio::task::spawn(g()) }", &[]);
    check("src/adapters/sqlite.rs", "fn f() { tokio::task::spawn_blocking(g); tasks.spawn(g) }", &[]);
    check("tests/it/sim.rs", "fn f() { tokio::spawn(g()) }", &[]);
}

#[test]
fn nothing_is_left_over() {
    for path in ["src/engine/process.rs", "tests/it/sim.rs"] {
        check(path, "fn f() { todo!() }", &["2: `todo!`"]);
        check(path, "fn f() { unimplemented!(\"x\") }", &["2: `unimplemented!`"]);
        check(path, "fn f() { dbg!(1); }", &["2: `dbg!`"]);
        check(path, "#[ignore = \"slow\"]\nfn f() {}", &["2: `#[ignore`"]);
        check(path, "fn f() { std::thread::sleep(d) }", &["2: `thread::sleep`"]);
        check(path, "#[cfg(test)]\nmod tests {\n    #[ignore]\n    fn f() {}\n}", &["4: `#[ignore`"]);
        check(path, "// todo!()\nfn f() { tokio::time::sleep(d); \"dbg!\" }", &[]);
    }
    for path in ["src/engine/process.rs", "tests/it/sim.rs", "loadtest/src/main.rs", "benches/route.rs"] {
        check(path, "#[allow(dead_code)]\nfn f() {}", &["2: `#[allow(`"]);
        check(path, "#![allow(dead_code)]", &["2: `#![allow(`"]);
        check(path, "#[expect(dead_code, reason = \"why\")]\nfn f() {}", &[]);
    }
}

#[test]
fn files_are_short_and_documented() {
    for (path, lines, is_long) in [
        ("src/engine/process.rs", 500, false),
        ("src/engine/process.rs", 501, true),
        ("tests/it/sim.rs", 501, true),
        ("loadtest/src/main.rs", 501, true),
        ("benches/route.rs", 501, true),
    ] {
        let offences = check_source(path, &"//!\n".repeat(lines));
        let said: Vec<_> = offences.iter().map(|o| o.what.as_str()).collect();
        assert_eq!(said, if is_long { vec!["501 lines"] } else { vec![] }, "{path}");
    }
    assert_eq!(check_source("src/app.rs", "use std::fmt;\n//! Docs.")[0].what, "no `//!` docs");
    assert!(check_source("tests/it/sim.rs", "use std::fmt;").is_empty());
}

#[test]
fn test_items_are_exempt_and_the_code_after_them_is_not() {
    let path = "src/policy/route.rs";
    check(path, "#[cfg(test)]\nmod tests {\n    async fn f() { g(\"}\") }\n}", &[]);
    check(
        path,
        "#[cfg(test)]\n#[expect(x)]\nmod tests { async fn f() {} }\nstatic A: Mutex<u8>;",
        &["5: `Mutex`"],
    );
    check(path, "#[cfg(test)]\nmod tests;\nasync fn f() {}", &["4: `async`"]);
    check(path, "#[cfg(test)]\nfn f(a: [u8; 4]) -> Mutex<u8> { g() }\nasync fn h() {}", &["4: `async`"]);
    check(path, "#[cfg(not(test))]\nasync fn f() {}", &["3: `async`"]);
    check("src/policy/route/tests.rs", "async fn f() {}", &[]);
}

#[test]
fn a_broken_rule_is_a_whole_statement_and_never_in_an_ordinary_build() {
    let path = "src/policy/verdict.rs";
    check(
        path,
        "fn f() {\n    #[cfg(outlay_mutants)]\n    if crate::mutants::a() { return; }\n    b()\n}",
        &[],
    );
    check(path, "fn f() { if crate::mutants::a() { return; } }", &["2: `crate::mutants`"]);
    check(path, "#[cfg(not(outlay_mutants))]\nfn f() {}", &["2: `outlay_mutants`"]);
    check(path, "fn f() { if cfg!(outlay_mutants) { g() } }", &["2: `outlay_mutants`"]);
    let file = "src/adapters/postgres/mutants.rs";
    check(file, "#![cfg(outlay_mutants)]\nuse crate::mutants::Mutant;", &[]);
    check(file, "use crate::mutants::Mutant;", &["1: mutants in every build"]);
}

#[test]
fn literals_and_comments_are_not_code() {
    let texts = |text| lex(text).iter().map(|token| token.text).collect::<Vec<_>>().join(" ");
    assert_eq!(texts("a /* b /* c */ d */ e // f\ng"), "a e g");
    assert_eq!(
        texts(r##"f("\"a", r#"b"c"#, b"d", b'e', '\'', '"', br"\")"##),
        r#"f ( "" , "" , "" , "" , "" , "" , "" )"#
    );
    assert_eq!(
        texts("fn f<'a>(x: &'a str, r#type: u8) { 1_f64 + 0xf32 }"),
        "fn f < ' a > ( x : & ' a str , r # type : u8 ) { 1_ f64 + 0xf32 }"
    );
    assert_eq!(lex("\"a\n\\\nb\"\n/*\n*/ c").last().map(|token| token.line), Some(5));
}

#[test]
fn migrations_are_consecutive_and_the_same_in_every_dialect() {
    let check = |paths: &[&str], expected: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| format!("sql/{path}")).collect();
        let offences = check_migrations(&paths);
        let said: Vec<_> = offences.iter().map(|o| format!("{}: {}", o.path, o.what)).collect();
        assert_eq!(said, expected, "{paths:?}");
    };
    check(&["sqlite/0001_a.sql", "sqlite/0002_b.sql", "sqlite/begin.sql"], &[]);
    check(&["sqlite/0001_a.sql", "postgres/0001_a.sql", "postgres/begin.sql"], &[]);
    check(&["sqlite/0001_a.sql", "postgres/begin.sql"], &[]);
    check(
        &["sqlite/0001_a.sql", "postgres/0001_a.sql", "postgres/0002_b.sql"],
        &["sql/sqlite/0002_b.sql: missing migration"],
    );
    check(&["sqlite/0001_a.sql", "sqlite/0003_c.sql"], &["sql/sqlite/0003_c.sql: migration number"]);
    check(&["sqlite/0001_a.sql", "sqlite/0001_b.sql"], &["sql/sqlite/0001_b.sql: migration number"]);
    check(&["sqlite/001_a.sql"], &["sql/sqlite/001_a.sql: migration number"]);
}

#[test]
fn an_offence_names_its_place_and_its_reason() {
    let offences = check_source("src/policy/route.rs", "//! Docs.\nasync fn f() {}");
    let expected = "src/policy/route.rs:2: `async` — a question that needs I/O is not policy";
    assert_eq!(offences[0].to_string(), expected);
}
