#!/usr/bin/env bash
# Writes a password for each user of NATS into .env beside docker-compose.yml,
# which reads it. Run it once, before `docker compose up`. What .env holds already
# stays as it is.
set -euo pipefail
file=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.env
umask 077
touch "$file"
[ -z "$(tail -c 1 "$file")" ] || echo >>"$file" # ends its last line
for name in NATS_POLLER_PASSWORD NATS_GATEWAY_PASSWORD NATS_READER_PASSWORD; do
  grep -q "^$name=." "$file" || printf '%s=%s\n' "$name" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >>"$file"
done
