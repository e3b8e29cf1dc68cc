#!/bin/bash
# Brings the Node that the product is built with into .toolchain/node, checked against a pinned digest. Does nothing
# when it is there. Needs npm of any age (2 s on a bare machine, most of it unpacking). With an architecture (x64, arm64)
# that is not this machine's: the Node that goes into a package for that one, into .toolchain/node-<architecture>.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=24.21.0
case "$(uname -m)" in
  x86_64) HOST=x64 ;;
  aarch64) HOST=arm64 ;;
  *)
    echo "toolchain: no Node is known for $(uname -m)" >&2
    exit 1
    ;;
esac
ARCH=${1:-$HOST}
folder=.toolchain/node
if [ "$ARCH" != "$HOST" ]; then folder=.toolchain/node-$ARCH; fi
case "$ARCH" in
  x64)
    INTEGRITY=3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==
    ;;
  arm64)
    INTEGRITY=FpJRPEz2OvvTLfjIOlNGFY9JLPMKgl5m+d4oGYBLg24kJ1mmvN1Zl/HPJgF4HDaJ51ISev1l1cRZ/DM+keXW5g==
    ;;
  *)
    echo "toolchain: no Node is known for $ARCH" >&2
    exit 2
    ;;
esac

if [ "$(cat "$folder/.version" 2>/dev/null)" = "$VERSION-$ARCH" ]; then exit 0; fi
echo "toolchain: Node $VERSION ($ARCH)"
work=.toolchain/unpack.$$
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
package="node-linux-$ARCH"
(cd "$work" && npm pack "$package@$VERSION" --silent >/dev/null)
archive="$work/$package-$VERSION.tgz"
wanted=$(base64 -d <<<"$INTEGRITY" | od -An -tx1 | tr -d ' \n')
found=$(sha512sum "$archive" | cut -d' ' -f1)
if [ "$wanted" != "$found" ]; then
  echo "toolchain: $package@$VERSION is not the pinned one: sha512 $found" >&2
  exit 1
fi
tar -xzf "$archive" -C "$work"
echo "$VERSION-$ARCH" >"$work/package/.version"
rm -rf "$folder"
mv "$work/package" "$folder"
if [ "$ARCH" = "$HOST" ]; then "$folder/bin/node" --version >/dev/null; fi
