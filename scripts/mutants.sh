#!/usr/bin/env bash
# Builds outlay with rules in it that can be broken on purpose (src/mutants.rs). `--help` says more.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: scripts/mutants.sh        build, and print where the binary is

The tests of mutants call this where OUTLAY_MUTANTS_BIN doesn't name a binary that is there already.

Only the crates of this workspace are compiled again: `--cfg outlay_mutants` is given to them by a wrapper
around rustc and not by RUSTFLAGS, which would do as well and compile every dependency again. cargo keeps
what a wrapper made apart from what it made without, so neither build ever undoes the other; the binary
lies in a folder of its own, so that no ordinary one is ever replaced by it.

Environment:
  CARGO_TARGET_DIR   where ordinary builds go (default: ~/.cache/outlay-target)
USAGE
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
    usage
    exit 0
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
ordinary=${CARGO_TARGET_DIR:-$HOME/.cache/outlay-target}
export CARGO_BUILD_BUILD_DIR=$ordinary
export CARGO_TARGET_DIR=$ordinary/mutants
export RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/rustc-mutants.sh
# The benchmark is there for its dependencies: with those of tests, the others have the features that they
# have in a build of the tests, and are not compiled once more.
cargo build --locked --workspace --bin outlay --bench policy >&2
echo "$CARGO_TARGET_DIR/debug/outlay"
