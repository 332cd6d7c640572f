#!/usr/bin/env bash
# Asks the HTTP API what its own description promises, with made-up input, and fails on any broken promise. `--help` says more.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: scripts/schemathesis.sh [SECONDS]

Starts `outlay admin` on loopback and runs Schemathesis against the document that it serves: no server
error, no status, media type or body that the document does not name. SECONDS (default: 60) is the time
for each of two runs: all but the queue over a new SQLite store with jobs in it, and the queue over a
database and a queue prefix of its own, where `scripts/services.sh up` finds or starts the services.

Environment:
  OUTLAY_BIN                  the binary to try (default: a debug build)
  CARGO_TARGET_DIR            where that is built (default: ~/.cache/outlay-target)
  OUTLAY_SCHEMATHESIS_VENV    where Schemathesis is kept (default: ~/.cache/outlay-schemathesis)
  OUTLAY_SCHEMATHESIS_QUEUE=0 leave the queue out

Needs python3 with venv; Schemathesis and pika come from the Python package index on the first run.
USAGE
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
    usage
    exit 0
fi
seconds=${1:-60}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${OUTLAY_SCHEMATHESIS_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/outlay-schemathesis}
if ! [[ -x $venv/bin/schemathesis ]] || ! "$venv/bin/python" -c 'import pika' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'schemathesis==4.32.*' 'pika==1.*'
fi

binary=${OUTLAY_BIN-}
if [[ -z $binary ]]; then
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/outlay-target}"
    cargo build --locked
    binary=$CARGO_TARGET_DIR/debug/outlay
fi

scratch=$(mktemp -d)
server="" database="" prefix="outlay-schemathesis-$$."

finish() {
    local status=$?
    stop_server
    if [[ -n $database ]]; then
        psql -q -d "$OUTLAY_TEST_POSTGRES_URL" -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" || true
        forget_queues || true
    fi
    rm -rf "$scratch"
    exit "$status"
}
trap finish EXIT

stop_server() {
    if [[ -n $server ]]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=""
    fi
}

# What was declared under the prefix of this run.
forget_queues() {
    "$venv/bin/python" - "$OUTLAY_TEST_AMQP_URL" "$prefix" <<'PYTHON'
import sys, pika
url, prefix = sys.argv[1:]
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
lanes = ["interactive", "standard", "bulk"]
steps = ["1s", "5s", "30s", "2m", "10m", "1h"]
names = [f"{kind}.{lane}" for kind in ("work", "spill", "dead") for lane in lanes]
names += ["feedback", "dead.feedback", "results"] + [f"delay.{step}" for step in steps]
for name in names:
    channel.queue_delete(prefix + name)
for name in ["jobs", "dead", "results"] + [f"delay.{step}" for step in steps]:
    channel.exchange_delete(prefix + name)
PYTHON
}

# try_api STORE SCHEMATHESIS_ARGUMENT...
try_api() {
    local store=$1 token url="" log=$scratch/admin.log
    shift
    token=$("$binary" token create --name schemathesis --role admin --store "$store" 2>/dev/null)
    : >"$log"
    "$binary" admin --listen 127.0.0.1:0 --json --store "$store" 2>"$log" &
    server=$!
    for _ in $(seq 300); do
        url=$(sed -n 's/^{"url":"\(.*\)"}$/\1/p' "$log")
        if [[ -n $url ]] && curl -fsS "$url/readyz" >/dev/null 2>&1; then break; fi
        sleep 0.1
    done
    # A token that is refused would make every answer a documented one.
    curl -fsS -H "Authorization: Bearer $token" "$url/v1/me" >/dev/null
    # One worker and one seed: what it finds is found again.
    if ! "$venv/bin/schemathesis" run "$url/v1/openapi.json" --header "Authorization: Bearer $token" \
        --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
        --phases examples,coverage,fuzzing --max-time "$seconds" --max-examples 40 --seed 1 --no-color \
        --generation-database none --suppress-health-check all --warnings off "$@"; then
        echo "scripts/schemathesis.sh: the end of the server's log:" >&2
        tail -n 20 "$log" >&2
        return 1
    fi
    stop_server
}

cat >"$scratch/jobs.jsonl" <<'JOBS'
{"id":"a","messages":[{"role":"user","content":"one"}]}
{"id":"b","messages":[{"role":"user","content":"two"}]}
JOBS
"$binary" run "$scratch/jobs.jsonl" -o "$scratch/out.jsonl" --store "sqlite:$scratch/outlay.db" >/dev/null 2>&1 || true
try_api "sqlite:$scratch/outlay.db" --exclude-tag queue

if [[ ${OUTLAY_SCHEMATHESIS_QUEUE-1} != 0 ]]; then
    services=$(scripts/services.sh up)
    eval "$services"
    database=outlay_schemathesis_$$
    psql -q -d "$OUTLAY_TEST_POSTGRES_URL" -c "CREATE DATABASE $database"
    cat >"$scratch/outlay.toml" <<TOML
[queue]
url = "$OUTLAY_TEST_AMQP_URL"
prefix = "$prefix"
TOML
    sed '1,/^\[queue\]/d; /^# url = /d; /^# prefix = /d' src/config/default.toml >>"$scratch/outlay.toml"
    export OUTLAY_CONFIG=$scratch/outlay.toml
    server_url=${OUTLAY_TEST_POSTGRES_URL#*://}
    try_api "postgres://${server_url%%/*}/$database" --include-tag queue
fi
