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
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# run_files NAME CONCURRENCY FILE...: the report goes to $work/NAME, the files with a failed test to $work/NAME.failed
run_files() {
  local name=$1 concurrency=$2
  shift 2
  node --test --test-concurrency="$concurrency" --test-timeout=180000 \
    --test-reporter=spec --test-reporter-destination=stdout --test-reporter=tap --test-reporter-destination="$work/$name" \
    --test-reporter=./scripts/failed-files.mjs --test-reporter-destination="$work/$name.failed" "$@"
}
count() {
  local number
  number=$(sed -n "s/^# $2 //p" "$work/$1" | tail -1)
  echo "${number:-0}"
}
bad() { echo $(($(count "$1" fail) + $(count "$1" cancelled) + $(count "$1" skipped) + $(count "$1" todo))); }

say "${patterns[*]}"
# Two files at once: most of their time they wait for a store or a kernel.
run_files first 2 "${patterns[@]}"
status=$?
passed=$(count first pass)
broken=$(bad first)
# A failed test may be told from a suite that several files share: those files run again.
test_files() {
  local file
  while read -r file; do
    case "$file" in
      *.test.ts) echo "$file" ;;
      *) grep -rl --include='*.test.ts' "/$(basename "$file")'" test || echo "$file" ;;
    esac
  done | sort -u
}
mapfile -t again < <(sed "s|^$PWD/||" "$work/first.failed" | test_files)
# Many tests watch real time on a machine that may be busy: what failed in company gets one chance alone, and is named.
if [ $status != 0 ] && [ ${#again[@]} -gt 0 ] && [ ${#again[@]} -le 8 ]; then
  say "once more, one by one: ${again[*]}"
  run_files second 1 "${again[@]}"
  status=$?
  still=$(bad second)
  # Nothing has passed that did not run.
  if [ "$(count second pass)" -lt $((broken - still)) ]; then still=$broken; fi
  passed=$((passed + broken - still))
  broken=$still
  if [ "$still" = 0 ]; then say "passed only when alone: ${again[*]}"; fi
fi
# A run that broke without a single failing test is a failure all the same.
if [ $status != 0 ] && [ "$broken" = 0 ]; then broken=1; fi
failed=$((failed + broken))
finish
