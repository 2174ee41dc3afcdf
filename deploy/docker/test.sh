#!/usr/bin/env bash
# Brings docker-compose.yml up from this tree, under a name and on ports of its
# own, and kills its parts under real clients. One line per check; the last one
# is the sum. About three minutes, the build not counted.
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
# Settings of the person who runs this must not reach the test; the passwords
# show that any will do, also one that a parser would take for a number.
unset "${!POLLCAST_@}" "${!COMPOSE_@}" 2>/dev/null
export POLLCAST_LISTEN=127.0.0.1:0 POLLCAST_NATS_LISTEN=127.0.0.1:0
export NATS_POLLER_PASSWORD=12345678 NATS_GATEWAY_PASSWORD='g w#1' NATS_READER_PASSWORD=4e2
c() { docker compose --project-name "$project" --env-file /dev/null --progress quiet -f "$root/docker-compose.yml" "$@"; }
tails=()
clean() {
  [ ${#tails[@]} -eq 0 ] || kill "${tails[@]}" 2>/dev/null
  if [ "$failed" -gt 0 ] && [ -n "$(c ps -aq 2>/dev/null)" ]; then
    c logs --tail 25 >"${TMPDIR:-/tmp}/$project.log" 2>&1
    echo "the services' last words are in ${TMPDIR:-/tmp}/$project.log"
  fi
  c down --volumes --timeout 5 >/dev/null 2>&1
  rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

check "the compose file is valid, with every profile" c --profile observe config --quiet
must "every image builds" c build --quiet
pollcast=${POLLCAST:-$work/pollcast}
[ -n "${POLLCAST:-}" ] || must "the client builds" go -C "$root" build -o "$pollcast" ./services/pollcast/cmd/pollcast

must "everything comes up, in order, and says that it is healthy" c up --detach --no-build --wait --wait-timeout 120
listen=$(c port caddy 12080) nats=$(c port nats 4222)

hardened() {
  local id
  for id in $(c ps --quiet); do
    docker inspect --format '{{.Name}} user={{.Config.User}} readonly={{.HostConfig.ReadonlyRootfs}} dropped={{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} memory={{.HostConfig.Memory}}' "$id"
  done | awk '!/user=65532:65532 readonly=true dropped=\[ALL\] \[no-new-privileges:true\] memory=[1-9]/ { print; bad = 1 } END { exit bad }'
}
check "every container: no root, nothing writable, no rights, bounded memory" hardened
small() {
  local s mib
  for s in hostrpc poller gateway; do
    mib=$(($(docker image inspect --format '{{.Size}}' "pollcast/$s:dev") >> 20))
    [ "$mib" -lt 40 ] && [ "$(docker export "$(c ps --quiet "$s" | head -n 1 || true)" 2>/dev/null | tar -t 2>/dev/null | grep -c 'bin/')" = 0 ] || { echo "$s: $mib MiB, or it has a bin/"; return 1; }
  done
}
