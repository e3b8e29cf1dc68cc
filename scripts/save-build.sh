#!/bin/bash
# Saves what an older commit was, for test/skew: its program as one file, packed. `hub run` of it takes the life of certificates in
# seconds from SKEW_CERTIFICATE_SECONDS, so that a renewal can be waited for.
#   scripts/save-build.sh COMMIT FILE.cjs.br
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.toolchain/node/bin:$PATH
if [ $# != 2 ]; then
  echo "usage: scripts/save-build.sh COMMIT FILE.cjs.br" >&2
  exit 2
fi
commit=$(git rev-parse --verify --short=12 "$1^{commit}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git archive "$commit" src package.json | tar -x -C "$work"
ln -s "$PWD/node_modules" "$work/node_modules"
cat >"$work/entry.ts" <<'ENTRY'
import { loadHub } from './src/hub/init.ts';
import { runHub } from './src/hub/run.ts';

const seconds = Number(process.env.SKEW_CERTIFICATE_SECONDS ?? 0);
const { argv } = process;
if (seconds > 0 && argv[2] === 'hub' && argv[3] === 'run') {
  const after = (option: string): string => argv[argv.indexOf(option) + 1] ?? '';
  const { folder, config } = loadHub(after('--state-dir'));
  const hurried = { ...config, certificates: { life: seconds } };
  void runHub({ folder, config: hurried, socket: after('--socket') }).then((code) => {
    process.exitCode = code;
  });
} else void import('./src/main.ts');
ENTRY
version=$(node -p 'require(process.argv[1]).version' "$work/package.json")
facts=$(printf '{"version":"%s","commit":"%s","date":"%s"}' "$version" "$commit" "$(git log -1 --format=%cI "$commit")")
node_modules/.bin/esbuild "$work/entry.ts" --bundle --platform=node --target=node24 --format=cjs --external:*.node \
  --minify --keep-names --legal-comments=none --log-level=warning --define:import.meta.dirname=__dirname \
  --define:import.meta.filename=__filename "--define:MESH_AGENT_BUILD=$facts" "--outfile=$work/main.cjs"
node -e '
  const { readFileSync, writeFileSync } = require("node:fs");
  const { brotliCompressSync, constants } = require("node:zlib");
  const params = { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_LGWIN]: 24 };
  writeFileSync(process.argv[2], brotliCompressSync(readFileSync(process.argv[1]), { params }));
' "$work/main.cjs" "$2"
echo "saved $version ($commit) in $2"
