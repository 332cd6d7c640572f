//! The rules of ARCHITECTURE.md, checked against the sources of this repository.
//!
//! Rules are tables at the top; the checks below them are pure functions over `(path, text)`, so that
//! `tidy/rules.rs` can show each rule a small offence and the allowed form beside it. Sources are read as tokens, not as
//! text: a comment or a string literal never offends. Code under `#[cfg(test)]` may do what production code may not,
//! except be too long or leave something unfinished; so may code under `#[cfg(outlay_mutants)]`, which breaks rules.
//!
//! This is a reader of tokens, not a compiler: it doesn't follow re-exports or macros. `clippy.toml` bans what needs
//! name resolution.

mod paths;
mod rules;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, fs, path::Path};

use paths::{crate_paths, module_path};
use tokens::{Token, is_word, lex, starts_with, without_tests};

const LINES_MAX: usize = 500;

/// Root module and the root modules that it may name besides itself; `*` is all of them.
const LAYERS: &[(&str, &[&str])] = &[
    ("lib", &["*"]),
    ("main", &["cli", "app"]),
    // Only `app` knows which adapter stands behind a port, so commands name neither adapters nor engine.
    ("cli", &["app", "config", "telemetry", "ports", "policy", "types"]),
    ("app", &["*"]),
    ("engine", &["ports", "policy", "types"]),
    ("adapters", &["ports", "policy", "types"]),
    ("admin", &["chart", "ports", "policy", "types"]),
    ("telemetry", &["ports", "policy", "types"]),
    // Figures in, pictures out: it knows nothing of jobs or money, so that any page can use it.
    ("chart", &[]),
    ("config", &["policy", "types"]),
    ("mutants", &["config"]),
    ("ports", &["policy", "types"]),
    ("policy", &["types"]),
    ("types", &[]),
];

/// The one adapter that others may name: HTTP helpers with no provider in them.
const SHARED_ADAPTER: &str = "wire";

/// Vendor crate, the only places under `src/` that may name it, and why.
const VENDOR_HOMES: &[(&str, &[&str], &str)] = &[
    ("sqlx", &["adapters/postgres", "adapters/sqlite"], "rows and pools stop at the store adapters"),
    ("lapin", &["adapters/rabbitmq"], "channels and delivery tags stop at the queue adapter"),
    (
        "reqwest",
        &["adapters/wire", "adapters/openai", "adapters/anthropic", "adapters/gemini", "adapters/webhook"],
        "HTTP stops at the providers and webhooks",
    ),
    ("jsonschema", &["policy/validate"], "what makes an answer valid is decided in one place"),
    (
        "governor",
        &["policy/admission", "admin/auth/throttle"],
        "limits of providers are decided in one place, and so is who fails too often to be listened to",
    ),
    ("backoff", &["policy/backoff"], "waits are computed in one place"),
    ("axum", &["admin"], "only the admin API serves HTTP"),
    ("axum_extra", &["admin"], "only the admin API serves HTTP"),
    ("tower", &["admin"], "only the admin API serves HTTP"),
    ("tower_http", &["admin"], "only the admin API serves HTTP"),
    ("utoipa", &["admin"], "the API is described where it is served"),
    ("utoipa_axum", &["admin"], "the API is described where it is served"),
    ("askama", &["admin/console"], "pages are written in one place"),
    ("tokio_rustls", &["admin/tls"], "clients bring their own TLS; this is the only server"),
    ("metrics", &["telemetry"], "what is counted is decided in one place"),
    ("metrics_exporter_prometheus", &["telemetry"], "what is counted is decided in one place"),
    ("opentelemetry", &["telemetry"], "what is traced is decided in one place"),
    ("opentelemetry_otlp", &["telemetry"], "what is traced is decided in one place"),
    ("opentelemetry_sdk", &["telemetry"], "what is traced is decided in one place"),
    ("anyhow", &["main", "cli", "app"], "a library error has a type that callers can branch on"),
    ("indicatif", &["cli"], "only the command line draws"),
    ("comfy_table", &["cli"], "only the command line draws"),
    ("plotters", &["chart"], "pictures are drawn in one place"),
    ("plotters_backend", &["chart"], "pictures are drawn in one place"),
    ("clap", &["cli", "main"], "arguments become Config before anything else sees them"),
    (
        "rand",
        &["adapters/simulated", "adapters/secrets", "engine"],
        "a decision is repeatable; only simulation, jitter and secrets draw",
    ),
    ("clap_complete", &["cli"], "arguments become Config before anything else sees them"),
    ("sd_notify", &["app/systemd"], "a service manager is told in one place"),
    (
        "schemars",
        &["config", "types", "policy/guard"],
        "what the configuration may hold is described in one place",
    ),
    ("csv", &["policy/reconcile"], "bills are read in one place"),
    (
        "rand_distr",
        &["adapters/simulated", "engine"],
        "a decision is repeatable; only simulation and jitter draw",
    ),
];

/// Tokens that may not occur `within` some places, `except` in others.
struct Bans {
    within: &'static [&'static str],
    except: &'static [&'static str],
    in_tests_too: bool,
    banned: &'static [(&'static str, &'static str)],
}

const BANS: &[Bans] = &[
    Bans {
        within: &["src/policy", "src/types"],
        except: &[],
        in_tests_too: false,
        banned: &[
            ("async", "a question that needs I/O is not policy"),
            ("::now(", "time is an argument"),
            (".elapsed(", "it reads the clock; time is an argument"),
            ("Mutex", "policy is owned by its caller, which holds the lock"),
            ("RwLock", "policy is owned by its caller, which holds the lock"),
            ("std::env", "the environment is read by config, once"),
            ("rand::", "the same question gets the same answer"),
        ],
    },
    Bans {
        within: &[
            "src/types/money",
            "src/policy/price",
            "src/policy/budget*",
            "src/adapters/sqlite",
            "src/adapters/postgres",
        ],
        except: &[],
        in_tests_too: false,
        banned: &[("f64", "money is a whole number"), ("f32", "money is a whole number")],
    },
    Bans {
        within: &["src"],
        except: &["src/engine/tasks"],
        in_tests_too: false,
        banned: &[
            ("tokio::spawn", "engine/tasks.rs owns every task, so that a drain can wait for it"),
            ("task::spawn", "engine/tasks.rs owns every task, so that a drain can wait for it"),
        ],
    },
    Bans {
        within: &["src", "tests"],
        except: &[],
        in_tests_too: true,
        banned: &[
            ("todo!", "finish it or leave it out"),
            ("unimplemented!", "finish it or leave it out"),
            ("dbg!", "use tracing"),
            ("#[ignore", "a test that doesn't run tests nothing"),
            ("thread::sleep", "wait for the event, not for a while"),
        ],
    },
    Bans {
        within: &["src", "tests", "loadtest", "benches", "examples"],
        except: &[],
        in_tests_too: true,
        banned: &[
            ("#[allow(", "use #[expect(.., reason = \"..\")], which complains when it is no longer needed"),
            ("#![allow(", "use #![expect(.., reason = \"..\")], which complains when it is no longer needed"),
        ],
    },
];

#[test]
fn sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "loadtest", "benches", "examples", "sql"] {
        list_files(root, folder, &mut files);
    }
    assert!(files.iter().any(|path| path == "src/lib.rs"), "no sources under {}", root.display());

    let mut offences = check_migrations(&files);
    for path in files.iter().filter(|path| path.ends_with(".rs")) {
        let text = fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        offences.extend(check_source(path, &text));
    }
    let list: String = offences.iter().map(|offence| format!("\n{offence}")).collect();
    assert!(offences.is_empty(), "{} offences:{list}", offences.len());
}

/// Appends the files under `folder` as paths relative to `root`, `/`-separated and sorted; a missing folder is empty.
fn list_files(root: &Path, folder: &str, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return;
    };
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("folder is readable")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if !entry.path().is_dir() {
            files.push(path);
        } else if !path.ends_with("/target") {
            list_files(root, &path, files);
        }
    }
}

#[derive(Debug)]
struct Offence {
    path: String,
    line: usize,
    what: String,
    why: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Offence { path, line, what, why } = self;
        write!(f, "{path}:{line}: {what} — {why}")
    }
}

fn offence(path: &str, line: usize, what: impl Into<String>, why: impl Into<String>) -> Offence {
    Offence { path: path.into(), line, what: what.into(), why: why.into() }
}

fn check_source(path: &str, text: &str) -> Vec<Offence> {
    let all = lex(text);
    let is_exempt = path.ends_with("/tests.rs") || path.contains("/tests/") || path.ends_with("/mutants.rs");
    let production = if is_exempt { Vec::new() } else { without_tests(&all) };
    let mut offences = check_shape(path, text);
    offences.extend(check_bans(path, &all, &production));
    if path.starts_with("src/") {
        offences.extend(check_layers(path, &production));
        offences.extend(check_vendors(path, &production));
        offences.extend(check_mutants(path, &all));
    }
    offences
}

/// Broken rules are added by the whole statement or file and never by `not`, so that whoever takes them out by eye
/// sees what an ordinary build has.
fn check_mutants(path: &str, all: &[Token<'_>]) -> Vec<Offence> {
    let named = |at: &usize| all[*at].text == "outlay_mutants";
    let is_file = path.ends_with("/mutants.rs");
    let forms = if is_file { "#![cfg(outlay_mutants)]" } else { "#[cfg(outlay_mutants)]" };
    let form = lex(forms);
    let allowed = |at: usize| at.checked_sub(form.len() - 3).is_some_and(|at| starts_with(&all[at..], &form));
    let places: Vec<usize> = (0..all.len()).filter(named).collect();
    let mut offences: Vec<_> = places
        .iter()
        .filter(|&&at| !allowed(at))
        .map(|&at| offence(path, all[at].line, "`outlay_mutants`", format!("here only as `{forms}`")))
        .collect();
    if is_file && places.is_empty() {
        offences.push(offence(path, 1, "mutants in every build", format!("it lacks `{forms}`")));
    }
    offences
}

fn check_shape(path: &str, text: &str) -> Vec<Offence> {
    let mut offences = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX && !path.starts_with("examples/") {
        let why = format!("a file has at most {LINES_MAX}; split it by idea");
        offences.push(offence(path, lines, format!("{lines} lines"), why));
    }
    if path.starts_with("src/") && !text.starts_with("//!") {
        offences.push(offence(path, 1, "no `//!` docs", "a module begins by saying what it is for"));
    }
    offences
}

fn check_bans(path: &str, all: &[Token<'_>], production: &[Token<'_>]) -> Vec<Offence> {
    let mut offences = Vec::new();
    for bans in BANS.iter().filter(|b| lies_in(path, b.within) && !lies_in(path, b.except)) {
        let tokens = if bans.in_tests_too { all } else { production };
        for (banned, why) in bans.banned {
            let pattern = lex(banned);
            let hits = (0..tokens.len()).filter(|&at| starts_with(&tokens[at..], &pattern));
            offences.extend(hits.map(|at| offence(path, tokens[at].line, format!("`{banned}`"), *why)));
        }
    }
    offences
}

/// `src/a/b` holds `src/a/b.rs` and everything in `src/a/b/`; `src/a/b*` whatever begins so.
fn lies_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| match place.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path.strip_prefix(place).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')),
    })
}

fn check_layers(path: &str, tokens: &[Token<'_>]) -> Vec<Offence> {
    let inner = path.strip_prefix("src/").unwrap_or(path);
    let module = inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs");
    let Some((_, may_name)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![offence(
            path,
            1,
            format!("root module `{module}`"),
            "it has no row in LAYERS (tests/it/tidy.rs)",
        )];
    };
    let own_adapter = module_path(path).get(1).copied();
    let mut offences = Vec::new();
    for (line, named) in crate_paths(path, tokens) {
        let Some(&target) = named.first() else {
            continue;
        };
        let other = named.get(1).copied().unwrap_or("*");
        if target != module && !may_name.contains(&target) && !may_name.contains(&"*") {
            let why = format!("`{module}` may name only {may_name:?}");
            offences.push(offence(path, line, format!("`crate::{target}`"), why));
        } else if target == module
            && module == "adapters"
            && own_adapter.is_some_and(|own| own != other && other != SHARED_ADAPTER)
        {
            let why = "an adapter never names another adapter";
            offences.push(offence(path, line, format!("`crate::adapters::{other}`"), why));
        }
    }
    // `use crate::x::{self, y}` names x twice.
    offences.dedup_by(|a, b| (a.line, &a.what) == (b.line, &b.what));
    offences
}

fn check_vendors(path: &str, tokens: &[Token<'_>]) -> Vec<Offence> {
    let own_paths = crate_paths(path, tokens);
    let mut offences = Vec::new();
    for (vendor, homes, why) in VENDOR_HOMES {
        let homes: Vec<String> = homes.iter().map(|home| format!("src/{home}")).collect();
        if lies_in(path, &homes.iter().map(String::as_str).collect::<Vec<_>>()) {
            continue;
        }
        // `backoff` is a crate and one of our modules: where the module is in scope, the bare name means it.
        let is_ours = own_paths.iter().any(|(_, named)| named.contains(vendor))
            || tokens.windows(2).any(|pair| pair[0].text == "mod" && pair[1].text == *vendor);
        for at in (0..tokens.len()).filter(|&at| tokens[at].text == *vendor) {
            let before = |n: usize| at.checked_sub(n).map_or("", |at| tokens[at].text);
            let is_head = match before(1) {
                // `::sqlx` is the crate whatever is in scope, `rows::sqlx` is something else.
                "::" if before(2) == "use" => true,
                "::" => !before(2).starts_with(|c: char| is_word(c) || c == '>'),
                "use" | "crate" => !is_ours,
                _ => !is_ours && tokens.get(at + 1).is_some_and(|token| token.text == "::"),
            };
            if is_head {
                offences.push(offence(path, tokens[at].line, format!("`{vendor}`"), *why));
            }
        }
    }
    offences
}

/// Each dialect's migrations are numbered 0001, 0002, .. and every dialect has the same ones.
fn check_migrations(paths: &[String]) -> Vec<Offence> {
    let mut dialects: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for path in paths.iter().filter(|path| path.starts_with("sql/") && path.ends_with(".sql")) {
        let (folder, name) = path.rsplit_once('/').expect("path begins with sql/");
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            dialects.entry(folder).or_default().insert(name);
        }
    }
    let every: BTreeSet<&str> = dialects.values().flatten().copied().collect();
    let mut offences = Vec::new();
    for (folder, names) in &dialects {
        for name in every.difference(names) {
            let why = "another dialect has it; a store behaves the same on each";
            offences.push(offence(&format!("{folder}/{name}"), 1, "missing migration", why));
        }
        for (name, number) in names.iter().zip(1..) {
            if !name.starts_with(&format!("{number:04}_")) {
                let why = format!("expected {number:04}_: numbers are four digits, unique and without a gap");
                offences.push(offence(&format!("{folder}/{name}"), 1, "migration number", why));
                break; // every later number would be reported too
            }
        }
    }
    offences
}
