#!/bin/bash
# dist/mesh-agent_<version>_<arch>.deb, dist/mesh-agent-<version>-1.<arch>.rpm and dist/mesh-agent-<version>-<arch>.tar.gz from
# packaging/files.tsv, for this machine's architecture or the one that is named. The same commit makes the same bytes.
#   scripts/package.sh [--arch x64|arm64] [--only deb|rpm|tar] [--fast] [--out FOLDER]
# --fast: for tests, hardly compressed. MESH_AGENT_VERSION stands in for the version of package.json, MESH_AGENT_MAINTAINER
# (`Name <address>`) names who distributes the packages.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.toolchain/node/bin:$PATH LC_ALL=C TZ=UTC
umask 022

usage() {
  echo "usage: scripts/package.sh [--arch x64|arm64] [--only deb|rpm|tar] [--fast] [--out FOLDER]" >&2
  exit 2
}
arch="" only="" fast=false out=dist
while [ $# -gt 0 ]; do
  case "$1" in
    --arch | --only | --out)
      [ $# -ge 2 ] || usage
      case "$1" in --arch) arch=$2 ;; --only) only=$2 ;; --out) out=$2 ;; esac
      shift 2
      ;;
    --fast) fast=true && shift ;;
    *) usage ;;
  esac
done
case "$only" in '' | deb | rpm | tar) ;; *) usage ;; esac
if [ ! -x .toolchain/node/bin/node ]; then
  echo "package: run scripts/setup.sh --package first" >&2
  exit 1
fi
host_arch=$(cut -d- -f2 .toolchain/node/.version)
arch=${arch:-$host_arch}
case "$arch" in
  x64) deb_arch=amd64 rpm_arch=x86_64 ;;
  arm64) deb_arch=arm64 rpm_arch=aarch64 ;;
  *) usage ;;
esac
for tool in dpkg-deb rpmbuild gzip; do
  case "$tool:$only" in rpmbuild:deb | rpmbuild:tar | dpkg-deb:rpm | dpkg-deb:tar) continue ;; esac
  command -v "$tool" >/dev/null || {
    echo "package: $tool is missing: scripts/setup.sh --package" >&2
    exit 1
  }
done

say() { echo "package: $*"; }

export MESH_AGENT_ARCH=$arch
dist=${MESH_AGENT_DIST:-dist}
if [ "$arch" != "$host_arch" ]; then dist=$dist/$arch; fi
MESH_AGENT_DIST=$dist scripts/build.sh
version=$(node -p 'require(require("node:path").resolve(process.argv[1])).version' "$dist/package.json")
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH=$epoch
maintainer=${MESH_AGENT_MAINTAINER:-mesh-agent <mesh-agent@localhost>}
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

generate() {
  local gen=$work/gen date
  mkdir -p "$gen"
  date=$(date -u -d "@$epoch" +%Y-%m-%d)
  node --no-warnings packaging/man.ts "$gen" "$version" "$date"
  node --no-warnings packaging/sbom.ts "$gen" "$version" "${date}T00:00:00Z" "$(cut -d- -f1 .toolchain/node/.version)"
  printf 'mesh-agent (%s) stable; urgency=medium\n\n  * This version; what changed is in the history of the sources.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(date -u -R -d "@$epoch")" >"$gen/changelog"
  gzip -9n "$gen/changelog" "$gen/NOTICES" "$gen"/man/*
}

# stage KIND ROOT: what files.tsv lists for that kind of package. Writes ROOT.conf with the configuration files, and
# ROOT.files as rpm wants it.
stage() {
  local kind=$1 root=$2 source destination mode what packages each target
  : >"$root.conf"
  : >"$root.files"
  while IFS=$'\t' read -r source destination mode what packages; do
    case "$source" in '' | '#'*) continue ;; esac
    case "$packages" in all | "$kind") ;; *) continue ;; esac
    if [ "$what" = dir ]; then
      install -d -m "$mode" "$root$destination"
      echo "%dir %attr($mode,root,root) $destination" >>"$root.files"
      continue
    fi
    source=${source/@DIST@/$dist}
    source=${source/@GEN@/$work/gen}
    for each in $source; do
      target=$destination
      [ "${destination%/}" = "$destination" ] || target=$destination$(basename "$each")
      install -D -m "$mode" "$each" "$root$target"
      case "$what:$target" in
        conf:*)
          echo "$target" >>"$root.conf"
          echo "%config(noreplace) %attr($mode,root,root) $target" >>"$root.files"
          ;;
        *:/usr/share/doc/*) echo "%doc %attr($mode,root,root) $target" >>"$root.files" ;;
        *) echo "%attr($mode,root,root) $target" >>"$root.files" ;;
      esac
    done
  done < <(sed 's/#.*//' packaging/files.tsv)
  find "$root" -exec touch -h -d "@$epoch" {} +
}

make_deb() {
  local root=$work/deb size compression=(-Zxz -z6)
  $fast && compression=(-Zgzip -z1)
  stage deb "$root"
  size=$(du -k --apparent-size -s "$root" | cut -f1)
  mkdir -m 0755 "$root/DEBIAN"
  cat >"$root/DEBIAN/control" <<CONTROL
Package: mesh-agent
Version: $version
Architecture: $deb_arch
Maintainer: $maintainer
Section: net
Priority: optional
Installed-Size: $size
Depends: libc6 (>= 2.28), libgcc-s1 | libgcc1, libstdc++6 (>= 7), nftables (>= 0.9), iproute2
Recommends: iputils-ping
Suggests: etcd-server
Description: joins a machine to a Cilium ClusterMesh and enforces its policies
 The agent gives a virtual machine or a bare metal host an identity in a
 Cilium ClusterMesh, follows the identities, addresses and services of all
 clusters, and enforces Cilium network policies on the host with nftables.
 The same program is the control plane of a fleet of such machines
 (mesh-agent hub, which wants etcd-server) and the command line for both.
CONTROL
  cp "$root.conf" "$root/DEBIAN/conffiles"
  (cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | sort | xargs md5sum) >"$root/DEBIAN/md5sums"
  chmod 0644 "$root"/DEBIAN/*
  install -m 0755 packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm "$root/DEBIAN/"
  touch -d "@$epoch" "$root"/DEBIAN/* "$root/DEBIAN"
  dpkg-deb --root-owner-group "${compression[@]}" -b "$root" "$out/mesh-agent_${version}_$deb_arch.deb" >/dev/null
  say "$out/mesh-agent_${version}_$deb_arch.deb"
}

make_rpm() {
  local root=$work/rpm payload=w19.zstdio
  $fast && payload=w3.zstdio
  stage rpm "$root"
  {
    cat <<SPEC
%global debug_package %{nil}
# No strip: it breaks a single executable application.
%global __os_install_post %{nil}
%global _build_id_links none
%define _binary_payload $payload
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
Name: mesh-agent
Version: ${version//-/\~}
Release: 1
Summary: Joins a machine to a Cilium ClusterMesh and enforces its policies
License: $(node -p 'require("./package.json").license ?? "LicenseRef-mesh-agent"')
Group: System Environment/Daemons
Packager: $maintainer
Requires: nftables
Requires: iproute
Requires: systemd
Recommends: iputils
Suggests: etcd

%description
The agent gives a virtual machine or a bare metal host an identity in a Cilium
ClusterMesh, follows the identities, addresses and services of all clusters,
and enforces Cilium network policies on the host with nftables. The same
program is the control plane of a fleet of such machines (mesh-agent hub, which
wants etcd) and the command line for both.

%install
cp -a $root/. %{buildroot}/

%files -f $root.files

SPEC
    cat packaging/rpm/scriptlets.spec
    printf '\n%%changelog\n* %s %s - %s-1\n- This version.\n' \
      "$(date -u -d "@$epoch" '+%a %b %d %Y')" "$maintainer" "${version//-/\~}"
  } >"$work/mesh-agent.spec"
  rpmbuild -bb --quiet --target "$rpm_arch" --define "_topdir $work/rpmbuild" --define "_rpmdir $out" \
    --define '_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' --define '_buildhost reproducible' \
    --define "_dbpath $work/rpmdb" "$work/mesh-agent.spec" >"$work/rpm.log" 2>&1 || {
    cat "$work/rpm.log" >&2
    exit 1
  }
  say "$out/mesh-agent-${version//-/\~}-1.$rpm_arch.rpm"
}

# For systems without deb or rpm; install.sh knows what to do with it.
make_tar() {
  local name=mesh-agent-$version-$arch level=9
  $fast && level=1
  stage deb "$work/$name"
  tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -cf - "$name" |
    gzip -n "-$level" >"$out/$name.tar.gz"
  say "$out/$name.tar.gz"
}

generate
case "$only" in '' | deb) make_deb ;; esac
case "$only" in '' | rpm) make_rpm ;; esac
case "$only" in '' | tar) make_tar ;; esac
