#!/usr/bin/env bash
# Brings docker-compose.yml up from this tree, under a name and on ports of its
# own, and kills its parts under real clients. One line per check; the last one
# is the sum. About two minutes, the build not counted.
#
# Needs a running Docker engine with compose, python3, and Go, or POLLCAST, the
# path of a built pollcast.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$root/deploy/testing/check.sh"
probe=$root/deploy/testing/probe.py

docker compose version >/dev/null 2>&1 || missing "needs docker with the compose plugin"
docker info >/dev/null 2>&1 || missing "needs a running Docker engine that this user may use"
command -v python3 >/dev/null || missing "needs python3"
[ -n "${POLLCAST:-}" ] || command -v go >/dev/null || missing "needs go, or POLLCAST=path of a built pollcast"

work=$(mktemp -d)
project=pollcast-test-$$
# What the person who runs this has set must not reach the test. The passwords
# show that any will do, also one that a parser would take for a number.
unset "${!POLLCAST_@}" COMPOSE_FILE COMPOSE_PROFILES
export POLLCAST_LISTEN=127.0.0.1:0 POLLCAST_NATS_LISTEN=127.0.0.1:0
export NATS_POLLER_PASSWORD=12345678 NATS_GATEWAY_PASSWORD="a 'quoted' #1" NATS_READER_PASSWORD=4e2
c() { docker compose --project-name "$project" --env-file /dev/null --progress quiet -f "$root/docker-compose.yml" "$@"; }

clean() {
  local pids
  pids=$(jobs -p)
  [ -z "$pids" ] || kill $pids 2>/dev/null
  if [ "$failed" -gt 0 ]; then
    c logs --timestamps --tail 40 >"${TMPDIR:-/tmp}/$project.log" 2>&1
    echo "the services' last words are in ${TMPDIR:-/tmp}/$project.log" >&2
  fi
  c down --volumes --timeout 5 >/dev/null 2>&1
  rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

check "the compose file is valid, with every profile" c --profile observe config --quiet
no_password() { local out; ! out=$(env -u "$1" docker compose --env-file /dev/null -f "$root/docker-compose.yml" config --quiet 2>&1) && grep -q "$1.*passwords.sh" <<<"$out" || { echo "$out"; return 1; }; }
for user in POLLER GATEWAY READER; do
  check "without NATS_${user}_PASSWORD nothing starts" no_password "NATS_${user}_PASSWORD"
done
known_metrics() {
  local name service
  python3 -m json.tool "$root/deploy/grafana/dashboards/pollcast.json" /dev/null || return 1
  for name in $(grep -ohE 'pollcast_[a-z_]+' "$root/deploy/prometheus/rules.yml" "$root/deploy/grafana/dashboards/pollcast.json" | sed -E 's/_(bucket|sum|count)$//' | sort -u); do
    service=${name#pollcast_} service=${service%%_*}
    grep -rqE --include='*.go' "\"(_?${name#"pollcast_${service}_"}|$name)\"" "$root/services/$service" || { echo "services/$service has no metric $name"; return 1; }
  done
}
check "the alerts and the dashboard name metrics that exist" known_metrics
must "every image builds" c --progress plain build
pollcast=${POLLCAST:-$work/pollcast}
[ -n "${POLLCAST:-}" ] || must "the client builds" go -C "$root" build -o "$pollcast" ./services/pollcast/cmd/pollcast

must "everything comes up, in order, and is healthy" c up --detach --no-build --wait --wait-timeout 120
listen=$(c port caddy 12080)

hardened() {
  local id
  for id in $(c ps --quiet); do
    docker inspect --format '{{.Name}} user={{.Config.User}} readonly={{.HostConfig.ReadonlyRootfs}} dropped={{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} memory={{.HostConfig.Memory}}' "$id"
  done | awk '!/user=65532:65532 readonly=true dropped=\[ALL\] \[no-new-privileges:true\] memory=[1-9]/ { print; bad = 1 } END { exit bad }'
}
check "every container: not root, nothing writable, no rights, bounded memory" hardened
small() {
  local s mib
  for s in hostrpc poller gateway; do
    mib=$(($(docker image inspect --format '{{.Size}}' "pollcast/$s:dev") >> 20))
    [ "$mib" -lt 40 ] || { echo "$s: $mib MiB"; return 1; }
    ! docker run --rm --network none --entrypoint /bin/sh "pollcast/$s:dev" -c true 2>/dev/null || { echo "$s has a shell"; return 1; }
  done
}
check "our images are small and have no shell" small
only_two() { [ "$(c ps --format '{{.Ports}}' | grep -o '127.0.0.1:[0-9]*->[0-9]*' | sed 's/.*->//' | sort | tr '\n' ' ')" = "12080 4222 " ] && not grep -q '0\.0\.0\.0:' <<<"$(c ps --format '{{.Ports}}')"; }
check "only Caddy and NATS are reached from outside, on loopback" only_two

# --- clients

check "the console is served through Caddy" curl -fsS --max-time 5 --output /dev/null "http://$listen/"
python3 "$probe" ws "ws://$listen/v1/ws?topics=host.>" 4 >"$work/ws" 2>&1
polls="host.network.list host.process.top host.storage.list host.system.status"
snapshot() {
  local poll
  for poll in $polls; do
    grep -q "^{\"event\":{\"topic\":\"$poll\".*\"phase\":\"snapshot\".*\"stale\":false" "$work/ws" || { echo "no fresh $poll:"; cut -c1-300 "$work/ws"; return 1; }
  done
}
must "a WebSocket client gets every value, fresh, without asking" snapshot
check "and live ones after them" more "$work/ws" '"phase":"live".*"stale":false' 0

# Two clients, which Caddy puts on one gateway each.
tail_to() { "$pollcast" tail 'host.>' --url "ws://$listen/v1/ws" --json >"$1" 2>"$1.err" & }
live='"event":.*"topic":"host\.(system\.status|network\.list)".*"stale":false'
# The second one comes when the first is connected: of two that come at once,
# Caddy may count neither and put both on one gateway.
tail_to "$work/a"; a=$!
must "a client of the SDK sees live values" within 15 more "$work/a" "$live" 0
tail_to "$work/b"; b=$!
# both_go_on SECONDS: each client gets three more fresh values in time, as the
# same process.
both_go_on() {
  local na nb
  na=$(lines "$work/a" "$live") nb=$(lines "$work/b" "$live")
  within "$1" more "$work/a" "$live" $((na + 2)) && within "$1" more "$work/b" "$live" $((nb + 2)) && kill -0 "$a" "$b"
}
must "and so does a second one beside it" both_go_on 15
# both_at SERVICE: the gateway that both clients have, named as its container, is
# that service's.
gateway_of() { sed -n 's/.*"connection":{"connected":true,"gateway":"\([^"]*\)".*/\1/p' "$work/$1" | tail -n 1; }
id_of() { c ps --all --quiet "$1" | cut -c1-12; }
both_at() { [ "$(gateway_of a) $(gateway_of b)" = "$(id_of "$1") $(id_of "$1")" ] || { echo "a is at $(gateway_of a), b at $(gateway_of b)"; return 1; }; }
one_each() { [ "$(gateway_of a)" != "$(gateway_of b)" ] || { echo "both are at $(gateway_of a)"; return 1; }; }
check "Caddy has put one on each gateway" one_each

# told_since PATTERN A B: the clients have got a line that matches after their
# lines A and B.
lines_now() { wc -l <"$work/$1"; }
told_since() { tail -n "+$(($2 + 1))" "$work/a" | grep -qE -- "$1" && tail -n "+$(($3 + 1))" "$work/b" | grep -qE -- "$1"; }

# --- gateways

must "a gateway is killed" c kill gateway-1
check "both clients go on" both_go_on 12
check "at the other one" both_at gateway-2
check "it is started again, and healthy" c up --detach --no-build --wait --wait-timeout 60 gateway-1
check "the other one is stopped, and drains" c stop gateway-2
drained() { [ "$(docker inspect --format '{{.State.ExitCode}}' "$(c ps --all --quiet gateway-2)")" = 0 ]; }
check "it ended by itself, cleanly" drained
check "both clients go on" both_go_on 12
check "at the new one" both_at gateway-1
check "it is started again, and healthy" c up --detach --no-build --wait --wait-timeout 60 gateway-2

# --- pollers

# owner: the container of the poller that holds the lease, by its log.
owner() {
  local id
  for id in $(c ps --quiet poller); do
    case $(docker logs "$id" 2>&1 | grep -oE 'lease (acquired|released|lost)|is lost' | tail -n 1) in
    *acquired*) echo "$id" ;;
    esac
  done
}
one_owner() { [ "$(owner | wc -w)" = 1 ] || { echo "owners: $(owner)"; return 1; }; }
check "one of the two pollers owns the source" one_owner
old=$(owner | head -n 1)
check "it is killed" docker kill "$old"
check "the other one takes over: both clients go on within two lease times" both_go_on 20
check "it is started again" docker start "$old"

# --- upstream

na=$(lines_now a) nb=$(lines_now b)
check "the upstream stops" c stop hostrpc
check "both clients are told: stale, with the reason" within 10 told_since '"stale":true.*"reason":"(upstream_error|timeout|breaker_open)"' "$na" "$nb"
last_good() {
  python3 "$probe" ws "ws://$listen/v1/ws?topics=host.system.status" 2 >"$work/ws" 2>&1
  grep -q "\"event\":.*\"phase\":\"snapshot\".*\"stale\":true,\"reason\":\"$1\".*\"data\":{" "$work/ws" || { cut -c1-300 "$work/ws"; return 1; }
}
check "the breaker opens; a new client gets the last value, stale" within 20 last_good breaker_open
check "the upstream starts" c up --detach --no-build --wait --wait-timeout 60 hostrpc
check "fresh again after the next probe" both_go_on 45

# --- NATS

na=$(lines_now a) nb=$(lines_now b)
check "NATS is killed" c kill nats
check "both clients are told: bus_disconnected" within 15 told_since '"stale":true.*"reason":"bus_disconnected"' "$na" "$nb"
check "a new client still gets the last value, stale" within 5 last_good bus_disconnected
check "NATS starts" c start nats
check "fresh again, from the stream on disk" both_go_on 20

# --- who may do what on NATS

nats=$(c port nats 4222) # a restart gave it another one
ask() { python3 "$probe" nats "$nats" "$@"; }
refused() { local out; ! out=$(ask "${@:2}" 2>&1) && grep -q "$1" <<<"$out" || { echo "$out"; return 1; }; }
unharmed() { not grep -iE 'violation' <<<"$(c logs --no-log-prefix nats poller gateway-1 gateway-2 2>&1)"; }
check "the services never asked NATS for what they may not do" unharmed
reader_sees() { ask reader "$NATS_READER_PASSWORD" sub 'pollcast.live.host.>' >"$work/nats" && grep -q '^Nats-Sequence: ' "$work/nats"; }
check "a reader sees what is live, with headers" reader_sees
check "a reader may not publish what is live" refused 'Permissions Violation' reader "$NATS_READER_PASSWORD" pub pollcast.live.host.system.status
reader_gets() { ask reader "$NATS_READER_PASSWORD" request '$JS.API.DIRECT.GET.POLLCAST.pollcast.in.host.system.status' >"$work/nats" && grep -q '^Nats-Subject: pollcast.in.host.system.status' "$work/nats"; }
check "a reader gets the last value" reader_gets
for request in '$JS.API.INFO' '$JS.API.STREAM.INFO.POLLCAST' '$JS.API.STREAM.NAMES' '$JS.API.DIRECT.GET.POLLCAST'; do
  check "a reader may not ask $request, whose answer goes to any subject" refused 'Permissions Violation' reader "$NATS_READER_PASSWORD" pub "$request"
done
check "a reader may not publish as a poller" refused 'Permissions Violation' reader "$NATS_READER_PASSWORD" pub pollcast.in.host.system.status
check "a reader may not listen to a gateway's inbox" refused 'Permissions Violation' reader "$NATS_READER_PASSWORD" sub '_INBOX_gateway.>'
check "a gateway may not publish" refused 'Permissions Violation' gateway "$NATS_GATEWAY_PASSWORD" pub pollcast.in.host.system.status
check "a gateway may not touch the stream" refused 'Permissions Violation' gateway "$NATS_GATEWAY_PASSWORD" pub '$JS.API.STREAM.DELETE.POLLCAST'
check "a poller may not delete the stream" refused 'Permissions Violation' poller "$NATS_POLLER_PASSWORD" pub '$JS.API.STREAM.DELETE.POLLCAST'
check "nobody comes in with a wrong password" refused 'Authorization Violation' reader wrong sub x

# --- the end

kill "$a" "$b" 2>/dev/null
clean_stop() {
  c stop && c ps --all --format '{{.Name}} {{.ExitCode}}' | awk '$1 !~ /caddy/ && $2 != 0 { print; bad = 1 } END { exit bad }'
}
check "everything stops cleanly" clean_stop
finish
