#!/usr/bin/env bash
# Brings up what the tests need, runs all of them and fails if one fails. `--help` says more.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: scripts/test.sh [CARGO_TEST_ARGUMENT...]

Makes sure that RabbitMQ and PostgreSQL answer (`scripts/services.sh up`, whose --help says how), then
runs `cargo test --workspace --locked` with REQUIRE_SERVICES=1, which turns a test that would be skipped
without them into a failure. Reports and the console are looked at in Chromium, moved by chromedriver; both
are installed if they are missing and this runs as root on Debian. axe-core, which checks accessibility, is
fetched with npm into ~/.cache/outlay-test-tools, which is outside the checkout. Arguments are passed on, so `scripts/test.sh tidy` runs the tests with
`tidy` in their name. Without services, `cargo test` alone runs the rest.

Environment:
  CARGO_TARGET_DIR                                 where builds go (default: ~/.cache/outlay-target)
  OUTLAY_TEST_POSTGRES_URL, OUTLAY_TEST_AMQP_URL   services to use instead of looking for them
  OUTLAY_TEST_CHROMIUM                             browser to use instead of looking for one
  OUTLAY_TEST_CHROMEDRIVER, OUTLAY_TEST_AXE        as well: what moves it, and a copy of axe.min.js
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

has_driver() {
    command -v chromedriver >/dev/null || [[ -n ${OUTLAY_TEST_CHROMEDRIVER-} ]]
}

install_browser() {
    echo "scripts/test.sh: installing the packages chromium and chromium-driver" >&2
    {
        apt-get update -q &&
            DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium chromium-driver
    } >&2
}

# What checks accessibility, of a version that is known: new rules must not fail an old commit.
axe_version=4.14.1
fetch_axe() {
    local folder=$HOME/.cache/outlay-test-tools
    local package=$folder/node_modules/axe-core/package.json
    if [[ -n ${OUTLAY_TEST_AXE-} ]] || grep -q "\"version\": \"$axe_version\"" "$package" 2>/dev/null; then return; fi
    need npm -- "npm is missing, which fetches axe-core (Debian: apt install npm); or set OUTLAY_TEST_AXE to its axe.min.js"
    echo "scripts/test.sh: fetching axe-core $axe_version" >&2
    mkdir -p "$folder"
    npm install --prefix "$folder" --silent --no-audit --no-fund --ignore-scripts "axe-core@$axe_version" >&2
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
    usage
    exit 0
fi

need cargo -- "cargo is missing; install Rust from https://rustup.rs"
# The cc crate takes $CC first, then the usual names.
need ${CC:+"${CC%% *}"} cc gcc clang -- \
    "a C compiler is missing; install one (Debian, Ubuntu: apt install build-essential; Fedora: dnf install gcc; macOS: xcode-select --install)"

if ! { has_browser && has_driver; } && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    install_browser || true
fi
if ! has_browser; then
    need chromium -- \
        "no Chromium; install it (Debian: apt install chromium; macOS: brew install --cask chromium) or set OUTLAY_TEST_CHROMIUM"
fi

if ! has_driver; then
    need chromedriver -- \
        "no chromedriver; install it (Debian: apt install chromium-driver; macOS: brew install chromedriver) or set OUTLAY_TEST_CHROMEDRIVER"
fi
fetch_axe

# A folder outside the checkout survives `git clean` and is shared by several checkouts.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/outlay-target}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Apart from the eval, which would hide its failure.
services=$(scripts/services.sh up)
eval "$services"
export REQUIRE_SERVICES=1
exec cargo test --workspace --locked "$@"
