#!/bin/bash
# Shows the product at work on a bare Debian 12: two clusters, a machine and its agent in network namespaces of their
# own. Takes everything away again, whatever happens.  --keep: leaves it running until Ctrl-C, to explore by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

for argument in "$@"; do
  case "$argument" in
    --keep) ;;
    *)
      echo "usage: scripts/demo.sh [--keep]" >&2
      exit 2
      ;;
  esac
done
if [ "$(id -u)" != 0 ]; then
  echo "demo: it makes network namespaces and packet filter rules in them: run it as root (sudo $0)" >&2
  exit 1
fi
scripts/setup.sh
scripts/build.sh

work=$(mktemp -d /tmp/mesh-demo.XXXXXX)
# The demo cleans up after itself; this is for the case that it was killed. Its namespaces carry its process id.
sweep() {
  local pid name
  pid=$(cat "$work/pid" 2>/dev/null || true)
  if [ -n "$pid" ]; then
    ip netns list | cut -d' ' -f1 | grep -E "^mesh-.*-$pid-[0-9]+\$" | while read -r name; do ip netns delete "$name"; done || true
  fi
  rm -rf "$work"
}
trap sweep EXIT
# Ctrl-C reaches the demo itself, which ends in good order.
trap : INT TERM

status=0
(
  trap - INT TERM EXIT
  echo "$BASHPID" >"$work/pid"
  export TMPDIR=$work MESH_AGENT=$PWD/dist/mesh-agent
  exec .toolchain/node/bin/node --no-warnings test/lab/demo.ts "$@"
) || status=$?
exit $status
