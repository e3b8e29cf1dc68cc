import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { test } from 'node:test';
import type { CheckRecord, DoctorRecord } from '../../src/api/doctor-types.ts';
import { MeshLab } from './mesh-lab.ts';
import { host } from './namespace.ts';
import { addRouter } from './overlay-router.ts';
import { CLUSTER_A, CLUSTER_B, CROSS_CLUSTER, enforce } from './story.ts';
import type { Pod } from './topology.ts';

/** A machine on which nothing is wrong, to be broken in one way after the other. */
export interface DoctorLab {
  readonly lab: MeshLab;
  /** Behind the tunnel of the node of each cluster. */
  readonly routers: ReadonlyMap<string, Pod>;
  close(): Promise<void>;
}

/** Certificates of the lab are to be good for long: one that ends soon is a finding. */
const DAYS = 400;
/** Room for what is saved, and for what counts as little space. */
const STATE_SIZE = '96m';

/** With both clusters, a policy, nodes that answer through the overlay, and the state on a file system of its own. */
export async function startDoctorLab(): Promise<DoctorLab> {
  const lab = await MeshLab.start([
    { ...CLUSTER_A, days: DAYS },
    { ...CLUSTER_B, days: DAYS },
  ]);
  const { stateDir, clustermesh } = lab.agent;
  const close = async (): Promise<void> => {
    await lab.agent.stop();
    host('umount', '--lazy', stateDir);
    await lab.close();
  };
  host('mount', '-t', 'tmpfs', '-o', `size=${STATE_SIZE},mode=0700`, 'tmpfs', stateDir);
  try {
    mkdirSync(clustermesh, { mode: 0o700 });
    const routers = new Map<string, Pod>();
    for (const name of ['cluster-a', 'cluster-b']) routers.set(name, await addRouter(lab.cluster(name)));
    lab.connect('cluster-b');
    lab.agent.start();
    await lab.agent.untilReady();
    await enforce(lab, CROSS_CLUSTER);
    await untilFine(lab);
    return { lab, routers, close };
  } catch (error) {
    await close();
    throw error;
  }
}

export async function examine(lab: MeshLab): Promise<DoctorRecord> {
  const { stdout, stderr, code } = await lab.agent.runThere('doctor', '-o', 'json');
  try {
    return JSON.parse(stdout) as DoctorRecord;
  } catch {
    throw new Error(`doctor: exit ${code}\n${stdout}${stderr}`);
  }
}

/** Findings in the order in which they are shown. */
export function troubles({ checks }: DoctorRecord): CheckRecord[] {
  return checks.filter(({ code }) => code !== undefined);
}

export interface Break {
  /** What is done to the machine. */
  readonly name: string;
  /** The code that is named first, and where. */
  readonly first: string;
  readonly subject?: string;
  /** Codes that are said to follow from it. */
  readonly follows?: readonly string[];
  /** Exit codes of the command; 4 by default. */
  readonly exit?: number;
  break(): void | Promise<void>;
  mend(): void | Promise<void>;
}

const NOTICED_MS = 15_000;
const MENDED_MS = 30_000;

/** One test for each: the doctor names the cause first, and finds nothing once it is mended. */
export function breakTests(lab: () => MeshLab, breaks: readonly Break[]): void {
  for (const each of breaks) {
    test(`${each.name}: ${each.first} comes first`, async () => {
      try {
        await each.break();
        await untilFirst(lab(), each);
      } finally {
        await each.mend();
      }
      await untilFine(lab());
    });
  }
}

/** The agent may need a moment to see it; then the first finding is the right one, with everything that follows. */
async function untilFirst(lab: MeshLab, { first, subject, follows = [], exit = 4 }: Break): Promise<void> {
  const deadline = Date.now() + NOTICED_MS;
  for (;;) {
    const record = await examine(lab);
    const found = troubles(record);
    const [cause] = found;
    const right = cause?.code === first && (subject === undefined || cause.subject.startsWith(subject));
    const missing = follows.filter(
      (code) => !found.some((other) => other.code === code && other.because !== undefined),
    );
    if ((right && missing.length === 0) || Date.now() > deadline) {
      assert.equal(cause?.code, first, textOf(found));
      if (subject !== undefined) assert.ok(cause?.subject.startsWith(subject), textOf(found));
      assert.deepEqual(missing, [], textOf(found));
      assert.ok((cause?.remedy ?? '').length > 10);
      const expected = { ok: 0, degraded: 4, 'not-joined': 5, 'not-running': 3 }[record.state];
      assert.equal(expected, exit, textOf(found));
      return;
    }
  }
}

export async function untilFine(lab: MeshLab): Promise<void> {
  const deadline = Date.now() + MENDED_MS;
  for (;;) {
    const record = await examine(lab);
    const found = troubles(record);
    if (found.length === 0 && record.state === 'ok') return;
    if (Date.now() > deadline)
      throw new Error(`it is mended, and still:\n${textOf(found)}\n${lab.agent.log.slice(-2000)}`);
  }
}

export function textOf(found: readonly CheckRecord[]): string {
  return found
    .map(
      ({ verdict, code, subject, text, because }) => `${verdict} ${code} ${subject}: ${text} <- ${because?.code ?? ''}`,
    )
    .join('\n');
}
