import type { PolicyFindings, PolicyText } from '../../api/policy-types.ts';
import { API_VERSION } from '../../api/types.ts';
import { MeshError } from '../../core/errors.ts';
import { POLICIES_PREFIX } from '../../kvstore/paths.ts';
import { policyRevision } from '../../kvstore/policy-revision.ts';
import type { StoredKeyValue } from '../../kvstore/transaction.ts';
import { findingsOf, type PolicyFinding } from '../../policy/language/findings.ts';
import { separatePolicies } from '../../policy/language/separate.ts';
import type { HubStore } from '../hub-store.ts';
import { decodeMachineRecord, REGISTRATIONS_PREFIX } from '../registration/machine-record.ts';
import { KUBERNETES_DOCUMENTS, nameOf, type PolicyName, readName } from './policy-document.ts';
import type { HubPolicyApplied, HubPolicyDetail, HubPolicyList, HubPolicyRecord, PolicyChange } from './records.ts';

/** etcd takes 128 operations in a transaction; a change is done as a whole or not at all. */
const MAX_AT_ONCE = 100;
/** What a machine reads of one document. */
const MAX_BYTES = 1 << 20;
/** All documents together: every machine holds all of them. */
const MAX_POLICIES = 5000;
const MAX_TOTAL_BYTES = 64 << 20;

type BookStore = Pick<HubStore, 'readPrefix' | 'read' | 'transact'>;

interface Wanted {
  readonly name: PolicyName;
  readonly text: string;
}

/** The policies that the hub hands out: one document in the store for each object. Any hub may write here. */
export class PolicyBook {
  readonly #store: BookStore;
  readonly #follows: boolean;

  /** `kubernetes`: the hub follows a cluster, so that documents from there are not to be deleted here. */
  constructor(store: BookStore, options: { readonly kubernetes?: boolean } = {}) {
    this.#store = store;
    this.#follows = options.kubernetes === true;
  }

  async list(): Promise<HubPolicyList> {
    const { entries } = await this.#store.readPrefix(POLICIES_PREFIX);
    const revision = policyRevision(entries.map(({ modRevision }) => modRevision));
    const { entries: machines } = await this.#store.readPrefix(REGISTRATIONS_PREFIX);
    return {
      apiVersion: API_VERSION,
      kind: 'HubPolicyList',
      revision,
      items: recordsOf(entries),
      machines: machines.flatMap(({ key, value }) => {
        const reported = reportedBy(value);
        return reported === undefined
          ? []
          : [{ workload: key, revision: reported || null, current: reported === revision }];
      }),
    };
  }

  /** By document or by name. @throws MeshError HUB-POLICY-UNKNOWN */
  async get(name: string): Promise<HubPolicyDetail> {
    const entry = await this.#find(name);
    return { apiVersion: API_VERSION, ...recordOf(entry), text: entry.value.toString('utf8') };
  }

  /**
   * Takes all objects of the texts, or none: what is wrong is answered with its place.
   * @throws MeshError HUB-POLICY, HUB-CONFLICT, KVS-*
   */
  async apply(texts: readonly PolicyText[]): Promise<HubPolicyApplied | PolicyFindings> {
    const { findings, wanted } = read(texts);
    if (findings.some(({ severity }) => severity === 'error'))
      return { apiVersion: API_VERSION, kind: 'PolicyValidation', ok: false, items: findings };
    const { entries } = await this.#store.readPrefix(POLICIES_PREFIX);
    const present = new Map(entries.map((entry) => [entry.key, entry]));
    const changes = wanted.map((each) => ({ each, before: present.get(each.name.document) }));
    const differing = changes.filter(({ each, before }) => before?.value.toString('utf8') !== each.text);
    checkSizes(
      present,
      differing.map(({ each }) => each),
    );
    let revision = 0;
    if (differing.length > 0) {
      const result = await this.#store.transact({
        when: differing.map(({ each, before }) => ({
          key: POLICIES_PREFIX + each.name.document,
          modRevision: before?.modRevision ?? 0,
        })),
        perform: differing.map(({ each }) => ({ put: POLICIES_PREFIX + each.name.document, value: each.text })),
      });
      if (!result.succeeded) throw new MeshError('HUB-CONFLICT', 'policies');
      revision = result.revision;
    }
    const items = changes.map(({ each, before }) => {
      const changed = differing.some((other) => other.each === each);
      const change: PolicyChange = !changed ? 'unchanged' : before === undefined ? 'created' : 'changed';
      const at = changed ? revision : (before?.modRevision ?? 0);
      return { ...describe(each.name, { revision: at, bytes: Buffer.byteLength(each.text) }), change };
    });
    return { apiVersion: API_VERSION, kind: 'HubPolicyApplied', items };
  }

  /** @throws MeshError HUB-POLICY-UNKNOWN, HUB-CONFLICT, KVS-* */
  async delete(name: string): Promise<HubPolicyApplied> {
    const entry = await this.#find(name);
    if (this.#follows && readName(entry.key)?.source === 'kubernetes')
      throw new MeshError('HUB-POLICY-KUBERNETES', JSON.stringify(name.slice(0, 100)));
    const key = POLICIES_PREFIX + entry.key;
    const { succeeded } = await this.#store.transact({
      when: [{ key, modRevision: entry.modRevision }],
      perform: [{ remove: key }],
    });
    if (!succeeded) throw new MeshError('HUB-CONFLICT', name);
    return { apiVersion: API_VERSION, kind: 'HubPolicyApplied', items: [{ ...recordOf(entry), change: 'deleted' }] };
  }

  /** The entry, with its key below the prefix. */
  async #find(name: string): Promise<StoredKeyValue> {
    const { entries } = await this.#store.readPrefix(POLICIES_PREFIX);
    const found = entries.filter((entry) => entry.key === name || readName(entry.key)?.name === name);
    const like = found.length > 0 ? found : entries.filter((entry) => readName(entry.key)?.name.endsWith(`/${name}`));
    // Of two documents with one object that by hand is meant, as it is the one in force; the other has its document's name.
    const short = like.filter(({ key }) => key === name || !like.some((other) => byHand(key) === other.key));
    const [entry] = short;
    if (entry !== undefined && short.length === 1) return entry;
    const shown = JSON.stringify(name.slice(0, 100));
    if (entry === undefined) throw new MeshError('HUB-POLICY-UNKNOWN', shown);
    throw new MeshError(
      'HUB-POLICY-UNKNOWN',
      `${shown} may be ${short.map((each) => recordOf(each).name).join(' or ')}`,
    );
  }
}

function read(texts: readonly PolicyText[]): { readonly findings: PolicyFinding[]; readonly wanted: Wanted[] } {
  const findings: PolicyFinding[] = [];
  const wanted = new Map<string, Wanted>();
  for (const { name: file, text } of texts) {
    const separate = separatePolicies(text);
    const { objects, error } = separate;
    findings.push(...findingsOf(file, { objects: objects.map(({ object }) => object), ...(error && { error }) }));
    for (const { object, text: own } of objects) {
      if (object.type === 'bad') continue;
      const place = { file, document: object.document + 1, line: object.line, severity: 'error' as const };
      const name = nameOf(object);
      if (typeof name === 'string') findings.push({ ...place, message: name });
      else if (wanted.has(name.document)) findings.push({ ...place, policy: name.name, message: 'it is there twice' });
      else wanted.set(name.document, { name, text: own });
    }
  }
  return { findings, wanted: [...wanted.values()] };
}

function checkSizes(present: ReadonlyMap<string, StoredKeyValue>, changed: readonly Wanted[]): void {
  if (changed.length > MAX_AT_ONCE)
    throw new MeshError('HUB-POLICY', `${changed.length} objects change: apply ${MAX_AT_ONCE} at once at most`);
  const sizes = new Map([...present].map(([key, { value }]) => [key, value.length]));
  let request = 0;
  for (const { name, text } of changed) {
    const bytes = Buffer.byteLength(text);
    if (bytes > MAX_BYTES) throw new MeshError('HUB-POLICY', `${name.name} has ${bytes} bytes, ${MAX_BYTES} at most`);
    sizes.set(name.document, bytes);
    request += bytes;
  }
  if (request > MAX_BYTES)
    throw new MeshError('HUB-POLICY', `${request} bytes change at once, ${MAX_BYTES} at most: apply them in parts`);
  const total = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  if (sizes.size > MAX_POLICIES || total > MAX_TOTAL_BYTES)
    throw new MeshError(
      'HUB-POLICY',
      `${sizes.size} policies of ${total} bytes: ${MAX_POLICIES} of ${MAX_TOTAL_BYTES} at most`,
    );
}

function recordsOf(entries: readonly StoredKeyValue[]): HubPolicyRecord[] {
  const documents = new Set(entries.map(({ key }) => key));
  return entries.map((entry) => {
    const record = recordOf(entry);
    return { ...record, shadowed: record.source === 'kubernetes' && documents.has(byHand(entry.key)) };
  });
}

/** The document of the same object, applied by hand. */
function byHand(document: string): string {
  return document.slice(KUBERNETES_DOCUMENTS.length);
}

function recordOf({ key, value, modRevision }: StoredKeyValue): HubPolicyRecord {
  const name = readName(key) ?? { document: key, source: 'hand', name: key, kind: 'unknown', namespace: '' };
  return describe(name, { revision: modRevision, bytes: value.length });
}

function describe(
  { document, name, kind, namespace, source }: PolicyName,
  facts: { readonly revision: number; readonly bytes: number },
): HubPolicyRecord {
  return { name, document, kind, namespace, source, shadowed: false, ...facts };
}

/** Empty when a registered machine has not told; undefined for what is no registered machine. */
function reportedBy(value: Buffer): string | undefined {
  try {
    const record = decodeMachineRecord(value);
    return record.state === 'registered' ? (record.policyRevision ?? '') : undefined;
  } catch {
    return undefined;
  }
}
