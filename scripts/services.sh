#!/usr/bin/env bash
# RabbitMQ and PostgreSQL for the tests: finds or starts them, and breaks private ones on request. `--help` says more.
# shellcheck disable=SC2016  # what stands in single quotes is for an inner shell
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: scripts/services.sh up                       make sure that both answer; prints lines for `eval`
       scripts/services.sh down                     stop what `up` started, and nothing else
       scripts/services.sh ctl PROGRAM ARG...       rabbitmqctl and the like, on the broker of `up`
       scripts/services.sh private COMMAND ...      instances of their own, for tests that break them

`up` takes, for each of the two, the first of these that works:
  1. what answers at OUTLAY_TEST_POSTGRES_URL, OUTLAY_TEST_AMQP_URL; set and silent is an error
  2. what it started earlier, then what answers at 127.0.0.1:5432 (user root or postgres, no
     password) and at amqp://guest:guest@127.0.0.1:5672/%2f
  3. `docker compose`, if an engine answers: a project of its own, removed with its data by `down`
  4. private instances of the installed programs; root on Debian or Ubuntu installs them first
It prints `export OUTLAY_TEST_POSTGRES_URL=...` and `export OUTLAY_TEST_AMQP_URL=...` on standard
output, everything else on standard error.

Private instances have a port, a data folder and, for RabbitMQ, an Erlang cookie of their own. WHICH is
rabbitmq, postgres or both (default). DIR/env says where they are, as lines for `eval`: the two URLs, and
OUTLAY_TEST_{POSTGRES,AMQP}_{PID,DATA}. The data is in a temporary folder, linked as DIR/data.
  private start [WHICH] DIR             start and wait until they answer; prints DIR/env
  private stop [WHICH] DIR              stop them at once and delete their data
  private ctl DIR rabbitmqctl ARG...    also rabbitmq-diagnostics, rabbitmq-queues, psql
  private kill9 WHICH DIR               SIGKILL to every process, as in a crash of the machine
  private restart WHICH DIR             stop in order if it runs, start on the same port and data
  private pause WHICH DIR               SIGSTOP: connections stay open and nothing answers
  private resume WHICH DIR              SIGCONT

RabbitMQ 3.10 loses a quorum queue when it is killed right after the queue was declared: wait 3 s. After
`restart` its port answers a moment before the quorum queues have elected a leader. Erlang's epmd is shared
by all brokers of a machine; one that was started for a private broker stays.

Environment:
  OUTLAY_SERVICES_DIR   where `up` remembers what it started (default: ~/.cache/outlay-services)
  TMPDIR                where the data of private instances goes (default: /tmp)
USAGE
}

say() { echo "scripts/services.sh: $*" >&2; }

die() {
    say "$*"
    exit 1
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
remembered=${OUTLAY_SERVICES_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/outlay-services}
compose_project=outlay-test compose_postgres_port=25432 compose_rabbitmq_port=25673
readonly repository remembered compose_project compose_postgres_port compose_rabbitmq_port

is_root() { [[ $(id -u) == 0 ]]; }

# limited SECONDS COMMAND...; macOS has no timeout.
limited() {
    if command -v timeout >/dev/null; then timeout "$@"; else perl -e 'alarm shift; exec @ARGV' "$@"; fi
}

# first PATH...: the first that can be run; a plain name is looked for in PATH.
first() {
    local candidate
    for candidate in "$@"; do
        if command -v "$candidate" 2>/dev/null; then return; fi
    done
    return 1
}

rabbitmq_program() { first "/usr/lib/rabbitmq/bin/$1" "$1" "/opt/homebrew/sbin/$1" "/usr/local/sbin/$1"; }

# Debian keeps initdb out of PATH; the newest version wins.
postgres_program() {
    local versions
    versions=$(printf '%s\n' /usr/lib/postgresql/*/bin/"$1" | sort -rV)
    # shellcheck disable=SC2086  # one path a line, none has a blank
    first $versions "$1"
}

# ---- Who answers ---------------------------------------------------------------------------------

# bytes N HOST PORT FORMAT: sends FORMAT and prints the first N bytes of the answer as numbers.
bytes() {
    # The inner shell keeps bash's own complaint about a refused connection quiet.
    limited 5 bash -c 'exec 3<>"/dev/tcp/$2/$3" && printf "$4" >&3 && head -c "$1" <&3 | od -An -v -tu1' \
        bytes "$@" 2>/dev/null | tr -s ' \n' ' '
}

# address URL DEFAULT_PORT: prints the host and the port.
address() {
    local rest=${1#*://}
    rest=${rest%%[/?]*}
    rest=${rest##*@}
    if [[ $rest == *:* ]]; then echo "${rest%:*} ${rest##*:}"; else echo "$rest $2"; fi
}

# A broker answers the protocol header with a method frame, whose type is 1.
amqp_answers() {
    local host port
    read -r host port < <(address "$1" 5672)
    # Over TLS an open port has to do.
    if [[ $1 == amqps:* ]]; then
        limited 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' open "$host" "$port" 2>/dev/null
    else
        [[ $(bytes 1 "$host" "$port" 'AMQP\000\000\011\001') == " 1 " ]]
    fi
}

# With psql the URL is tried as it is. Without, a startup message shows whether the user is let in
# without a password; a URL with one then only has to be answered by the right kind of server.
postgres_answers() {
    local host port user database message length answer
    if command -v psql >/dev/null; then
        PGCONNECT_TIMEOUT=5 psql -XAtq -c 'select 1' "$1" >/dev/null 2>&1
        return
    fi
    read -r host port < <(address "$1" 5432)
    user=${1#*://} user=${user%%@*} database=${1##*/} database=${database%%\?*}
    message="\000\003\000\000user\000${user%%:*}\000database\000$database\000\000"
    # Length and version, then each name and value with a zero after it, and a last zero.
    printf -v length '\\%03o' $((4 + 4 + 5 + ${#user} + 1 + 9 + ${#database} + 1 + 1))
    if [[ $user == *:* ]]; then
        answer=$(bytes 1 "$host" "$port" '\000\000\000\010\004\322\026\057') # SSLRequest: S or N
        [[ $answer == " 83 " || $answer == " 78 " ]]
    else
        answer=$(bytes 10 "$host" "$port" "\000\000\000$length$message")
        [[ $answer == " 82 0 0 0 8 0 0 0 0 83 " ]] # AuthenticationOk, then a parameter and no error
    fi
}

# answers_at SERVICE URL
answers_at() { if [[ $1 == rabbitmq ]]; then amqp_answers "$2"; else postgres_answers "$2"; fi; }

# wait_for SECONDS COMMAND...
wait_for() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        if ((SECONDS >= until)); then return 1; fi
        sleep 0.2
    done
}

# ---- One private instance ------------------------------------------------------------------------
# State is DIR/env and nothing else. Functions below take the service first and the folder second.

# keep DIR NAME [VALUE]: sets a variable of DIR/env; without a value removes it.
keep() {
    local env=$1/env lines
    lines=$(grep -v "^export $2=" "$env" 2>/dev/null || true)
    if (($# > 2)); then lines+=${lines:+$'\n'}"export $2=$3"; fi
    printf '%s\n' "$lines" >"$env.new"
    mv "$env.new" "$env"
}

# kept DIR NAME: prints a variable of DIR/env; empty without one.
kept() { sed -n "s/^export $2=//p" "$1/env" 2>/dev/null || true; }

prefix_of() { if [[ $1 == rabbitmq ]]; then echo OUTLAY_TEST_AMQP; else echo OUTLAY_TEST_POSTGRES; fi; }
data_of() { kept "$2" "$(prefix_of "$1")_DATA"; }
url_of() { kept "$2" "$(prefix_of "$1")_URL"; }
port_of() { local port && port=$(address "$(url_of "$@")" 0) && echo "${port#* }"; }
answers() { answers_at "$1" "$(url_of "$@")"; }

# The process, if it lives and is ours: its command line names its data folder.
pid_of() {
    local pid data
    pid=$(kept "$2" "$(prefix_of "$1")_PID") data=$(data_of "$@")
    if [[ -n $pid && -n $data ]] && [[ $(ps -ww -o command= -p "$pid" 2>/dev/null) == *"$data"* ]]; then
        echo "$pid"
    fi
}

is_gone() { ! kill -0 "$1" 2>/dev/null || [[ $(ps -o stat= -p "$1") == Z* ]]; }

# A port below the ones that systems hand out to clients, so that it is still free at a restart.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        if ! limited 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1"' open "$port" 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

# as USER COMMAND...: root becomes the service's user, which neither server lets it skip.
as() {
    local user=$1
    shift
    if is_root; then runuser -u "$user" -- "$@"; else "$@"; fi
}

# rabbitmq_run DIR PROGRAM ARG...: one of RabbitMQ's programs, for the private broker only. A cookie of
# its own (in HOME) makes it impossible to reach another broker by mistake.
rabbitmq_run() {
    local dir=$1 program=$2 data port
    shift 2
    data=$(data_of rabbitmq "$dir") port=$(port_of rabbitmq "$dir")
    program=$(rabbitmq_program "$program")
    (
        cd "$data"
        as rabbitmq env HOME="$data" RABBITMQ_CONF_ENV_FILE="$data/rabbitmq-env.conf" \
            RABBITMQ_NODENAME="outlay-$port@localhost" ERL_EPMD_ADDRESS=127.0.0.1 \
            RABBITMQ_DIST_PORT="$(kept "$dir" OUTLAY_TEST_AMQP_DIST_PORT)" \
            RABBITMQ_CONFIG_FILE="$data/rabbitmq.conf" RABBITMQ_CONFIG_FILES="$data/conf.d" \
            RABBITMQ_ADVANCED_CONFIG_FILE="$data/advanced.config" \
            RABBITMQ_ENABLED_PLUGINS_FILE="$data/enabled_plugins" \
            RABBITMQ_MNESIA_BASE="$data/mnesia" RABBITMQ_LOG_BASE="$data/log" \
            RABBITMQ_PID_FILE="$data/pid" "$program" "$@"
    )
}

rabbitmq_prepare() {
    local data port
    data=$(data_of rabbitmq "$1") port=$(port_of rabbitmq "$1")
    mkdir "$data/log" "$data/conf.d"
    echo "ERL_EPMD_ADDRESS=127.0.0.1" >"$data/rabbitmq-env.conf"
    echo "listeners.tcp.local = 127.0.0.1:$port" >"$data/rabbitmq.conf"
    echo "[]." >"$data/enabled_plugins"
    keep "$1" OUTLAY_TEST_AMQP_DIST_PORT "$(free_port)"
}

rabbitmq_start() {
    local data
    data=$(data_of rabbitmq "$1")
    rm -f "$data/pid"
    # epmd, if this starts it, must not keep our caller's pipe open.
    ERL_FLAGS="-kernel inet_dist_use_interface {127,0,0,1}" \
        rabbitmq_run "$1" rabbitmq-server -detached </dev/null >>"$data/log/start" 2>&1 || return
    wait_for 20 test -s "$data/pid" || return
    keep "$1" OUTLAY_TEST_AMQP_PID "$(tr -dc 0-9 <"$data/pid")"
}

rabbitmq_logs() { echo "$1/log/start" "$1"/log/*.log; }

postgres_prepare() {
    local data port
    data=$(data_of postgres "$1") port=$(port_of postgres "$1")
    (
        cd "$data"
        as postgres "$(postgres_program initdb)" -D "$data/base" -U postgres -A trust -E UTF8 --locale=C \
            --no-sync >"$data/initdb.log" 2>&1
    ) || return
    # fsync stays on: these are for tests of what survives.
    printf '%s\n' "listen_addresses = '127.0.0.1'" "port = $port" "unix_socket_directories = ''" \
        "max_connections = 200" >>"$data/base/postgresql.conf"
}

postgres_start() {
    local data
    data=$(data_of postgres "$1")
    (
        cd "$data"
        as postgres "$(postgres_program pg_ctl)" start -s -w -t 60 -D "$data/base" -l "$data/base/server.log" </dev/null
    ) >>"$data/pg_ctl.log" 2>&1 || return
    keep "$1" OUTLAY_TEST_POSTGRES_PID "$(head -1 "$data/base/postmaster.pid")"
}

postgres_logs() { echo "$1"/*.log "$1/base/server.log"; }

# Starts a prepared instance and waits until it answers.
launch() {
    local service=$1 dir=$2 pid
    "${service}_start" "$dir" || return
    pid=$(pid_of "$service" "$dir")
    [[ -n $pid ]] || return
    started_or_gone() { answers "$service" "$dir" || is_gone "$pid"; }
    wait_for 90 started_or_gone && answers "$service" "$dir"
}

create() {
    local service=$1 dir=$2 program data prefix try
    if [[ -n $(pid_of "$@") ]]; then die "$dir has a $service already, with pid $(pid_of "$@")"; fi
    if [[ -n $(data_of "$@") ]]; then die "$dir has a $service that doesn't run: use restart or stop"; fi
    if [[ $service == rabbitmq ]]; then program=$(rabbitmq_program rabbitmq-server || true); fi
    if [[ $service == postgres ]]; then program=$(postgres_program initdb || true); fi
    if [[ -z $program ]]; then die "$service is not installed"; fi
    if ! command -v pgrep >/dev/null; then die "pgrep is missing; install it (Debian, Ubuntu: apt install procps)"; fi
    prefix=$(prefix_of "$service")
    mkdir -p "$dir"
    # The port may be taken between the look and the start.
    for try in 1 2 3; do
        data=$(mktemp -d "${TMPDIR:-/tmp}/outlay-$service.XXXXXX")
        keep "$dir" "${prefix}_DATA" "$data"
        if [[ $service == rabbitmq ]]; then
            keep "$dir" "${prefix}_URL" "amqp://guest:guest@127.0.0.1:$(free_port)/%2f"
        else
            keep "$dir" "${prefix}_URL" "postgres://postgres@127.0.0.1:$(free_port)/postgres"
        fi
        if is_root; then chown "$service" "$data"; fi
        mkdir -p "$dir/data"
        ln -sfn "$data" "$dir/data/$service"
        if "${service}_prepare" "$dir" && own "$data" "$service" && launch "$service" "$dir"; then return; fi
        # shellcheck disable=SC2046  # paths without blanks
        tail -n 15 $("${service}_logs" "$data") >&2 2>/dev/null || true
        destroy "$service" "$dir"
        say "$service did not start (try $try of 3)"
    done
    return 1
}

own() { if is_root; then chown -R "$2" "$1"; fi; }

# every PID: it and its children, which for PostgreSQL hold the connections.
every() {
    echo "$1"
    pgrep -P "$1" || true
}

# Stopped first, so that none can be born while the others are counted.
kill9() {
    local pid all one
    pid=$(pid_of "$@")
    if [[ -z $pid ]]; then die "$2 has no $1 that runs"; fi
    kill -STOP "$pid"
    all=$(every "$pid")
    # shellcheck disable=SC2086
    kill -KILL $all 2>/dev/null || true
    for one in $all; do
        wait_for 10 is_gone "$one" || die "$1: process $one does not end"
    done
    # A new postmaster takes a zombie that nobody has collected yet for a live one.
    if [[ $1 == postgres ]]; then rm -f "$(data_of "$@")/base/postmaster.pid"; fi
}

destroy() {
    local data prefix name
    data=$(data_of "$@") prefix=$(prefix_of "$1")
    if [[ -n $(pid_of "$@") ]]; then kill9 "$@"; fi
    if [[ $data == */outlay-$1.* ]]; then rm -rf "$data"; fi
    for name in URL PID DATA DIST_PORT; do keep "$2" "${prefix}_$name"; done
    rm -f "$2/data/$1"
    rmdir "$2/data" 2>/dev/null || true
    if [[ -z $(tr -d '[:space:]' <"$2/env") ]]; then rm -f "$2/env"; fi
}

restart() {
    local pid
    if [[ -z $(data_of "$@") ]]; then die "$2 has no $1: start it first"; fi
    pid=$(pid_of "$@")
    if [[ -n $pid ]]; then
        resume "$@"
        # SIGTERM stops a broker in order; a PostgreSQL would wait for its clients, SIGINT sends them away.
        if [[ $1 == rabbitmq ]]; then kill -TERM "$pid"; else kill -INT "$pid"; fi
        wait_for 60 is_gone "$pid" || die "$1 does not stop"
    fi
    launch "$@" || die "$1 did not start again; its logs are in $(data_of "$@")"
}

signal() {
    local name=$1 pid
    shift
    pid=$(pid_of "$@")
    if [[ -z $pid ]]; then die "$2 has no $1 that runs"; fi
    # shellcheck disable=SC2046
    kill "-$name" $(every "$pid")
}

pause() { signal STOP "$@"; }
resume() { signal CONT "$@"; }

ctl() {
    local dir=$1 program=${2-}
    shift 2 || die "usage: private ctl DIR rabbitmqctl ARG..."
    case $program in
        psql) exec psql -X "$@" "$(url_of postgres "$dir")" ;;
        rabbitmqctl | rabbitmq-diagnostics | rabbitmq-queues)
            if [[ -z $(data_of rabbitmq "$dir") ]]; then die "$dir has no rabbitmq"; fi
            rabbitmq_run "$dir" "$program" "$@"
            ;;
        *) die "private ctl runs rabbitmqctl, rabbitmq-diagnostics, rabbitmq-queues and psql, not \`$program\`" ;;
    esac
}

private() {
    local command=${1-} which=both dir service
    shift || true
    if [[ $command == ctl ]]; then
        if (($# < 2)); then die "usage: private ctl DIR rabbitmqctl ARG..."; fi
        ctl "$(absolute "$1")" "${@:2}"
        return
    fi
    case $command in
        start | stop | kill9 | restart | pause | resume) ;;
        *) die "unknown command \`private $command\`; see --help" ;;
    esac
    case ${1-} in rabbitmq | postgres | both)
        which=$1
        shift
        ;;
    esac
    if (($# != 1)); then die "usage: private $command [rabbitmq|postgres|both] DIR"; fi
    dir=$(absolute "$1")
    for service in postgres rabbitmq; do
        if [[ $which != both && $which != "$service" ]]; then continue; fi
        case $command in
            start) create "$service" "$dir" || die "$service did not start" ;;
            stop) if [[ -n $(data_of "$service" "$dir") ]]; then destroy "$service" "$dir"; fi ;;
            *) "$command" "$service" "$dir" ;;
        esac
    done
    if [[ $command == start ]]; then cat "$dir/env"; fi
}

absolute() { if [[ $1 == /* ]]; then echo "$1"; else echo "$PWD/$1"; fi; }

# ---- up and down ---------------------------------------------------------------------------------

# candidates SERVICE: where one may answer already, best first.
candidates() {
    url_of "$1" "$remembered"
    url_of "$1" "$remembered/compose"
    if [[ $1 == rabbitmq ]]; then
        echo "amqp://guest:guest@127.0.0.1:5672/%2f"
        return
    fi
    # Every server has the database postgres, unless somebody took it away.
    echo "postgres://root@127.0.0.1:5432/postgres"
    echo "postgres://postgres@127.0.0.1:5432/postgres"
}

# A service that answers already: prints its URL.
found() {
    local url
    for url in $(candidates "$1"); do
        if answers_at "$1" "$url"; then
            echo "$url"
            return
        fi
    done
    return 1
}

has_engine() { docker compose version >/dev/null 2>&1 && limited 10 docker info >/dev/null 2>&1; }

# Ports of its own, so that a fleet may run beside it.
compose() {
    OUTLAY_POSTGRES_PORT=$compose_postgres_port OUTLAY_RABBITMQ_PORT=$compose_rabbitmq_port \
        docker compose -p "$compose_project" -f "$repository/docker-compose.yml" "$@"
}

# by_compose SERVICE: the same images as the fleet's, in a project of their own.
by_compose() {
    local url
    say "starting $1 with docker compose"
    mkdir -p "$remembered/compose"
    keep "$remembered/compose" OUTLAY_TEST_COMPOSE "$compose_project"
    compose up -d --wait "$1" >&2 || return
    if [[ $1 == postgres ]]; then
        url=postgres://outlay:outlay@127.0.0.1:$compose_postgres_port/outlay
    else
        url=amqp://guest:guest@127.0.0.1:$compose_rabbitmq_port/%2f
    fi
    keep "$remembered/compose" "$(prefix_of "$1")_URL" "$url"
}

is_installed() {
    if [[ $1 == rabbitmq ]]; then rabbitmq_program rabbitmq-server; else postgres_program initdb; fi >/dev/null
}

# Installs a package, and keeps Debian from starting the service that comes with it.
install_package() {
    local package policy=/usr/sbin/policy-rc.d
    case $1 in
        rabbitmq) package="rabbitmq-server" ;;
        postgres) package="postgresql" ;;
    esac
    say "installing the package $package"
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$package"; } >&2
}

# ensure SERVICE VARIABLE: prints the export line of a service that answers.
ensure() {
    local service=$1 variable=$2 url=${!2-}
    if [[ -n $url ]]; then
        answers_at "$service" "$url" || die "nothing usable answers at $variable; correct or unset it"
    elif url=$(found "$service"); then
        :
    elif has_engine; then
        by_compose "$service" || die "$service did not come up under docker compose"
        url=$(found "$service") || die "$service came up under docker compose, but does not answer"
    else
        if [[ -n $(data_of "$service" "$remembered") ]]; then destroy "$service" "$remembered"; fi
        if ! is_installed "$service" && is_root && command -v apt-get >/dev/null; then
            install_package "$service" || die "the package of $service could not be installed"
        fi
        if ! is_installed "$service"; then
            die "$service is missing: nothing answers at its standard address, no container engine answers, and" \
                "it is not installed. Install it (Debian, Ubuntu: apt install postgresql rabbitmq-server; macOS:" \
                "brew install postgresql rabbitmq), start a container engine, or set $variable"
        fi
        say "starting a private $service"
        create "$service" "$remembered" || die "$service did not start"
        url=$(url_of "$service" "$remembered")
    fi
    echo "export $variable=$url"
}

up() {
    local postgres rabbitmq
    postgres=$(ensure postgres OUTLAY_TEST_POSTGRES_URL)
    rabbitmq=$(ensure rabbitmq OUTLAY_TEST_AMQP_URL)
    printf '%s\n%s\n' "$postgres" "$rabbitmq"
    if [[ -n $(ls -A "$remembered" 2>/dev/null) ]]; then say "\`scripts/services.sh down\` stops what it started"; fi
}

down() {
    local service
    for service in postgres rabbitmq; do
        if [[ -n $(data_of "$service" "$remembered") ]]; then destroy "$service" "$remembered"; fi
    done
    if [[ -n $(kept "$remembered/compose" OUTLAY_TEST_COMPOSE) ]]; then
        compose down -v >&2
        rm -rf "$remembered/compose"
    fi
    rmdir "$remembered" 2>/dev/null || true
}

# on_broker PROGRAM ARG...: one of RabbitMQ's programs, where the broker is that `up` found or started.
on_broker() {
    local url
    url=${OUTLAY_TEST_AMQP_URL:-$(found rabbitmq)} || die "no broker answers; \`scripts/services.sh up\` starts one"
    if [[ $url == "$(url_of rabbitmq "$remembered")" ]]; then
        private ctl "$remembered" "$@"
    elif [[ $url == "$(url_of rabbitmq "$remembered/compose")" ]]; then
        compose exec -T rabbitmq "$@"
    else
        "$@"
    fi
}

case ${1-} in
    -h | --help) usage ;;
    up) up ;;
    down) down ;;
    ctl)
        shift
        on_broker "$@"
        ;;
    private)
        shift
        private "$@"
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac
