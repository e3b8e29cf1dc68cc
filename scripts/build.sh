#!/bin/bash
# dist/native/mesh.node   the native module
# dist/main.cjs           the program as one file for Node 24
# dist/mesh-agent         the program as one executable; not with --bundle-only
# A step whose inputs did not change is skipped. From the environment: MESH_AGENT_ENTRY names another entry than
# src/main.ts, MESH_AGENT_DIST another output folder; MESH_AGENT_COMMIT and SOURCE_DATE_EPOCH stand in for git.
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
  local flags=(-O2 -g0 -Wall -Wextra -Werror -fPIC -fvisibility=hidden -shared -I.toolchain/node/include/node
    "-Wl,-s,-z,now,-z,relro,--as-needed,--build-id=none,--version-script=native/exports.map")
  inputs=$( (cat native/mesh.c native/exports.map .toolchain/node/.version; echo "${flags[@]}"; cc --version) | digest)
  if fresh "$out" "$inputs"; then return; fi
  say "$out"
  # A module that is mapped by a running process must not change below it.
  cc "${flags[@]}" -o "$out.new" native/mesh.c
  mv "$out.new" "$out"
  echo "$inputs" >"$out.inputs"
}

facts() {
  local version commit=${MESH_AGENT_COMMIT:-} epoch=${SOURCE_DATE_EPOCH:-}
  version=$(node -p 'require("./package.json").version')
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
  node -p 'JSON.stringify({ name: "mesh-agent", version: require("./package.json").version, private: true,
    bin: "main.cjs", pkg: { sea: true, assets: ["native/mesh.node"] } }, null, 2)' >"$dist/package.json"
}

# pkg wants to download its Node: it finds ours, stripped, where a finished download would lie. Stripping must come
# first: a finished executable does not survive it.
seed_node() {
  local version=$1 arch=$2 cache=$3/.pkg-cache/sea
  local name=node-v$version-linux-$arch
  if [ -e "$cache/$name/bin/node.ok" ]; then return; fi
  rm -rf "${cache:?}"
  mkdir -p "$cache/$name/bin"
  strip -s -o "$cache/$name/bin/node" .toolchain/node/bin/node
  : >"$cache/$name.tar.gz"
  : >"$cache/$name.tar.gz.ok"
  : >"$cache/$name/bin/node.ok"
}

build_executable() {
  local out=$dist/mesh-agent home=$root/.toolchain/pkg-home inputs version arch
  version=$(cut -d- -f1 .toolchain/node/.version)
  arch=$(cut -d- -f2 .toolchain/node/.version)
  inputs=$(cat "$dist/main.cjs" "$dist/package.json" "$dist/native/mesh.node" .toolchain/node/.version \
    node_modules/@yao-pkg/pkg/package.json | digest)
  if fresh "$out" "$inputs"; then return; fi
  say "$out"
  seed_node "$version" "$arch" "$home"
  if ! (cd "$dist" && HOME=$home node "$root/node_modules/@yao-pkg/pkg/lib-es5/bin.js" . \
    -t "node$version-linux-$arch" -o mesh-agent.new) >"$dist/pkg.log" 2>&1; then
    cat "$dist/pkg.log" >&2
    exit 1
  fi
  mv "$dist/mesh-agent.new" "$out"
  echo "$inputs" >"$out.inputs"
}

build_native
build_bundle
if [ $bundle_only = false ]; then build_executable; fi
