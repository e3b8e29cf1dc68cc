#!/bin/bash
# Shows the product at work on a bare Debian 12: two clusters, a hub and a machine in network namespaces of their own.
# Takes everything away again, whatever happens.  --direct: without a hub, the machine joins a cluster of Cilium 1.16.
# --keep: leaves it running until Ctrl-C, to explore by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

for argument in "$@"; do
  case "$argument" in
    --keep | --hub | --direct) ;;
    *)
      echo "usage: scripts/demo.sh [--hub | --direct] [--keep]" >&2
      exit 2
      ;;
  esac
done
if [ "$(id -u)" != 0 ]; then
  echo "demo: it makes network namespaces and packet filter rules in them: run it as root (sudo $0)" >&2
  exit 1
fi
# Not everybody's root has them in the path.
export PATH=$PATH:/usr/sbin:/sbin
scripts/setup.sh
scripts/build.sh

work=$(mktemp -d /tmp/mesh-demo.XXXXXX)
# etcd waits for the disk at every write: memory, if there is some.
data=$(mktemp -d /dev/shm/mesh-demo.XXXXXX 2>/dev/null || mktemp -d "$work/data.XXXXXX")
TMPDIR=$work MESH_LAB_DATA=$data MESH_AGENT=$PWD/dist/mesh-agent \
  .toolchain/node/bin/node --no-warnings test/lab/demo.ts "$@" &
demo=$!

# The demo cleans up after itself; this is for the case that it was killed. Its namespaces carry its process id.
sweep() {
  local name
  kill -KILL "$demo" 2>/dev/null || true
  for name in $(ip netns list | cut -d' ' -f1 | grep -E "^mesh-.*-$demo-[0-9]+\$" || true); do
    ip netns delete "$name" || true
  done
  for name in "$work"/mesh-bpf-*; do
    if [ -e "$name" ]; then umount --lazy "$name" || true; fi
  done
  rm -rf "$work" "$data"
}
trap sweep EXIT
trap 'kill -INT "$demo" 2>/dev/null || true' INT TERM HUP

# A signal ends the wait, not the demo: it takes its leave in good order.
status=0
wait "$demo" || status=$?
while kill -0 "$demo" 2>/dev/null; do
  status=0
  wait "$demo" || status=$?
done
exit $status
