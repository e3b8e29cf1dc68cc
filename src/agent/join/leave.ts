import { existsSync, readFileSync } from 'node:fs';
import { rm, rmdir } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { openClient } from '../../api/client.ts';
import { ENROLMENT_PATHS } from '../../api/enrolment.ts';
import type { Config } from '../../config/config.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { KernelDatapath } from '../../datapath/kernel.ts';
import { NoneDatapath } from '../../datapath/none.ts';
import { Overlay } from '../../datapath/overlay/overlay.ts';
import { run } from '../../host/command.ts';
import { lockFile } from '../../host/lock-file.ts';
import { unregisterZones } from '../../host/split-dns.ts';
import { registerKey } from '../../kvstore/paths.ts';
import { openJoinedStore } from '../joined-store.ts';
import { LastGoodPlace } from '../last-good/place.ts';
import { servingFile } from '../serving/serving-file.ts';
import { JOIN_CONFIG_MARK, type JoinFiles, readJoinRecord, removeFile, removeLeftovers } from './files.ts';
import { askHub } from './hub-client.ts';

export interface LeaveOptions {
  readonly config: Config;
  readonly files: JoinFiles;
  /** What goes on, in words. */
  readonly onStep: (step: string) => void;
  /** For the store and for the hub, each; 5 s. */
  readonly timeoutMs?: number;
}

export interface LeaveReport {
  /** How the agent was stopped; `not-running` when there was none. */
  readonly agent: 'not-running' | 'unit-stopped' | 'process-stopped';
  /** Whether the store has no registration of ours any more, as far as we could see. */
  readonly deregistered: boolean;
  /** Whether the hub ended our certificate. */
  readonly revoked: boolean;
  readonly removed: readonly string[];
}

const UNIT = 'mesh-agent.service';
const STOP_MS = 30_000;
const TIMEOUT_MS = 5_000;

/**
 * Takes this machine out of the mesh and leaves nothing of ours behind: no registration, rule, device, route, key or
 * configuration that joining wrote. The agent is stopped first, since it would bring everything back. A hub that is out of
 * reach does not keep it: the registration ends with its lease. Repeatable after a failure.
 * @throws MeshError JOIN-LEAVE, JOIN-PERMISSION, JOIN-RUNNING
 */
export async function leaveMesh(options: LeaveOptions): Promise<LeaveReport> {
  const { config, files } = options;
  const unlock = existsSync(config.stateDir) ? lockFile(files.lock) : () => {};
  if (unlock === undefined) throw new MeshError('JOIN-RUNNING', '', { place: files.lock });
  try {
    const agent = await stopAgent(options);
    const deregistered = await deregister(options);
    const revoked = await tellHub(options);
    await clearKernel(options);
    const removed = await removeFiles(options);
    return { agent, deregistered, revoked, removed };
  } finally {
    unlock();
  }
}

/**
 * Takes rules, device, routes and the last-good snapshot away, and leaves the membership alone: for the time in which the
 * program is not installed. @throws MeshError JOIN-LEAVE
 */
export async function clearMachine(options: LeaveOptions): Promise<void> {
  await stopAgent(options);
  await clearKernel(options);
  await removeSnapshot(options.config);
}

async function removeSnapshot({ stateDir }: Config): Promise<string[]> {
  const { folder } = new LastGoodPlace(stateDir);
  if (!existsSync(folder)) return [];
  await rm(folder, { recursive: true, force: true });
  return [folder];
}

/** By the service manager when it is its unit, else by SIGTERM to the process that answers on the socket. */
async function stopAgent({ config, onStep }: LeaveOptions): Promise<LeaveReport['agent']> {
  const client = openClient({ socket: config.socket, silenceMs: 3000 });
  const pid = await client.status().then(
    ({ agent }) => agent.pid,
    (error: unknown) => {
      if (error instanceof MeshError && error.code === 'API-UNREACHABLE') return undefined;
      throw error;
    },
  );
  if (pid === undefined) return 'not-running';
  const unit = isUnit(pid);
  onStep(unit ? `stopping ${UNIT}` : `stopping the agent (process ${pid})`);
  try {
    if (unit) await run('systemctl', ['stop', UNIT], { timeoutMs: STOP_MS });
    else process.kill(pid, 'SIGTERM');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ESRCH')
      throw new MeshError('JOIN-LEAVE', `the agent cannot be stopped: ${messageOf(cause)}`, { cause });
  }
  const deadline = Date.now() + STOP_MS;
  while (isAlive(pid)) {
    if (Date.now() > deadline) throw new MeshError('JOIN-LEAVE', `the agent (process ${pid}) does not stop`);
    await pause(50);
  }
  return unit ? 'unit-stopped' : 'process-stopped';
}

function isUnit(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, 'utf8')
      .split('\n')
      .some((line) => line.endsWith(`/${UNIT}`));
  } catch {
    return false;
  }
}

function isAlive(pid: number): boolean {
  try {
    // One that has ended and was not waited for yet is over.
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
  } catch {
    return false;
  }
}

async function deregister({ config, onStep, timeoutMs = TIMEOUT_MS }: LeaveOptions): Promise<boolean> {
  const store = openJoinedStore(config.kvstore, () => {});
  if (store === undefined) return false;
  const key = registerKey(config.name);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(store.status.summary)), timeoutMs);
  });
  try {
    onStep(`removing ${key}`);
    await Promise.race([store.remove(key), late]);
    return true;
  } catch (error) {
    onStep(`the registration was not removed, it ends with its lease (15 minutes): ${messageOf(error)}`);
    return false;
  } finally {
    clearTimeout(timer);
    await store.close();
  }
}

async function tellHub({ files, onStep, timeoutMs = TIMEOUT_MS }: LeaveOptions): Promise<boolean> {
  const record = readJoinRecord(files);
  if (record === undefined) return false;
  let last: unknown;
  for (const url of record.hubs) {
    try {
      const [ca, cert, key] = [files.ca, files.cert, files.key].map((path) => readFileSync(path, 'utf8'));
      if (ca === undefined || cert === undefined || key === undefined) return false;
      await askHub({ url, ca, path: ENROLMENT_PATHS.leave, body: {}, identity: { cert, key }, timeoutMs });
      return true;
    } catch (error) {
      last = error;
    }
  }
  onStep(
    `the hub did not end our certificate (\`mesh-agent hub workload revoke ${record.name}\` does): ${messageOf(last)}`,
  );
  return false;
}

/** Without a data path of policies: what an earlier run left is taken away when it opens. */
async function clearKernel({ onStep }: LeaveOptions): Promise<void> {
  onStep('removing rules, devices and routes');
  const datapath = new KernelDatapath({ policy: new NoneDatapath(), overlay: new Overlay() });
  try {
    await datapath.open();
    await datapath.remove();
    await unregisterZones();
  } catch (cause) {
    throw new MeshError('JOIN-LEAVE', `rules, device or routes: ${messageOf(cause)}`, { cause });
  } finally {
    await datapath.close();
  }
}

/** The record goes last: as long as it is there, leaving is not over. */
async function removeFiles({ config, files }: LeaveOptions): Promise<string[]> {
  const record = readJoinRecord(files);
  const removed: string[] = [];
  await removeLeftovers(files);
  const configs = new Set([files.config, ...(record === undefined ? [] : [record.config])]);
  const { pendingAnswer, pendingKey, key, cert, ca } = files;
  // What was drained is another machine when it joins again.
  const all = [pendingAnswer, pendingKey, key, cert, ca, servingFile(config.stateDir), ...configs, files.record];
  for (const path of all) {
    if (!existsSync(path) || (configs.has(path) && !isJoinConfig(path))) continue;
    await removeFile(path);
    removed.push(path);
  }
  // A boot would bring the rules back.
  removed.push(...(await removeSnapshot(config)));
  // Whatever else an operator put there stays.
  await rmdir(files.pki).catch(() => {});
  return removed;
}

function isJoinConfig(path: string): boolean {
  try {
    return readFileSync(path, 'utf8').startsWith(JOIN_CONFIG_MARK);
  } catch {
    return false;
  }
}
