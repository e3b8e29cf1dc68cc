#!/bin/bash
# A minimal Debian with systemd in .toolchain/rootfs/<suite>, in which the packages are tested. Does nothing when it is there.
# Made by debootstrap from the mirror that apt uses (a minute); needs root.
#   scripts/rootfs.sh [SUITE]
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${1:-bookworm}
root=.toolchain/rootfs/$suite
packages=ca-certificates,curl,dbus,iproute2,kmod,libnss-resolve,libstdc++6,netcat-openbsd,nftables,procps,systemd
packages+=,systemd-resolved,systemd-sysv,udev
if [ "$(cat "$root.contents" 2>/dev/null)" = "$packages" ] && [ -d "$root" ]; then exit 0; fi
echo "rootfs: $root"
mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb  *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\).*/\2/p' \
  /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1 || true)
rm -rf "$root" "$root.new"
mkdir -p .toolchain/rootfs
if ! debootstrap --variant=minbase --include="$packages" "$suite" "$root.new" ${mirror:+"$mirror"} >"$root.log" 2>&1; then
  tail -n 20 "$root.log" >&2
  exit 1
fi
rm -rf "$root.new"/var/cache/apt/archives/*.deb "$root.new"/var/lib/apt/lists/*
mv "$root.new" "$root"
echo "$packages" >"$root.contents"
