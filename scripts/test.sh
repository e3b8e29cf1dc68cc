#!/bin/bash
# Sets up, builds, checks types and rules, and runs the tests. With arguments (files, folders or patterns) it runs only
# those tests, without the checks. The last line says how many tests passed and failed; a skipped test counts as failed.
# The tests of the packages (test/packaging) are part of the whole when `scripts/setup.sh --package` has brought their tools.
set -uo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
export PATH=$PWD/.toolchain/node/bin:$PATH

passed=0
failed=0
finish() {
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
  exit
}
say() { echo "test: $*"; }
check() {
  say "$1"
  shift
  "$@" && return
  failed=$((failed + 1))
}

if [ "$(id -u)" != 0 ]; then
  say "the tests make network namespaces and nftables rules of their own: run this as root" >&2
  failed=1
  finish
fi
for step in setup build; do
  if ! "scripts/$step.sh"; then
    failed=1
    finish
  fi
done
if [ $# = 0 ]; then
  check types node_modules/.bin/tsc -p .
  check rules node_modules/.bin/biome check --error-on-warnings .
fi

patterns=()
wanted=("$@")
if [ $# = 0 ]; then
  for folder in test/*/; do wanted+=("${folder%/}"); done
  if [ ! -e .toolchain/rootfs/bookworm.contents ]; then
    say "without the tests of the packages: they need scripts/setup.sh --package"
    mapfile -t wanted < <(printf '%s\n' "${wanted[@]}" | grep -v '^test/packaging$')
  fi
fi
for argument in "${wanted[@]}"; do
  if [ -d "$argument" ]; then patterns+=("${argument%/}/**/*.test.ts"); else patterns+=("$argument"); fi
done
report=$(mktemp)
trap 'rm -f "$report"' EXIT
say "${patterns[*]}"
# Two files at once: most of their time they wait for a store or a kernel.
node --test --test-concurrency=2 --test-timeout=180000 --test-reporter=spec --test-reporter-destination=stdout \
  --test-reporter=tap --test-reporter-destination="$report" "${patterns[@]}"
status=$?
count() {
  local number
  number=$(sed -n "s/^# $1 //p" "$report" | tail -1)
  echo "${number:-0}"
}
passed=$(count pass)
bad=$(($(count fail) + $(count cancelled) + $(count skipped) + $(count todo)))
# A run that broke without a single failing test is a failure all the same.
if [ $status != 0 ] && [ $bad = 0 ]; then bad=1; fi
failed=$((failed + bad))
finish
