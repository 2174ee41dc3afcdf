#!/usr/bin/env bash
# Puts an overlay on a cluster and deletes its pods under real clients. One line
# per check; the last one is the sum. About two minutes, the build not counted.
# It makes and removes the namespace pollcast.
#
#   OVERLAY      local, which needs nothing of the cluster, or fleet
#   KUBECTL      how to reach the cluster; kubectl
#   LOAD_IMAGE   command that gives the cluster an image of the local Docker,
#                by name; kind load docker-image
#   IN_CLUSTER   prefix that runs a program inside the cluster's network, for
#                clusters whose Services can be reached so; without it the
#                clients come through kubectl port-forward
#   POLLCAST     path of a built pollcast; without it Go builds one
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$root/deploy/testing/check.sh"
probe=$root/deploy/testing/probe.py

docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1 || missing "needs a running Docker engine with the compose plugin, to build the images"
command -v python3 >/dev/null || missing "needs python3"
[ -n "${POLLCAST:-}" ] || command -v go >/dev/null || missing "needs go, or POLLCAST=path of a built pollcast"
overlay=$here/overlays/${OVERLAY:-local}
[ -d "$overlay" ] || missing "there is no $overlay: OVERLAY is local or fleet"
kube() { ${KUBECTL:-kubectl} "$@"; }
run() { ${IN_CLUSTER:-} "$@"; }
kube get --raw /readyz >/dev/null 2>&1 || missing "needs a cluster: '${KUBECTL:-kubectl} get --raw /readyz' fails"
! kube get namespace pollcast >/dev/null 2>&1 || missing "the cluster has a namespace pollcast already, which may be somebody's: delete it, or take another cluster"
k() { kube --namespace pollcast "$@"; }
# ops POD:PORT PATH: what a pod answers on its operations port.
ops() { k get --raw "/api/v1/namespaces/pollcast/pods/$1/proxy$2"; }

work=$(mktemp -d)
unset "${!POLLCAST_@}"
applied=
clean() {
  local pids
  pids=$(jobs -p)
  [ -z "$pids" ] || kill $pids 2>/dev/null
  if [ "$failed" -gt 0 ] && [ -n "$applied" ]; then
    { k get pods,events; k logs --prefix --tail 40 --selector app.kubernetes.io/part-of=pollcast; } >"${TMPDIR:-/tmp}/pollcast-kubernetes-$$.log" 2>&1
    echo "pods, events and logs are in ${TMPDIR:-/tmp}/pollcast-kubernetes-$$.log" >&2
  fi
  [ -z "$applied" ] || kube delete namespace pollcast --timeout 60s >/dev/null 2>&1
  rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

# --- up

# The build needs no passwords, but the file asks for them.
must "the images build" env NATS_POLLER_PASSWORD=- NATS_GATEWAY_PASSWORD=- NATS_READER_PASSWORD=- \
  docker compose --progress plain --env-file /dev/null -f "$root/docker-compose.yml" build hostrpc poller gateway-1
pollcast=${POLLCAST:-$work/pollcast}
[ -n "${POLLCAST:-}" ] || must "the client builds" go -C "$root" build -o "$pollcast" ./services/pollcast/cmd/pollcast
load() {
  local image
  docker image inspect nats:2.15-scratch >/dev/null 2>&1 || docker pull --quiet nats:2.15-scratch || return 1
  for image in pollcast/hostrpc:dev pollcast/poller:dev pollcast/gateway:dev nats:2.15-scratch; do
    ${LOAD_IMAGE:-kind load docker-image} "$image" || return 1
  done
}
must "the cluster takes them" load
check "the base can be read by itself" kube kustomize "$here/base"
applied=yes
silent_apply() { kube apply --validate=strict -k "$overlay" >"$work/apply" 2>&1 && not grep -i warning "$work/apply" || { cat "$work/apply"; return 1; }; }
must "applied, without a warning of the API server or of pod security" silent_apply
ready() {
  k rollout status --timeout 120s statefulset/nats && k rollout status --timeout 60s deployment/hostrpc &&
    k rollout status --timeout 60s deployment/poller && k rollout status --timeout 60s deployment/gateway
}
must "every pod is ready" ready
no_restarts() { not grep -v '^0*$' <<<"$(k get pods -o 'jsonpath={range .items[*]}{.status.containerStatuses[*].restartCount}{"\n"}{end}')"; }
check "none was restarted on the way" no_restarts

# --- clients

if [ -n "${IN_CLUSTER:-}" ]; then
  listen=$(k get service gateway -o 'jsonpath={.spec.clusterIP}'):12080
else
  listen=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  # It holds on to one pod: when that is deleted, the next one takes over.
  while sleep 0.2; do k port-forward service/gateway "${listen#*:}:12080"; done >/dev/null 2>&1 &
fi
snapshot() {
  local poll
  run python3 "$probe" ws "ws://$listen/v1/ws?topics=host.>" 4 >"$work/ws" 2>&1
  for poll in host.network.list host.process.top host.storage.list host.system.status; do
    grep -q "^{\"event\":{\"topic\":\"$poll\".*\"phase\":\"snapshot\".*\"stale\":false" "$work/ws" || { echo "no fresh $poll:"; cut -c1-300 "$work/ws"; return 1; }
  done
}
must "a WebSocket client gets every value through the Service, fresh, without asking" within 20 snapshot
check "and live ones after them" more "$work/ws" '"phase":"live".*"stale":false' 0

tail_to() { run "$pollcast" tail 'host.>' --url "ws://$listen/v1/ws" --json >"$1" 2>"$1.err" & }
tail_to "$work/a"; a=$!
tail_to "$work/b"; b=$!
live='"event":.*"topic":"host\.(system\.status|network\.list)".*"stale":false'
# both_go_on SECONDS: each client gets three more fresh values in time, as the
# same process.
both_go_on() {
  local na nb
  na=$(lines "$work/a" "$live") nb=$(lines "$work/b" "$live")
  within "$1" more "$work/a" "$live" $((na + 2)) && within "$1" more "$work/b" "$live" $((nb + 2)) && kill -0 "$a" "$b"
}
# gateway_of FILE: the name of the gateway, its pod's, that a client has now.
gateway_of() { sed -n 's/.*"connection":{"connected":true,"gateway":"\([^"]*\)".*/\1/p' "$1" | tail -n 1; }
must "two clients of the SDK see live values" both_go_on 15

# --- gateways

pods() { k get pods --selector "app.kubernetes.io/name=$1" --field-selector status.phase=Running -o 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}'; }
busy=$(gateway_of "$work/a")
check "the pod of a client's gateway is deleted, and is gone" k delete pod "$busy" --timeout 60s
check "both clients go on" both_go_on 20
elsewhere() { [ "$(gateway_of "$work/a")" != "$busy" ] && [ "$(gateway_of "$work/b")" != "$busy" ]; }
check "at other gateways" elsewhere
replaced() { [ "$(pods gateway | grep -vc "$busy")" = "$(k get deployment gateway -o 'jsonpath={.spec.replicas}')" ] && k rollout status --timeout 1s deployment/gateway; }
check "the pod is replaced" within 60 replaced
before=$(pods gateway)
check "the gateways are rolled over" k rollout restart deployment/gateway
# shellcheck disable=SC2046 # one word for each pod
all_new() { k rollout status --timeout 120s deployment/gateway && k wait --for delete --timeout 60s $(sed 's|^|pod/|' <<<"$before"); }
check "all of them are new, and the old ones gone" all_new
check "both clients go on" both_go_on 20

# --- pollers

owner() { local pod; for pod in $(pods poller); do ! ops "$pod:12082" /status | grep -q '"owned": true' || echo "$pod"; done; }
one_owner() { [ "$(owner | wc -w)" = 1 ] || { echo "owners: $(owner)"; return 1; }; }
check "one of the two pollers owns the source" one_owner
old=$(owner | head -n 1)
check "its pod is deleted by force" k delete pod "$old" --grace-period 0 --force --timeout 60s
check "both clients go on within two lease times" both_go_on 20
other_owner() { one_owner && [ "$(owner)" != "$old" ]; }
check "another poller owns the source" within 10 other_owner

# --- upstream and NATS

check "the upstream is taken away" k scale --replicas 0 deployment/hostrpc
told() { tail -n "+$(($2 + 1))" "$work/a" | grep -qE -- "$1"; }
seen=$(wc -l <"$work/a")
check "clients are told: stale, with the reason" within 30 told '"stale":true.*"reason":"(upstream_error|timeout|breaker_open)"' "$seen"
check "and that the breaker is open" within 30 told '"stale":true.*"reason":"breaker_open"' "$seen"
check "it comes back" k scale --replicas 1 deployment/hostrpc
check "fresh again after the next probe" both_go_on 60
unharmed() { not grep -i violation <<<"$(k logs nats-0)"; }
check "the services never asked NATS for what they may not do" unharmed
# In the overlay local its disk goes with it, and the stream begins anew.
check "a pod of NATS is deleted" k delete pod nats-0
check "both clients go on" both_go_on 60

kill "$a" "$b" 2>/dev/null
finish
