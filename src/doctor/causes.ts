import type { CheckRecord } from '../api/doctor-types.ts';
import type { ErrorCode } from '../core/errors.ts';

/** Codes of one step of the way from the file to the packet. `scope`: both must be of one cluster. */
interface Explanation {
  readonly causes: readonly ErrorCode[];
  /** Codes, or the beginning of codes that ends with a dash. */
  readonly effects: readonly string[];
  readonly scope?: 'cluster';
  /** Only as an error: as a warning it has not happened yet. */
  readonly grave?: true;
}

const STORE_FAULTS: readonly ErrorCode[] = [
  'KVS-DNS',
  'HST-ROUTE',
  'KVS-REFUSED',
  'KVS-TIMEOUT',
  'KVS-TLS-UNTRUSTED',
  'KVS-TLS-EXPIRED',
  'KVS-TLS-NAME',
  'KVS-TLS-CLIENT',
  'KVS-NOT-TLS',
  'KVS-NOT-PLAIN',
  'KVS-NOT-ETCD',
  'KVS-AUTH',
  'KVS-NO-QUORUM',
  'KVS-FILE',
  'KVS-CONFIG',
  'KVS-LOST',
];

/**
 * What follows from what, causes first: whatever stands above explains what stands below. The order is also the order in
 * which findings that have no cause are shown: what lies deeper is mended first.
 */
const EXPLANATIONS: readonly Explanation[] = [
  {
    causes: ['CFG-FILE', 'CFG-SYNTAX', 'CFG-KEY', 'CFG-VALUE', 'CFG-CONFLICT'],
    effects: ['API-UNREACHABLE', 'KVS-FILE', 'KVS-CONFIG', 'AGT-KVSTORE'],
  },
  {
    causes: ['HST-SPACE', 'HST-READ-ONLY'],
    effects: ['AGT-STATE', 'AGT-LASTGOOD', 'PKI-FILE', 'API-UNREACHABLE'],
    grave: true,
  },
  { causes: ['API-UNREACHABLE'], effects: ['DPN-ABSENT'] },
  {
    causes: ['HST-CLOCK'],
    effects: ['KVS-TLS-EXPIRED', 'CFG-CERTIFICATE', 'KVS-HEARTBEAT', 'JOIN-CLOCK', 'JOIN-RENEWAL'],
  },
  {
    causes: ['CFG-CERTIFICATE'],
    grave: true,
    effects: ['KVS-FILE', 'KVS-TLS-CLIENT', 'KVS-TLS-EXPIRED', 'KVS-TLS-UNTRUSTED', 'KVS-LOST', 'JOIN-RENEWAL'],
  },
  { causes: ['KVS-FILE', 'KVS-CONFIG'], effects: ['MSH-CLUSTER-FILE'], scope: 'cluster' },
  {
    causes: ['DPN-MISSING', 'DPN-OLD', 'DPN-PERMISSION', 'DPN-RULES'],
    effects: ['DPN-', 'AGT-WAITING', 'AGT-DRIFT', 'AGT-UNENFORCED', 'AGT-NAMES', 'OVL-KERNEL'],
  },
  {
    causes: ['HST-NO-BPF', 'DPB-PERMISSION', 'DPB-OLD', 'DPB-VERIFIER'],
    effects: ['DPB-', 'DPN-ABSENT', 'AGT-WAITING', 'AGT-DRIFT', 'AGT-UNENFORCED', 'AGT-NAMES', 'OVL-KERNEL'],
  },
  {
    causes: ['HST-CONNTRACK'],
    grave: true,
    effects: ['KVS-TIMEOUT', 'KVS-LOST', 'OVL-UNREACHABLE', 'OVL-NODE', 'MSH-UNREACHABLE'],
  },
  { causes: ['HST-ROUTE'], effects: ['KVS-TIMEOUT', 'KVS-LOST', 'KVS-DNS', 'AGT-ADDRESS'] },
  {
    causes: ['HST-FIREWALL'],
    effects: [
      'KVS-TIMEOUT',
      'KVS-LOST',
      'KVS-DNS',
      'KVS-REFUSED',
      'OVL-UNREACHABLE',
      'OVL-MTU',
      'OVL-NODE',
      'MSH-UNREACHABLE',
    ],
  },
  { causes: ['OVL-DEVICE', 'OVL-PORT', 'OVL-KERNEL', 'OVL-SOURCE'], effects: ['OVL-', 'AGT-WAITING'] },
  { causes: ['HST-RP-FILTER'], effects: ['OVL-UNREACHABLE', 'OVL-MTU', 'MSH-UNREACHABLE'] },
  { causes: ['OVL-NODE', 'OVL-UNREACHABLE', 'OVL-MTU'], effects: ['MSH-UNREACHABLE'], scope: 'cluster' },
  { causes: ['MSH-CLUSTER-NAME'], effects: ['MSH-INCOMPLETE', 'MSH-CLUSTER-ID', 'KVS-HEARTBEAT'], scope: 'cluster' },
  {
    causes: STORE_FAULTS,
    effects: [
      'KVS-',
      'MSH-INCOMPLETE',
      'MSH-STORE',
      'MSH-STALE',
      'MSH-REGISTRATION',
      'MSH-NO-BACKENDS',
      'MSH-SERVICE-LOST',
      'POL-CLUSTER',
    ],
    scope: 'cluster',
  },
  { causes: STORE_FAULTS, effects: ['AGT-WAITING', 'MSH-SERVICE-LOST', 'AGT-DRIFT', 'JOIN-RENEWAL'] },
  { causes: ['MSH-CLUSTER-FILE'], effects: ['POL-CLUSTER', 'MSH-STALE'], scope: 'cluster' },
  {
    causes: ['MSH-CLUSTER-ID', 'MSH-CONFIG'],
    effects: ['MSH-INCOMPLETE', 'MSH-STALE', 'MSH-CONTESTED', 'POL-CLUSTER', 'KVS-HEARTBEAT'],
    scope: 'cluster',
  },
  { causes: ['KVS-HEARTBEAT'], effects: ['MSH-INCOMPLETE', 'MSH-STALE'], scope: 'cluster' },
  { causes: ['MSH-INCOMPLETE'], effects: ['MSH-STALE', 'MSH-NO-BACKENDS', 'POL-CLUSTER'], scope: 'cluster' },
  { causes: ['MSH-REFUSED', 'MSH-REGISTRATION', 'AGT-ADDRESS', 'AGT-KVSTORE'], effects: ['AGT-WAITING', 'AGT-DRIFT'] },
  { causes: ['MSH-RANGES', 'HST-RANGE'], effects: ['MSH-CONTESTED', 'AGT-ROUTE', 'OVL-ROUTE', 'OVL-UNREACHABLE'] },
  { causes: ['AGT-POLICY'], effects: ['POL-CLUSTER'] },
];

const DEPTH: ReadonlyMap<string, number> = new Map(
  EXPLANATIONS.flatMap(({ causes }, depth) => causes.map((code) => [code, depth] as const)).reverse(),
);

/** Names, in each finding that follows from another one, that other one; then sorts: what to do first comes first. */
export function orderByCause(records: readonly CheckRecord[]): CheckRecord[] {
  const troubles = records.filter(({ code }) => code !== undefined);
  const causes = [...troubles].sort((a, b) => rankOf(a) - rankOf(b));
  const causeOf = new Map<CheckRecord, CheckRecord>();
  for (const each of troubles) {
    const cause = causes.find((other) => other !== each && explains(other, each));
    if (cause !== undefined) causeOf.set(each, cause);
  }
  const roots = new Map(troubles.map((each) => [each, rootOf(each, causeOf)] as const));
  /** A warning that explains an error weighs as much as that error. */
  const weight = new Map<CheckRecord, number>();
  for (const each of troubles) {
    const root = roots.get(each) as CheckRecord;
    weight.set(root, Math.min(weight.get(root) ?? 1, severityOf(each)));
  }
  const place = (each: CheckRecord): number[] => {
    const root = roots.get(each);
    if (root === undefined) return [each.verdict === 'skipped' ? 2 : 3, 0, 0, 0, 0];
    const first = root === each ? 0 : 1;
    return [weight.get(root) ?? 1, rankOf(root), troubles.indexOf(root), first, rankOf(each)];
  };
  return records
    .map((record) => ({ record, at: place(record) }))
    .sort((a, b) => compare(a.at, b.at))
    .map(({ record }) => {
      const cause = causeOf.get(record);
      if (cause?.code === undefined) return record;
      return { ...record, because: { code: cause.code, subject: cause.subject } };
    });
}

function explains(cause: CheckRecord, effect: CheckRecord): boolean {
  if (cause.code === effect.code || rankOf(cause) >= rankOf(effect)) return false;
  return EXPLANATIONS.some(
    ({ causes, effects, scope, grave }) =>
      (grave !== true || cause.verdict === 'error') &&
      causes.some((code) => code === cause.code) &&
      effects.some((code) => (code.endsWith('-') ? effect.code?.startsWith(code) : effect.code === code)) &&
      (scope === undefined || sameCluster(cause, effect)),
  );
}

/** Codes that may follow from this one, sorted; `KVS-…` stands for all that begin so. */
export function consequencesOf(code: string): string[] {
  const found = EXPLANATIONS.filter(({ causes }) => causes.some((cause) => cause === code)).flatMap(
    ({ effects }) => effects,
  );
  return [...new Set(found)].map((effect) => (effect.endsWith('-') ? `${effect}…` : effect)).sort();
}

/** Subjects begin with the cluster: `cluster-b`, `cluster-b https://...`, `cluster-b: ...`. */
export function clusterOf({ subject }: Pick<CheckRecord, 'subject'>): string {
  return /^(?:cluster\/)?([^ :/]*)/.exec(subject)?.[1] ?? '';
}

function sameCluster(a: CheckRecord, b: CheckRecord): boolean {
  return clusterOf(a) === clusterOf(b);
}

function rootOf(record: CheckRecord, causeOf: ReadonlyMap<CheckRecord, CheckRecord>): CheckRecord {
  let root = record;
  // Causes lie deeper each time, so that there is no circle.
  for (let cause = causeOf.get(root); cause !== undefined; cause = causeOf.get(root)) root = cause;
  return root;
}

function rankOf({ code }: CheckRecord): number {
  return (code === undefined ? undefined : DEPTH.get(code)) ?? EXPLANATIONS.length;
}

function severityOf({ verdict }: CheckRecord): number {
  return verdict === 'error' ? 0 : 1;
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (const [index, value] of a.entries()) if (value !== b[index]) return value - (b[index] ?? 0);
  return 0;
}
