#!/bin/bash
# dist/native/mesh.node   the native module
# dist/native/*.bpf.json  the eBPF programs, the same for every architecture
# dist/main.cjs           the program as one file for Node 24
# dist/mesh-agent         the program as one executable; not with --bundle-only
# A step whose inputs did not change is skipped. From the environment: MESH_AGENT_ENTRY names another entry than
# src/main.ts, MESH_AGENT_DIST another output folder, MESH_AGENT_ARCH another architecture (x64, arm64; needs its cross
# compiler and `scripts/toolchain.sh ARCH`), MESH_AGENT_VERSION another version than package.json's; MESH_AGENT_COMMIT and
# SOURCE_DATE_EPOCH stand in for git.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.toolchain/node/bin:$PATH
root=$PWD
entry=${MESH_AGENT_ENTRY:-src/main.ts}
dist=${MESH_AGENT_DIST:-dist}
bundle_only=false
for argument in "$@"; do
  case "$argument" in
    --bundle-only) bundle_only=true ;;
    *)
      echo "usage: scripts/build.sh [--bundle-only]" >&2
      exit 2
      ;;
  esac
done
host_arch=$(cut -d- -f2 .toolchain/node/.version 2>/dev/null || true)
arch=${MESH_AGENT_ARCH:-$host_arch}
node_home=.toolchain/node cc=cc strip=strip
if [ "$arch" != "$host_arch" ]; then
  node_home=.toolchain/node-$arch
  case "$arch" in
    x64) triple=x86_64-linux-gnu ;;
    arm64) triple=aarch64-linux-gnu ;;
    *)
      echo "build: no such architecture: $arch" >&2
      exit 2
      ;;
  esac
  cc=$triple-gcc strip=$triple-strip
  if [ ! -d "$node_home" ] || ! command -v "$cc" >/dev/null; then
    echo "build: for $arch: scripts/setup.sh --package $arch" >&2
    exit 1
  fi
fi
if [ ! -x .toolchain/node/bin/node ] || [ ! -d node_modules ]; then
  echo "build: run scripts/setup.sh first" >&2
  exit 1
fi
mkdir -p "$dist/native"
# One at a time, whatever the target: they share the seeded Node.
exec 9>.toolchain/build.lock
flock 9

say() { echo "build: $*"; }

# fresh OUTPUT DIGEST: whether OUTPUT was made from inputs with this digest
fresh() { [ -e "$1" ] && [ "$(cat "$1.inputs" 2>/dev/null)" = "$2" ]; }
digest() { sha256sum | cut -d' ' -f1; }

build_native() {
  local out=$dist/native/mesh.node inputs
  local flags=(-O2 -g0 -Wall -Wextra -Werror -fPIC -fvisibility=hidden -shared "-I$node_home/include/node"
    "-Wl,-s,-z,now,-z,relro,--as-needed,--build-id=none,--version-script=native/exports.map")
  inputs=$( (cat native/mesh.c native/exports.map "$node_home/.version"; echo "${flags[@]}"; "$cc" --version) | digest)
  if fresh "$out" "$inputs"; then return; fi
  say "$out"
  # A module that is mapped by a running process must not change below it.
  "$cc" "${flags[@]}" -o "$out.new" native/mesh.c
  mv "$out.new" "$out"
  echo "$inputs" >"$out.inputs"
}

build_bpf() {
  local source out inputs includes=(-I/usr/include -I"/usr/include/$(cc -dumpmachine)")
  # The oldest instruction set that is enough: whoever loads it may run an older kernel.
  local flags=(-O2 -g0 -Wall -Wextra -Werror -target bpf -mcpu=v2)
  for source in native/bpf/*.bpf.c; do
    out=$dist/native/$(basename "$source" .c).json
    inputs=$( (cat "$source" native/bpf/*.h scripts/bpf-object.mjs; echo "${flags[@]}"; clang --version) | digest)
    if fresh "$out" "$inputs"; then continue; fi
    say "$out"
    clang "${flags[@]}" "${includes[@]}" -c "$source" -o "$out.o"
    node scripts/bpf-object.mjs "$out.o" >"$out.new"
    rm "$out.o"
    mv "$out.new" "$out"
    echo "$inputs" >"$out.inputs"
  done
}

package_version() {
  if [ -n "${MESH_AGENT_VERSION:-}" ]; then echo "$MESH_AGENT_VERSION"; else node -p 'require("./package.json").version'; fi
}

facts() {
  local version commit=${MESH_AGENT_COMMIT:-} epoch=${SOURCE_DATE_EPOCH:-}
  version=$(package_version)
  if git rev-parse --git-dir >/dev/null 2>&1; then
    if [ -z "$commit" ]; then
      commit=$(git rev-parse --short=12 HEAD)
      git diff --quiet HEAD -- src native package.json package-lock.json || commit+=-dirty
    fi
    epoch=${epoch:-$(git log -1 --format=%ct)}
  fi
  printf '{"version":"%s","commit":"%s","date":"%s"}' "$version" "${commit:-unknown}" \
    "$(date -u -d "@${epoch:-0}" +%Y-%m-%dT%H:%M:%SZ)"
}

build_bundle() {
  say "$dist/main.cjs"
  node_modules/.bin/esbuild "$entry" --bundle --platform=node --target=node24 --format=cjs --external:*.node \
    --minify --keep-names --legal-comments=none --log-level=warning --define:import.meta.dirname=__dirname \
    --define:import.meta.filename=__filename "--define:MESH_AGENT_BUILD=$(facts)" "--outfile=$dist/main.cjs"
  VERSION=$(package_version) node -p 'JSON.stringify({ name: "mesh-agent", version: process.env.VERSION, private: true,
    bin: "main.cjs", pkg: { sea: true, assets: ["native/mesh.node", "native/*.bpf.json", "install.sh"] } }, null, 2)' >"$dist/package.json"
  cp install.sh "$dist/install.sh"
}

# pkg wants to download its Node: it finds ours, stripped, where a finished download would lie. Stripping must come
# first: a finished executable does not survive it.
seed_node() { # VERSION ARCH HOME NODE STRIP
  local cache=$3/.pkg-cache/sea name=node-v$1-linux-$2
  if [ -e "$cache/$name/bin/node.ok" ]; then return; fi
  find "$cache" -mindepth 1 -maxdepth 1 ! -name "node-v$1-*" -exec rm -rf {} + 2>/dev/null || true
  mkdir -p "$cache/$name/bin"
  "$5" -s -o "$cache/$name/bin/node" "$4/bin/node"
  : >"$cache/$name.tar.gz"
  : >"$cache/$name.tar.gz.ok"
  : >"$cache/$name/bin/node.ok"
}

# The name of a temporary folder is in what pkg makes: another one each time, of the same length.
forget_folder() {
  node - "$1" <<'SCRIPT'
const { closeSync, openSync, readFileSync, writeSync } = require('node:fs');
const path = process.argv[2];
const bytes = readFileSync(path);
const file = openSync(path, 'r+');
const name = Buffer.from('/tmp/pkg-sea-');
for (let at = bytes.indexOf(name); at >= 0; at = bytes.indexOf(name, at + 1)) {
  if (/^[A-Za-z0-9]{6}\/$/.test(bytes.toString('latin1', at + name.length, at + name.length + 7)))
    writeSync(file, 'XXXXXX', at + name.length);
}
closeSync(file);
SCRIPT
}

build_executable() {
  local out=$dist/mesh-agent home=$root/.toolchain/pkg-home inputs version
  version=$(cut -d- -f1 "$node_home/.version")
  inputs=$(cat "$dist/main.cjs" "$dist/install.sh" "$dist/package.json" "$dist/native/mesh.node" "$dist"/native/*.bpf.json \
    "$node_home/.version" node_modules/@yao-pkg/pkg/package.json | digest)
  if fresh "$out" "$inputs"; then return; fi
  say "$out"
  # What is made for another architecture is made by this one's.
  seed_node "$version" "$host_arch" "$home" .toolchain/node strip
  seed_node "$version" "$arch" "$home" "$node_home" "$strip"
  if ! (cd "$dist" && HOME=$home TMPDIR=/tmp node "$root/node_modules/@yao-pkg/pkg/lib-es5/bin.js" . \
    -t "node$version-linux-$arch" -o mesh-agent.new) >"$dist/pkg.log" 2>&1; then
    cat "$dist/pkg.log" >&2
    exit 1
  fi
  forget_folder "$dist/mesh-agent.new"
  mv "$dist/mesh-agent.new" "$out"
  echo "$inputs" >"$out.inputs"
}

build_native
build_bpf
build_bundle
if [ $bundle_only = false ]; then build_executable; fi
