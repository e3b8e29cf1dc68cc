import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { DoctorRecord } from '../../src/api/doctor-types.ts';
import { execute, PROGRAM } from '../lab/daemon.ts';
import {
  type Break,
  breakTests,
  type DoctorLab,
  examine,
  startDoctorLab,
  textOf,
  troubles,
} from '../lab/doctor-lab.ts';
import { host, Namespace } from '../lab/namespace.ts';

/** The agent does not run, hangs, is not joined, or lacks what it needs; and the doctor works all the same. */
let started: DoctorLab;
const lab = () => started.lab;
const agent = () => lab().agent;
const folder = mkdtempSync(join(tmpdir(), 'mesh-doctor-'));
let configuration = '';

before(async () => {
  started = await startDoctorLab();
  configuration = readFileSync(agent().configFile, 'utf8');
});
after(async () => {
  await started?.close();
  rmSync(folder, { recursive: true, force: true });
});

const configure = (change: (config: Record<string, unknown>) => object): void => {
  writeFileSync(agent().configFile, JSON.stringify(change(JSON.parse(configuration) as Record<string, unknown>)));
};

async function restart(): Promise<void> {
  await agent().stop();
  agent().start();
}

async function whole(): Promise<void> {
  writeFileSync(agent().configFile, configuration);
  await restart();
  await agent().untilReady();
}

/** Starts the agent, and everything that it starts, with these programs and no others. */
async function restartWith(nft: string | undefined): Promise<void> {
  const bin = mkdtempSync(join(folder, 'bin-'));
  for (const name of ['nsenter', 'unshare', 'mount', 'setpriv', 'ping', 'ip', 'sh'])
    symlinkSync(host('which', name).trim(), join(bin, name));
  if (nft !== undefined) writeFileSync(join(bin, 'nft'), `#!${join(bin, 'sh')}\n${nft}\n`, { mode: 0o755 });
  const { PATH } = process.env;
  process.env.PATH = bin;
  try {
    await restart();
  } finally {
    process.env.PATH = PATH;
  }
  await agent().untilStatus('it answers', () => true);
}

const BREAKS: readonly Break[] = [
  {
    name: 'the agent was killed',
    first: 'API-UNREACHABLE',
    exit: 3,
    break: () => agent().kill(),
    mend: whole,
  },
  {
    name: 'the agent hangs',
    first: 'API-UNREACHABLE',
    exit: 3,
    break: () => {
      process.kill(agent().pid, 'SIGSTOP');
    },
    mend: () => {
      process.kill(agent().pid, 'SIGCONT');
    },
  },
  {
    name: 'the agent was killed and its rules were flushed',
    first: 'API-UNREACHABLE',
    follows: ['DPN-ABSENT'],
    exit: 3,
    break: async () => {
      await agent().kill();
      lab().machine.namespace.run('nft', 'flush', 'ruleset');
    },
    mend: whole,
  },
  {
    name: 'the configuration cannot be read, so the agent does not start',
    first: 'CFG-SYNTAX',
    follows: ['API-UNREACHABLE'],
    exit: 3,
    break: async () => {
      writeFileSync(agent().configFile, `${configuration}\n}`);
      await restart();
    },
    mend: whole,
  },
  {
    name: 'a key of the configuration is misspelt',
    first: 'CFG-KEY',
    follows: ['API-UNREACHABLE'],
    exit: 3,
    break: async () => {
      configure((config) => ({ ...config, enforcment: 'always' }));
      await restart();
    },
    mend: whole,
  },
  {
    name: 'the program nft is missing',
    first: 'DPN-MISSING',
    break: () => restartWith(undefined),
    mend: whole,
  },
  {
    name: 'the program nft is broken',
    first: 'DPN-RULES',
    break: () => restartWith('echo "error while loading shared libraries: libnftables.so.1" >&2; exit 127'),
    mend: whole,
  },
  {
    name: 'the program nft is too old',
    first: 'DPN-OLD',
    break: () =>
      restartWith(
        'case "$1" in --version) echo "nftables v0.9.0 (Fearless Fosdick)";; *) echo "syntax error" >&2; exit 1;; esac',
      ),
    mend: whole,
  },
  {
    name: 'no store is configured',
    first: 'AGT-KVSTORE',
    exit: 5,
    break: async () => {
      configure(({ kvstore: _, ...config }) => config);
      rmSync(join(agent().stateDir, 'last-good'), { recursive: true, force: true });
      await restart();
      await agent().untilStatus('it answers', () => true);
    },
    mend: whole,
  },
  {
    name: 'the cluster has no workload of this name',
    first: 'MSH-REGISTRATION',
    subject: 'kvstore',
    exit: 5,
    break: async () => {
      configure((config) => ({ ...config, name: 'stranger' }));
      rmSync(join(agent().stateDir, 'last-good'), { recursive: true, force: true });
      await restart();
      await agent().untilStatus('it waits for an answer', ({ registration }) => registration.state === 'announced');
    },
    mend: whole,
  },
  {
    name: 'the cluster that answers is not the one that is configured',
    first: 'MSH-REFUSED',
    exit: 5,
    break: async () => {
      configure((config) => ({ ...config, cluster: { name: 'cluster-q', id: 9 } }));
      rmSync(join(agent().stateDir, 'last-good'), { recursive: true, force: true });
      await restart();
      await agent().untilHealth('MSH-REFUSED');
    },
    mend: whole,
  },
  {
    name: 'nothing is to be enforced',
    first: 'AGT-UNENFORCED',
    exit: 0,
    break: async () => {
      configure((config) => ({ ...config, datapath: 'none' }));
      await restart();
      await agent().untilStatus('it is registered', ({ registration }) => registration.state === 'registered');
    },
    mend: whole,
  },
];

breakTests(lab, BREAKS);

const WHERE = (): string[] => [
  '--state-dir',
  agent().stateDir,
  '--socket',
  agent().socket,
  '--config',
  agent().configFile,
];

async function examineBy(...prefix: readonly string[]): Promise<DoctorRecord> {
  const [command = '', ...args] = [...prefix, ...PROGRAM, 'doctor', '-o', 'json', ...WHERE()];
  const { stdout, stderr, code } = await execute(command, args);
  assert.ok(code >= 0, stderr);
  return JSON.parse(stdout) as DoctorRecord;
}

test('on a machine without a network it ends in time and says that there is no way', async () => {
  const empty = new Namespace('nowhere');
  try {
    const record = await examineBy('nsenter', `--net=/run/netns/${empty.name}`);
    assert.ok(record.tookMs < 25_000);
    const found = troubles(record);
    assert.equal(found[0]?.code, 'HST-ROUTE', textOf(found));
  } finally {
    await empty.close();
  }
});

test('a user who is not root gets an answer, and the reason for what was skipped', async () => {
  // Folders of the lab are for root alone: that is what such a user sees.
  const record = await examineBy('setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups');
  const found = troubles(record);
  assert.ok(found.length > 0);
  assert.ok(record.checks.every(({ text }) => text.length > 0));
  assert.ok(!found.some(({ code }) => code === 'DOC-FAILED'), textOf(found));
});

test('the table begins with what to do, and a repeated look while another one runs is answered', async () => {
  await agent().kill();
  try {
    const { stdout, code } = await agent().runThere('doctor');
    assert.equal(code, 3);
    assert.match(stdout, /^First: start it with `systemctl start mesh-agent`/);
    assert.match(stdout, /error API-UNREACHABLE/);
  } finally {
    await whole();
  }
  const records = await Promise.all([examine(lab()), examine(lab()), examine(lab())]);
  for (const record of records) assert.deepEqual(troubles(record), [], textOf(troubles(record)));
  assert.equal((await agent().runThere('doctor', '--strict')).code, 0);
});
