#!/bin/bash
# A release folder: packages and tarballs of the architectures, SBOM, install.sh, SHA256SUMS and its signature, and the metadata
# of an apt and a yum repository, so that the folder can be served as it is: by a hub (its packages/), by any web server, or
# from a disk (install.sh --from).
#   scripts/release.sh [--arch x64,arm64] [--key PRIVATE_KEY.pem] [--fast] [--out FOLDER]
# --key: a private key of openssl (EC or RSA); without one nothing is signed. The same commit makes the same bytes, but for
# the signature. apt and yum verify by the checksums of the repository; their own OpenPGP signatures are the distributor's.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C TZ=UTC
umask 022

usage() {
  echo "usage: scripts/release.sh [--arch x64,arm64] [--key PRIVATE_KEY.pem] [--fast] [--out FOLDER]" >&2
  exit 2
}
archs="x64,arm64" key="" out=dist/release options=()
while [ $# -gt 0 ]; do
  case "$1" in
    --arch | --key | --out)
      [ $# -ge 2 ] || usage
      case "$1" in --arch) archs=$2 ;; --key) key=$2 ;; --out) out=$2 ;; esac
      shift 2
      ;;
    --fast) options+=(--fast) && shift ;;
    *) usage ;;
  esac
done
for tool in dpkg-scanpackages createrepo_c openssl; do
  command -v "$tool" >/dev/null || {
    echo "release: $tool is missing: scripts/setup.sh --package" >&2
    exit 1
  }
done
if [ -n "$key" ] && ! openssl pkey -in "$key" -noout 2>/dev/null; then
  echo "release: that is no private key: $key" >&2
  exit 1
fi
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH=$epoch

new=$out.new
rm -rf "$new"
mkdir -p "$new"
for arch in ${archs//,/ }; do scripts/package.sh --arch "$arch" "${options[@]}" --out "$new"; done
cp install.sh "$new/"
deb=("$new"/*.deb)
dpkg-deb --fsys-tarfile "${deb[0]}" | tar -xOf - ./usr/share/doc/mesh-agent/sbom.cdx.json >"$new/mesh-agent.sbom.cdx.json"
(
  cd "$new"
  dpkg-scanpackages --multiversion . 2>/dev/null >Packages
  gzip -9nk Packages
  {
    echo "Origin: mesh-agent"
    echo "Label: mesh-agent"
    echo "Suite: stable"
    echo "Architectures: amd64 arm64"
    date -u -d "@$epoch" '+Date: %a, %d %b %Y %H:%M:%S UTC'
    echo "SHA256:"
    for file in Packages Packages.gz; do
      echo " $(sha256sum "$file" | cut -d' ' -f1) $(stat -c %s "$file") $file"
    done
  } >Release
  # The time of a file is in the metadata.
  touch -d "@$epoch" ./*
  createrepo_c --quiet --revision "$epoch" --set-timestamp-to-revision --no-database --simple-md-filenames .
  find . -type f ! -name 'SHA256SUMS*' -printf '%P\n' | sort -V | xargs sha256sum >SHA256SUMS
)
if [ -n "$key" ]; then
  openssl dgst -sha256 -sign "$key" -out "$new/SHA256SUMS.sig" "$new/SHA256SUMS"
  openssl pkey -in "$key" -pubout -out "$new/release.pub"
fi
rm -rf "$out"
mv "$new" "$out"
echo "release: $out"
