import { writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { type Row, reaches } from './row.ts';

/**
 * Measures against the figures of the design: `npm run bench -- [--write] [NAME...]`, as root. `--write` puts the result
 * into docs/performance.md, which only makes sense for all of them.
 */
const BENCHES: Readonly<
  Record<string, { readonly about: string; readonly load: () => Promise<{ run: () => Promise<Row[]> }> }>
> = {
  kvstore: { about: 'listing and watching a store', load: () => import('./kvstore.ts') },
  watch: { about: 'bursts of changes, followed', load: () => import('./watch.ts') },
  ipcache: { about: 'addresses in memory', load: () => import('./ipcache.ts') },
  policy: { about: 'resolving policies', load: () => import('./policy.ts') },
  nft: { about: 'loading and changing the kernel tables', load: () => import('./nft.ts') },
  datapath: {
    about: 'packets through the table, against connection tracking alone',
    load: () => import('./datapath.ts'),
  },
  hub: { about: 'a hub and its fleet', load: () => import('./hub.ts') },
  fleet: { about: 'a hub with many clusters, and a machine that joined it', load: () => import('./fleet.ts') },
  kvstoremesh: { about: 'many clusters, copied for machines', load: () => import('./kvstoremesh.ts') },
  services: { about: 'connections through services, loading and changing them', load: () => import('./services.ts') },
  monitor: { about: 'verdicts that are looked at, and a flood of drops', load: () => import('./monitor.ts') },
  agent: { about: 'the whole agent, from start to enforced', load: () => import('./agent.ts') },
};

const say = (text: string): void => void process.stdout.write(`${text}\n`);

function table(rows: readonly Row[]): string[] {
  const lines = ['| what | measured | bar | |', '| --- | --- | --- | --- |'];
  for (const row of rows) {
    const mark = reaches(row);
    const value = row.value >= 100 ? row.value.toFixed(0) : row.value.toFixed(row.value >= 10 ? 1 : 2);
    lines.push(
      `| ${row.name} | ${value} ${row.unit} | ${row.bar ?? ''} | ${mark === undefined ? '' : mark ? 'yes' : '**no**'} |`,
    );
  }
  return lines;
}

async function main(args: readonly string[]): Promise<void> {
  const write = args.includes('--write');
  const chosen = args.filter((arg) => !arg.startsWith('--'));
  const unknown = chosen.find((name) => !(name in BENCHES));
  if (unknown !== undefined) {
    say(`no benchmark is named ${unknown}; there are: ${Object.keys(BENCHES).join(', ')}`);
    process.exitCode = 2;
    return;
  }
  const machine = `${cpus().length} cores (${cpus()[0]?.model ?? 'unknown'}), ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.version}`;
  const page = [
    '# Performance',
    '',
    `Measured by \`npm run bench\` on ${new Date().toISOString().slice(0, 10)}: ${machine}.`,
    '',
  ];
  let missed = 0;
  for (const [name, { about, load }] of Object.entries(BENCHES)) {
    if (chosen.length > 0 && !chosen.includes(name)) continue;
    say(`bench: ${name}: ${about}`);
    const { run } = await load();
    const rows = await run();
    const lines = table(rows);
    for (const line of lines) say(line);
    page.push(`## ${name}: ${about}`, '', ...lines, '');
    missed += rows.filter((row) => reaches(row) === false).length;
  }
  if (write) writeFileSync(join(import.meta.dirname, '../docs/performance.md'), page.join('\n'));
  say(missed === 0 ? 'bench: every bar is reached' : `bench: ${missed} bars are missed`);
  process.exitCode = missed === 0 ? 0 : 1;
}

await main(process.argv.slice(2));
