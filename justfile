# Recipes for development; `just` alone lists them.

# The same build folder as scripts/test.sh, so that nothing is built twice.
export CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", home_directory() / ".cache/outlay-target")

[private]
default:
    @just --list

# Everything that CI checks, without the release build.
check: && test doc deny
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# All tests of the workspace; arguments go to `cargo test`.
test *ARGS:
    scripts/test.sh {{ ARGS }}

# The documentation, where a broken link is an error.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Licences, banned crates and sources of the dependencies, if cargo-deny is installed.
deny:
    @if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
    else echo "skipped: cargo-deny is not installed (cargo install --locked cargo-deny)"; fi

# Faults against private services, such as `just drill workers_killed 100`; names are those of tests/it/e2e/faults.rs.
drill NAME ROUNDS="25":
    OUTLAY_DRILL_ROUNDS={{ ROUNDS }} REQUIRE_SERVICES=1 cargo test --release --locked --test it e2e::faults::{{ NAME }} -- --nocapture

# Benchmarks; arguments go to `cargo bench`.
bench *ARGS:
    cargo bench --locked {{ ARGS }}

# The README's first command, with a store and an output of its own.
run-example *ARGS:
    #!/usr/bin/env bash
    set -euo pipefail
    out=$(mktemp -d)
    cargo run --release --locked -- run examples/inbox.jsonl --store "sqlite:$out/example.db" -o "$out/results.jsonl" {{ ARGS }}
    echo "results: $out/results.jsonl"

# Format every source file.
fmt:
    cargo fmt --all
