#!/usr/bin/env bash
# Brings up what the tests need, runs all of them and fails if one fails. `--help` says more.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: scripts/test.sh [CARGO_TEST_ARGUMENT...]

Makes sure that RabbitMQ and PostgreSQL answer (`scripts/services.sh up`, whose --help says how), then
runs `cargo test --workspace --locked` with REQUIRE_SERVICES=1, which turns a test that would be skipped
without them into a failure. Reports are looked at in Chromium, which is installed if it is missing and
this runs as root on Debian. Arguments are passed on, so `scripts/test.sh tidy` runs the tests with
`tidy` in their name. Without services, `cargo test` alone runs the rest.

Environment:
  CARGO_TARGET_DIR                                 where builds go (default: ~/.cache/outlay-target)
  OUTLAY_TEST_POSTGRES_URL, OUTLAY_TEST_AMQP_URL   services to use instead of looking for them
  OUTLAY_TEST_CHROMIUM                             browser to use instead of looking for one
  OUTLAY_MUTANTS_BIN                               what scripts/mutants.sh printed, so that no test builds it

Needs cargo and a C compiler, because SQLite and aws-lc are built from source.
USAGE
}

# need COMMAND... -- WHAT: stops unless one of the commands exists; WHAT tells the user what to install.
need() {
    local command
    while [[ $1 != -- ]]; do
        command=$1
        shift
        if command -v "$command" >/dev/null; then return; fi
    done
    echo "scripts/test.sh: $2" >&2
    exit 2
}

has_browser() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name" >/dev/null; then return; fi
    done
    [[ -n ${OUTLAY_TEST_CHROMIUM-} ]]
}

install_browser() {
    echo "scripts/test.sh: installing the package chromium" >&2
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; } >&2
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
    usage
    exit 0
fi

need cargo -- "cargo is missing; install Rust from https://rustup.rs"
# The cc crate takes $CC first, then the usual names.
need ${CC:+"${CC%% *}"} cc gcc clang -- \
    "a C compiler is missing; install one (Debian, Ubuntu: apt install build-essential; Fedora: dnf install gcc; macOS: xcode-select --install)"

if ! has_browser && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then install_browser || true; fi
if ! has_browser; then
    need chromium -- \
        "no Chromium; install it (Debian: apt install chromium; macOS: brew install --cask chromium) or set OUTLAY_TEST_CHROMIUM"
fi

# A folder outside the checkout survives `git clean` and is shared by several checkouts.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/outlay-target}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Apart from the eval, which would hide its failure.
services=$(scripts/services.sh up)
eval "$services"
export REQUIRE_SERVICES=1
exec cargo test --workspace --locked "$@"
