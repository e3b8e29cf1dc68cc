import { existsSync, readFileSync } from 'node:fs';
import { stringify } from 'yaml';
import { type CertificateAnswer, ENROLMENT_PATHS, machineCommonName } from '../../api/enrolment.ts';
import { Backoff } from '../../core/backoff.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { sleep } from '../../core/job.ts';
import { lockFile } from '../../host/lock-file.ts';
import { isHubUrl, type JoinToken, parseJoinToken } from '../../pki/join-token.ts';
import { generateKey, privateKeyPem } from '../../pki/keys.ts';
import { makeRequest } from '../../pki/request.ts';
import { readCertificateAnswer } from './certificate-answer.ts';
import {
  JOIN_CONFIG_MARK,
  type JoinFiles,
  type JoinRecord,
  joinFiles,
  makeRoom,
  readJoinRecord,
  readJson,
  readKey,
  readPair,
  removeFile,
  removeLeftovers,
  writePrivate,
  writePublic,
} from './files.ts';
import { askHub, findAuthority } from './hub-client.ts';

export interface JoinOptions {
  readonly stateDir: string;
  /** The main configuration file; it is not touched. */
  readonly configFile: string;
  /** The text of the join token. */
  readonly token: string;
  /** Instead of the URLs in the token. */
  readonly hub?: string;
  /** Checked against the token. */
  readonly name?: string;
  /** Replaces what a former join left. */
  readonly force?: boolean;
  readonly now?: () => number;
  /** What goes on, in words. */
  readonly onStep?: (step: string) => void;
  readonly timeoutMs?: number;
  /** How long a hub that has too much to do is asked again; a minute. */
  readonly patienceMs?: number;
}

export interface JoinReport {
  /** `unchanged`: this token brought it here before. */
  readonly state: 'joined' | 'unchanged';
  readonly name: string;
  readonly cluster: { readonly name: string; readonly id: number };
  readonly hubs: readonly string[];
  readonly endpoints: readonly string[];
  /** ISO 8601 */
  readonly certificateNotAfter: string;
  readonly config: string;
}

/** A certificate begins an hour before it was made: a clock that is later than that by far, or earlier, is wrong. */
const MAX_SKEW_MS = 50 * 60_000;
const PATIENCE_MS = 60_000;

/**
 * Joins this machine to a hub. The private key is made here and stays here. Each step can be the last one before a crash: what
 * was done is found and used when the same token is given again.
 *
 *   key (pending) ─▶ the hub signs ─▶ answer (pending) ─▶ ca, key, certificate ─▶ configuration ─▶ join.json
 *
 * @throws MeshError JOIN-*, PKI-FILE
 */
export async function joinHub(options: JoinOptions): Promise<JoinReport> {
  const token = parseJoinToken(options.token);
  const { name, hub, stateDir } = options;
  if (name !== undefined && name !== token.workload)
    throw new MeshError('JOIN-WRONG-NAME', `${name} was asked for, the token is for ${token.workload}`);
  if (hub !== undefined && !isHubUrl(hub))
    throw new MeshError(
      'JOIN-UNREACHABLE',
      `${JSON.stringify(hub.slice(0, 200))} is not like https://hub.example.com:8443`,
    );
  const files = joinFiles(stateDir, options.configFile);
  await makeRoom(stateDir, files);
  const unlock = lockFile(files.lock);
  if (unlock === undefined) throw new MeshError('JOIN-RUNNING', '', { place: files.lock });
  try {
    return await joinAlone({ ...options, parsed: token, files });
  } finally {
    unlock();
  }
}

interface Joining extends JoinOptions {
  readonly parsed: JoinToken;
  readonly files: JoinFiles;
}

async function joinAlone(joining: Joining): Promise<JoinReport> {
  const { parsed: token, files, force = false, now = Date.now } = joining;
  checkConfig(files);
  await removeLeftovers(files);
  const pending = readPending(joining);
  if (pending !== undefined) {
    joining.onStep?.('going on where an earlier join was cut off');
    return commit(joining, pending);
  }
  const record = readJoinRecord(files);
  const certificate = readPair(files);
  const good = record !== undefined && certificate !== undefined && certificate.validToDate.getTime() > now();
  if (good && record.tokenId === token.id && existsSync(files.config)) {
    await removeFile(files.pendingKey);
    return unchanged(files, record);
  }
  const present = [files.record, files.cert, files.key].find((path) => existsSync(path));
  if (present !== undefined && !force) {
    const what =
      record === undefined ? 'there are keys of a former join' : `as ${record.name} in ${record.cluster.name}`;
    throw new MeshError('JOIN-PRESENT', what, { place: present });
  }
  const key = readKey(files.pendingKey) ?? generateKey();
  await writePrivate(files.pendingKey, privateKeyPem(key));
  const text = await enrol(joining, makeRequest({ commonName: machineCommonName(token.workload), key }));
  const { answer } = readCertificateAnswer(text, {
    key,
    workload: token.workload,
    caHash: token.caHash,
    now: now(),
  });
  await writePrivate(files.pendingAnswer, JSON.stringify({ tokenId: token.id, answer: text }));
  return commit(joining, answer);
}

/** A hub that has too much to do is asked again for a while: a fleet may join at once. */
async function enrol(joining: Joining, request: string): Promise<string> {
  const { patienceMs = PATIENCE_MS, onStep } = joining;
  const deadline = performance.now() + patienceMs;
  const backoff = new Backoff({ minMs: 1000, maxMs: 10_000 });
  for (;;) {
    try {
      return await askHubs(joining, request);
    } catch (error) {
      const busy = error instanceof MeshError && error.code === 'JOIN-BUSY';
      if (!busy || performance.now() > deadline) throw error;
      onStep?.('the hub has too much to do: trying again');
      await sleep(backoff.next());
    }
  }
}

/** One hub after the other. Only one that cannot be reached is no answer. */
async function askHubs(joining: Joining, request: string): Promise<string> {
  const { parsed: token, hub, onStep, timeoutMs, now = Date.now } = joining;
  const urls = hub === undefined ? token.hubs : [hub];
  let last: unknown;
  for (const url of urls) {
    const at = { url, ...(timeoutMs !== undefined && { timeoutMs }) };
    try {
      onStep?.(`asking ${url}`);
      const ca = await findAuthority(at, token.caHash);
      // From here on the connection is verified; the token is not said before the clocks are known to agree.
      const { time } = await askHub({ ...at, ca, path: ENROLMENT_PATHS.ca });
      const skew = time === undefined ? 0 : now() - time;
      if (time !== undefined && Math.abs(skew) > MAX_SKEW_MS)
        throw new MeshError(
          'JOIN-CLOCK',
          `it is ${new Date(now()).toISOString()} here and ${new Date(time).toISOString()} at the hub`,
          { place: url },
        );
      return (await askHub({ ...at, ca, path: ENROLMENT_PATHS.join, body: { token: joining.token.trim(), request } }))
        .text;
    } catch (error) {
      if (!(error instanceof MeshError) || !error.retryable) throw error;
      last = error;
      onStep?.(`${url}: ${error.message}`);
    }
  }
  throw last;
}

/** Puts everything in its place. It can be done again, whole, after it was cut off anywhere. */
async function commit(joining: Joining, answer: CertificateAnswer): Promise<JoinReport> {
  const { files, parsed: token, onStep, now = Date.now } = joining;
  const key = readKey(files.pendingKey);
  onStep?.('writing keys and configuration');
  await writePublic(files.ca, answer.ca);
  // It is gone when the crash came after the key was in its place.
  if (key !== undefined) await writePrivate(files.key, privateKeyPem(key));
  await writePublic(files.cert, answer.certificate);
  await writePublic(files.config, configText(files, answer));
  const record: JoinRecord = {
    name: token.workload,
    cluster: answer.cluster,
    hubs: answer.hubs,
    caHash: token.caHash,
    tokenId: token.id,
    joinedAt: new Date(now()).toISOString(),
    config: files.config,
  };
  await writePrivate(files.record, `${JSON.stringify(record, null, 2)}\n`);
  await removeFile(files.pendingAnswer);
  await removeFile(files.pendingKey);
  return {
    state: 'joined',
    name: record.name,
    cluster: record.cluster,
    hubs: record.hubs,
    endpoints: answer.endpoints,
    certificateNotAfter: answer.notAfter,
    config: files.config,
  };
}

/** The answer of a join with this token that was cut off before all was in place. */
function readPending({ files, parsed: token, now = Date.now }: Joining): CertificateAnswer | undefined {
  const found = readJson(files.pendingAnswer) as { tokenId?: unknown; answer?: unknown } | undefined;
  if (found?.tokenId !== token.id || typeof found.answer !== 'string') return undefined;
  for (const key of [readKey(files.pendingKey), readKey(files.key)]) {
    if (key === undefined) continue;
    try {
      const expected = { key, workload: token.workload, caHash: token.caHash, now: now() };
      return readCertificateAnswer(found.answer, expected).answer;
    } catch {
      // For the other key, or not good any more: then all is asked anew.
    }
  }
  return undefined;
}

function unchanged(files: JoinFiles, record: JoinRecord): JoinReport {
  const { name, cluster, hubs, config } = record;
  const certificateNotAfter = readPair(files)?.validToDate.toISOString() ?? '';
  return { state: 'unchanged', name, cluster, hubs, endpoints: [], certificateNotAfter, config };
}

function checkConfig(files: JoinFiles): void {
  let text: string;
  try {
    text = readFileSync(files.config, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw new MeshError('JOIN-PERMISSION', messageOf(cause), { place: files.config, cause });
  }
  if (!text.startsWith(JOIN_CONFIG_MARK))
    throw new MeshError('JOIN-CONFIG', 'there is a file of this name that joining did not write', {
      place: files.config,
    });
}

function configText(files: JoinFiles, answer: CertificateAnswer): string {
  const { cluster, endpoints, workload } = answer;
  const config = {
    name: workload.name,
    cluster,
    ...(cluster.id > 255 && { maxConnectedClusters: 511 }),
    kvstore: {
      endpoints,
      ca: files.ca,
      cert: files.cert,
      key: files.key,
    },
  };
  return `${JOIN_CONFIG_MARK}\n${stringify(config)}`;
}
