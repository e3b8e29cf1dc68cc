#!/bin/bash
# Everything that building and testing needs, on a bare Debian 12: system packages, the pinned Node, the npm packages.
# Installs only what is missing; safe to repeat. Needs root only when a system package is missing.
#   --package [ARCH]   also what making and testing packages needs; for another architecture (arm64, x64) its cross compiler
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(
  binutils ca-certificates clang conntrack curl etcd-client etcd-server gcc iproute2 iputils-ping libbpf-dev libc6-dev make
  netcat-openbsd nftables openssl procps prometheus socat tcpdump util-linux
)

PACKAGE_TOOLS=(createrepo-c debootstrap dpkg-dev gzip lintian openssl rpm rpmlint shellcheck systemd-container xz-utils zstd)
cross=

say() { echo "setup: $*"; }

if [ "${1:-}" = --package ]; then
  PACKAGES+=("${PACKAGE_TOOLS[@]}")
  cross=${2:-}
  case "$cross$(uname -m)" in
    arm64x86_64) PACKAGES+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross) ;;
    x64aarch64) PACKAGES+=(gcc-x86-64-linux-gnu libc6-dev-amd64-cross) ;;
    *x86_64 | *aarch64) ;;
  esac
elif [ $# -gt 0 ]; then
  echo "usage: scripts/setup.sh [--package [ARCH]]" >&2
  exit 2
fi

missing_packages() {
  local installed package
  installed=$(dpkg-query -W -f='${db:Status-Abbrev}${Package}\n' "${PACKAGES[@]}" 2>/dev/null | sed -n 's/^ii *//p' || true)
  for package in "${PACKAGES[@]}"; do
    grep -qx "$package" <<<"$installed" || echo "$package"
  done
  # Any npm will do, wherever it came from.
  command -v npm >/dev/null || echo npm
}

install_packages() {
  if [ "$(id -u)" != 0 ]; then
    say "these packages are missing, and installing them needs root: $*" >&2
    exit 1
  fi
  say "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  # The tests start servers of their own: no package may start one now. A policy that is already there stays.
  local policy=/usr/sbin/policy-rc.d
  if [ -e $policy ]; then policy=; else
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    # shellcheck disable=SC2064
    trap "rm -f $policy" EXIT
  fi
  apt-get -qq update
  apt-get -qq install -y --no-install-recommends "$@" >/dev/null
  if [ -n "$policy" ]; then
    rm -f $policy
    trap - EXIT
  fi
  # Nor at the next boot.
  case " $* " in *" etcd-server "*) never_start etcd ;; esac
  case " $* " in *" prometheus "*) never_start prometheus ;; esac
}

never_start() {
  if command -v systemctl >/dev/null; then
    systemctl disable "$1" >/dev/null 2>&1 || true
    [ ! -d /run/systemd/system ] || systemctl stop "$1" || true
  elif command -v update-rc.d >/dev/null; then
    update-rc.d "$1" disable >/dev/null 2>&1 || true
  fi
}

install_modules() {
  local wanted stamp=node_modules/.lock-digest
  wanted=$(sha256sum package-lock.json | cut -d' ' -f1)
  if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then return; fi
  say "npm packages"
  # No package may run a script of its own here; none needs to.
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
  echo "$wanted" >$stamp
}

if ! command -v dpkg-query >/dev/null; then
  say "this is not Debian: install the counterparts of: ${PACKAGES[*]} npm" >&2
  exit 1
fi
mapfile -t missing < <(missing_packages)
if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi
mkdir -p .toolchain
exec 9>.toolchain/setup.lock
flock 9
scripts/toolchain.sh
if [ -n "$cross" ]; then scripts/toolchain.sh "$cross"; fi
install_modules
if [ "${1:-}" = --package ]; then scripts/rootfs.sh; fi
say "ready"
