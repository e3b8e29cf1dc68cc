import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * What is inside the executable: `node packaging/sbom.ts FOLDER VERSION DATE NODE_VERSION` writes `sbom.cdx.json` (CycloneDX
 * 1.6), `NOTICES` (the licences of what is bundled) and `copyright`. The list is that of package-lock.json: no package for
 * development is bundled.
 */
interface LockEntry {
  readonly version?: string;
  readonly integrity?: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
}

/** What is true as long as there is no file LICENSE at the top of the sources. */
const NO_LICENCE =
  'No licence has been named for mesh-agent itself. This file grants none: who wants to pass it on must ask the authors.';

interface Component {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  readonly integrity: string | undefined;
  readonly notices: readonly string[];
}

const [folder = '', version = '', date = '', nodeVersion = ''] = process.argv.slice(2);
const components = bundled();
writeFileSync(join(folder, 'sbom.cdx.json'), `${JSON.stringify(bom(), null, 2)}\n`);
writeFileSync(join(folder, 'NOTICES'), notices());
writeFileSync(join(folder, 'copyright'), copyright());

function bundled(): Component[] {
  const lock = JSON.parse(readFileSync('package-lock.json', 'utf8')) as { packages: Record<string, LockEntry> };
  return Object.entries(lock.packages)
    .filter(([path, { dev, optional }]) => path.startsWith('node_modules/') && dev !== true && optional !== true)
    .map(([path, entry]) => {
      const about = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8')) as { license?: unknown };
      const files = readdirSync(path).filter((file) => /^(licen[cs]e|notice|copying)/i.test(file));
      return {
        name: path.slice(path.lastIndexOf('node_modules/') + 13),
        version: entry.version ?? '',
        license: typeof about.license === 'string' ? about.license : 'NOASSERTION',
        integrity: entry.integrity,
        notices: files.map((file) => readFileSync(join(path, file), 'utf8').trim()),
      };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

function bom(): object {
  const hashesOf = (integrity: string | undefined): object => {
    const [algorithm, digest] = integrity?.split('-', 2) ?? [];
    if (algorithm !== 'sha512' || digest === undefined) return {};
    return { hashes: [{ alg: 'SHA-512', content: Buffer.from(digest, 'base64').toString('hex') }] };
  };
  const purl = (name: string, of: string): string => `pkg:npm/${name.replace('@', '%40')}@${of}`;
  const root = `pkg:generic/mesh-agent@${version}`;
  const node = `pkg:generic/nodejs@${nodeVersion}`;
  const all = components.map(({ name, version: of, license, integrity }) => ({
    type: 'library',
    'bom-ref': purl(name, of),
    name,
    version: of,
    purl: purl(name, of),
    licenses: [{ expression: license }],
    ...hashesOf(integrity),
  }));
  return {
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    serialNumber: `urn:uuid:${uuidOf(JSON.stringify([version, all]))}`,
    version: 1,
    metadata: {
      timestamp: date,
      component: { type: 'application', 'bom-ref': root, name: 'mesh-agent', version },
    },
    components: [
      ...all,
      {
        type: 'platform',
        'bom-ref': node,
        name: 'Node.js',
        version: nodeVersion,
        purl: node,
        licenses: [{ expression: 'MIT' }],
      },
    ],
    dependencies: [{ ref: root, dependsOn: [...all.map((each) => each['bom-ref']), node] }],
  };
}

/** The same for the same content, so that two builds are equal. */
function uuidOf(text: string): string {
  const hex = createHash('sha256').update(text).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function notices(): string {
  const parts = components.map(({ name, version: of, license, notices: texts }) => {
    return `${name} ${of}\nLicence: ${license}\n\n${texts.length === 0 ? '(the package has no licence text of its own)' : texts.join('\n\n')}\n`;
  });
  const node = readFileSync('.toolchain/node/LICENSE', 'utf8');
  parts.push(`Node.js ${nodeVersion}, and what it includes\n\n${node}`);
  return `mesh-agent includes the following software.\n\n${parts.join(`\n${'-'.repeat(80)}\n\n`)}`;
}

function copyright(): string {
  const own = existsSync('LICENSE')
    ? readFileSync('LICENSE', 'utf8')
    : `Copyright (c) 2026 the authors of mesh-agent\n\n${NO_LICENCE}\n`;
  const list = components.map(({ name, version: of, license }) => `  ${name} ${of}: ${license}`).join('\n');
  return (
    `mesh-agent\n\n${own}\n` +
    `The executable includes Node.js ${nodeVersion} (MIT and others) and these packages:\n\n${list}\n\n` +
    'The Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0 where the system has it. All copyright notices and licence texts are in NOTICES.gz beside this file, and the list for machines in sbom.cdx.json.\n'
  );
}
