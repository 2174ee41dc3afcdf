# shellcheck shell=bash
# Sourced by the tests of the deployments: checks, one line each, and their sum.
passed=0 failed=0 began=$SECONDS

say() { printf '%-4s %4ds  %s\n' "$1" $((SECONDS - began)) "$2"; }

# check WHAT COMMAND...: runs the command once; says ok, or FAIL and its last words.
check() {
  local what=$1 out
  shift
  if out=$("$@" 2>&1); then
    passed=$((passed + 1))
    say ok "$what"
  else
    failed=$((failed + 1))
    say FAIL "$what"
    [ -z "$out" ] || tail -n 20 <<<"$out" | sed 's/^/       | /'
    return 1
  fi
}

# must WHAT COMMAND...: a check without which the others make no sense.
must() { check "$@" || finish; }

# within SECONDS COMMAND...: repeats the command until it succeeds; fails after
# so long, with its last words.
within() {
  local until=$((SECONDS + $1)) out
  shift
  until out=$("$@" 2>&1); do
    if [ $SECONDS -ge $until ]; then
      printf '%s\n' "$out"
      return 1
    fi
    sleep 0.2
  done
  printf '%s\n' "$out"
}

# lines FILE PATTERN: how many lines of the file match.
lines() { grep -cE -- "$2" "$1" || true; }

# more FILE PATTERN N: more than N lines match.
more() {
  local have
  have=$(lines "$1" "$2")
  [ "$have" -gt "$3" ] || { echo "$have lines match $2, want more than $3; the last lines are"; tail -n 3 "$1" | cut -c1-300; return 1; }
}

# not COMMAND...: succeeds when the command fails.
not() { ! "$@"; }

# missing WORDS...: ends the test before it began.
missing() {
  echo "$(basename "$(dirname "$0")")/$(basename "$0"): $*" >&2
  exit 1
}

# finish: the sum, and the exit code that it means.
finish() {
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
  exit
}
