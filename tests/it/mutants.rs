//! Each rule that the promise rests on is broken once, and what judges a run notices it.
//!
//! The mutants are in one binary of their own (`scripts/mutants.sh`), which keeps every rule until its
//! environment names one to break. Each scenario runs twice on that binary: with the mutant, where the
//! judge has to name the check that fails, and without, where everything has to hold.

mod scenes;
mod stage;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What names the rule to break; no ordinary binary knows it.
const VARIABLE: &str = "OUTLAY_MUTANT";

/// The binary with the mutants in it, built where the environment names none.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("OUTLAY_MUTANTS_BIN") {
            return given.into();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/mutants.sh");
        let done = Command::new(script).output().expect("the script");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().into()
    })
}

fn knows_mutants(binary: &Path) -> bool {
    let bytes = std::fs::read(binary).expect("a binary");
    bytes.windows(VARIABLE.len()).any(|window| window == VARIABLE.as_bytes())
}

#[test]
fn no_ordinary_binary_contains_a_mutant() {
    let ordinary = Path::new(env!("CARGO_BIN_EXE_outlay"));
    assert!(!knows_mutants(ordinary), "{} can break its rules", ordinary.display());
    assert!(knows_mutants(binary()), "{} is not what the mutants are looked for in", binary().display());
}

#[test]
fn a_mutant_that_is_not_there_is_not_run_as_if_it_were() {
    let run = |name: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let store = format!("sqlite:{}", folder.path().join("a.db").display());
        let line = r#"{"id":"a","project":"p","messages":[{"role":"user","content":"hello"}]}"#;
        let jobs = folder.path().join("jobs.jsonl");
        std::fs::write(&jobs, line).expect("a file");
        let out = folder.path().join("out.jsonl");
        Command::new(binary())
            .args(["run", "--store", &store, "--max-cost", "1"])
            .arg("-o")
            .args([&out, &jobs])
            .env(VARIABLE, name)
            .output()
            .expect("a run")
    };
    // Whoever adds one adds the scenario that catches it.
    const CAUGHT: &str = "refund_on_timeout, reaper_refunds, ack_first, no_state_guard, asynchronous_commit, \
                          check_then_increment";
    let said = |name: &str| String::from_utf8_lossy(&run(name).stderr).into_owned();
    let refused = said("no_such_rule");
    assert!(refused.contains(&format!("there is no such mutant; there are {CAUGHT}\n")), "{refused}");
    assert!(!said("").contains("mutant"), "{}", said(""));
}
