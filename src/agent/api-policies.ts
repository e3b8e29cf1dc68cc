import { createHash } from 'node:crypto';
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Health } from '../api/health.ts';
import type { AppliedPolicyRecord, ApplyAnswer, ApplyRequest, PolicyText } from '../api/policy-types.ts';
import { API_VERSION } from '../api/types.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { OneByOne } from '../core/one-by-one.ts';
import { makePrivateFolder, writeFileSafely } from '../pki/files.ts';
import { type PolicyFinding, placeOf } from '../policy/language/findings.ts';
import { type PolicyProblem, parsePolicies } from '../policy/language/parse.ts';
import { separatePolicies } from '../policy/language/separate.ts';
import type { PolicyEntry, PolicyRepository } from '../policy/repository.ts';

export interface ApiPoliciesOptions {
  /** Folder of the state; ours is `policies` in it. */
  readonly stateDir: string;
  readonly repository: PolicyRepository;
  readonly health: Health;
  /** Something was taken or went. */
  readonly onChange: () => void;
}

/** One object in its file. `name` is that of the policy, or for raw rules the one that they were given under. */
interface StoredPolicy {
  readonly name: string;
  readonly text: string;
}

const MAX_FILE_BYTES = 8 << 20;
const MAX_POLICIES = 10_000;
const MAX_FILE_NAME = 200;
const RAW = 'Rules';
/** Bytes of the name of a text: raw rules are kept in a file of that name. */
const MAX_NAME = 64;

/**
 * Policies that came by the local API. Each object is a document of its own, kept as one file that is named after it: what is
 * applied again replaces it, and what is deleted goes alone.
 */
export class ApiPolicies {
  readonly #options: ApiPoliciesOptions;
  readonly #held = new Map<string, StoredPolicy>();
  readonly #turns = new OneByOne();

  constructor(options: ApiPoliciesOptions) {
    this.#options = options;
  }

  get folder(): string {
    return join(this.#options.stateDir, 'policies');
  }

  /** The file of a document. */
  fileOf(name: string): string {
    return join(this.folder, fileName(name));
  }

  /** Takes back what an earlier run kept. What cannot be read is told and left as it is. */
  async load(): Promise<void> {
    const { repository, health, onChange } = this.#options;
    let names: string[] = [];
    try {
      names = await readdir(this.folder);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
        health.set('policy/api', { code: 'AGT-STATE', text: messageOf(error), place: this.folder });
    }
    for (const name of names.filter((each) => each.endsWith('.json') && !each.startsWith('.')).sort()) {
      const path = join(this.folder, name);
      try {
        const stored = await readStored(path, name);
        this.#held.set(stored.name, stored);
        repository.put('api', stored.name, stored.text);
      } catch (error) {
        health.set(`policy/${name}`, { code: 'AGT-STATE', text: messageOf(error), place: path });
      }
    }
    if (names.length > 0) onChange();
  }

  /** Takes all objects of all texts, or none when one of them is refused. Throws MeshError AGT-STATE. */
  apply(request: ApplyRequest): Promise<ApplyAnswer> {
    return this.#turns.run(() => this.#apply(request));
  }

  /** @returns undefined when no policy of this name came by the API. Throws MeshError AGT-STATE. */
  delete(policy: string): Promise<AppliedPolicyRecord | undefined> {
    return this.#turns.run(() => this.#delete(policy));
  }

  async #apply({ texts }: ApplyRequest): Promise<ApplyAnswer> {
    const { wanted, findings } = readTexts(texts);
    if (findings.length > 0) return { apiVersion: API_VERSION, kind: 'PolicyValidation', ok: false, items: findings };
    const count = new Set([...this.#held.keys(), ...wanted.keys()]).size;
    if (count > MAX_POLICIES)
      throw new MeshError('API-REQUEST', `${count} policies are more than the ${MAX_POLICIES} that are kept`);
    return { apiVersion: API_VERSION, kind: 'PolicyApplied', items: await this.#take([...wanted.values()]) };
  }

  /** First the disk, then what is in force: what an operator was told is taken survives a crash. */
  async #take(wanted: readonly StoredPolicy[]): Promise<AppliedPolicyRecord[]> {
    const { repository, onChange } = this.#options;
    const changes = new Map<string, AppliedPolicyRecord['change']>();
    await this.#keep(() => makePrivateFolder(this.folder));
    for (const stored of wanted) {
      const before = this.#held.get(stored.name);
      changes.set(
        stored.name,
        before === undefined ? 'created' : before.text === stored.text ? 'unchanged' : 'changed',
      );
      if (before?.text === stored.text) continue;
      await this.#keep(() => writeFileSafely(this.fileOf(stored.name), stored.text));
    }
    for (const stored of wanted) {
      this.#held.set(stored.name, stored);
      repository.put('api', stored.name, stored.text);
    }
    onChange();
    return repository.list().flatMap((entry): AppliedPolicyRecord[] => {
      const change = changes.get(documentName(entry));
      return change === undefined ? [] : [{ ...entry, change }];
    });
  }

  async #delete(policy: string): Promise<AppliedPolicyRecord | undefined> {
    const { repository, onChange } = this.#options;
    const entry = repository.list().find((each) => each.name === policy && each.source.startsWith(SOURCE));
    const name = entry === undefined ? undefined : documentName(entry);
    if (entry === undefined || name === undefined || !this.#held.has(name)) return undefined;
    await this.#keep(() => rm(this.fileOf(name), { force: true }));
    this.#held.delete(name);
    repository.remove('api', name);
    onChange();
    return { ...entry, change: 'deleted' };
  }

  async #keep(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw new MeshError('AGT-STATE', messageOf(error), { place: this.folder, cause: error });
    }
  }
}

/** What the texts hold, and everything that is wrong with them. */
function readTexts(texts: readonly PolicyText[]): {
  readonly wanted: ReadonlyMap<string, StoredPolicy>;
  readonly findings: readonly PolicyFinding[];
} {
  const wanted = new Map<string, StoredPolicy>();
  const findings: PolicyFinding[] = [];
  for (const { name: file, text } of texts) {
    if (Buffer.byteLength(file) > MAX_NAME)
      throw new MeshError('API-REQUEST', `the name of a text has more than ${MAX_NAME} bytes`);
    const { objects, error } = separatePolicies(text, { name: `${SOURCE}${file}` });
    if (error !== undefined) findings.push({ file, severity: 'error', ...placeOf(error) });
    else if (objects.length === 0) findings.push({ file, severity: 'error', message: 'there is no policy in it' });
    for (const { object, text: own } of objects) {
      const refuse = (problem: PolicyProblem): void => {
        const named = object.policy === undefined ? {} : { policy: object.policy };
        findings.push({ file, ...named, severity: 'error', ...placeOf(problem) });
      };
      if (object.type === 'bad') {
        refuse(object.error);
        continue;
      }
      const name = object.kind === RAW ? rawName(file, object.document) : object.policy;
      const why = wanted.has(name) ? 'it stands here twice' : notKept(name, own);
      if (why === undefined) wanted.set(name, { name, text: own });
      else refuse({ document: object.document, line: object.line, path: '', message: why });
    }
  }
  return { wanted, findings };
}

const SOURCE = 'api:';

function documentName(entry: PolicyEntry): string {
  return entry.source.startsWith(SOURCE) ? entry.source.slice(SOURCE.length) : '';
}

/** As the repository names the same text when it stands alone. */
function rawName(name: string, document: number): string {
  return document === 0 ? name : `${name}/${document}`;
}

const SUFFIX = '.json';

/** `/` as `_`, everything unusual as `%` and its bytes; no longer than file systems take. */
function fileName(name: string): string {
  const safe = [...Buffer.from(name.toWellFormed(), 'utf8')]
    .map((byte) => {
      const text = String.fromCharCode(byte);
      if (/[A-Za-z0-9.:-]/.test(text)) return text;
      return text === '/' ? '_' : `%${byte.toString(16).padStart(2, '0')}`;
    })
    .join('')
    // Files that begin with a dot are ones in the making.
    .replace(/^\./, '%2e');
  if (safe.length <= MAX_FILE_NAME) return `${safe}${SUFFIX}`;
  return `${safe.slice(0, MAX_FILE_NAME - 65)}_${createHash('sha256').update(name).digest('hex')}${SUFFIX}`;
}

function nameOfFile(file: string): string {
  const bytes = file.slice(0, -SUFFIX.length).replaceAll('_', '/');
  return bytes.replace(/(%[0-9a-f]{2})+/g, (codes) => Buffer.from(codes.replaceAll('%', ''), 'hex').toString('utf8'));
}

async function readStored(path: string, file: string): Promise<StoredPolicy> {
  const { size } = await stat(path);
  if (size > MAX_FILE_BYTES) throw new Error(`it has ${size} bytes, more than ${MAX_FILE_BYTES}`);
  const text = await readFile(path, 'utf8');
  const [object] = parsePolicies(text).objects;
  // The name of a file may be cut.
  const named = object === undefined || object.kind === RAW ? undefined : object.policy;
  return { name: named ?? nameOfFile(file), text };
}

/** The text of its own is what counts from now on: it must say the same as what was given. */
function notKept(name: string, text: string): string | undefined {
  const { objects, error } = parsePolicies(text, { name: `api:${name}` });
  const [object] = objects;
  if (error === undefined && objects.length === 1 && object?.type !== 'bad') return undefined;
  return `it cannot be kept: ${error?.message ?? (object?.type === 'bad' ? object.error.message : 'it is not one object')}`;
}
