/**
 * A second, slow evaluator, written from the semantics alone and sharing no code with the model: it takes the objects as
 * users write them and judges one flow at a time by trying everything. The model has to agree with it.
 */
export interface ReferenceLabel {
  readonly source: string;
  readonly key: string;
  readonly value: string;
}

/** A peer: a known endpoint or node by its labels, or an outside address. */
export interface ReferencePeer {
  readonly labels: readonly string[];
  /** Of an outside address: its IPv4 number, and the names that DNS gave it. */
  readonly outside?: { readonly address: number; readonly names: readonly string[] };
  readonly namedPorts?: readonly { readonly name: string; readonly protocol: string; readonly port: number }[];
  /** Nothing is known of it but its number. */
  readonly unknown?: boolean;
}

export interface ReferenceFlow {
  readonly direction: 'ingress' | 'egress';
  readonly protocol: 'TCP' | 'UDP' | 'SCTP' | 'ICMP' | 'ICMPv6' | 'GRE';
  readonly port: number;
}

export interface ReferenceWorld {
  readonly clusterName: string;
  readonly enforcement: 'default' | 'always' | 'never';
  readonly allowLocalhost: 'policy' | 'always';
  readonly defaultLocalCluster: boolean;
  readonly subject: readonly string[];
  readonly subjectPorts: readonly { readonly name: string; readonly protocol: string; readonly port: number }[];
  readonly groups: Readonly<Record<string, readonly string[]>>;
  readonly policies: readonly ReferenceObject[];
}

// biome-ignore lint/suspicious/noExplicitAny: objects as users write them
export type Loose = any;

export interface ReferenceObject {
  readonly kind: 'CiliumNetworkPolicy' | 'CiliumClusterwideNetworkPolicy' | 'NetworkPolicy' | 'raw';
  readonly namespace: string;
  readonly rules: readonly Loose[];
}

const NS = 'io.kubernetes.pod.namespace';
const NSL = 'io.cilium.k8s.namespace.labels.';
const CL = 'io.cilium.k8s.policy.cluster';

function label(text: string): ReferenceLabel {
  const colon = text.indexOf(':');
  const rest = text.slice(colon + 1);
  const equals = rest.indexOf('=');
  const key = equals < 0 ? rest : rest.slice(0, equals);
  return { source: text.slice(0, colon), key, value: equals < 0 ? '' : rest.slice(equals + 1) };
}

interface Need {
  readonly source: string;
  readonly key: string;
  readonly operator: string;
  readonly values: readonly string[];
}

function needs(selector: Loose, forcedSource?: string, keyPrefix = ''): Need[] {
  const split = (key: string): { source: string; key: string } => {
    if (forcedSource !== undefined) return { source: forcedSource, key: keyPrefix + key };
    const colon = key.indexOf(':');
    return colon < 0 ? { source: 'any', key } : { source: key.slice(0, colon), key: key.slice(colon + 1) };
  };
  const labels = Object.entries(selector?.matchLabels ?? {}).map(([key, value]) => {
    return { ...split(key), operator: 'In', values: [value as string] };
  });
  const expressions = (selector?.matchExpressions ?? []).map((each: Loose) => {
    return { ...split(each.key), operator: each.operator, values: each.values ?? [] };
  });
  return [...labels, ...expressions];
}

function fulfils(need: Need, labels: readonly ReferenceLabel[]): boolean {
  const found = labels.filter(
    ({ source, key }) => key === need.key && (need.source === 'any' || need.source === source),
  );
  if (need.operator === 'Exists') return found.length > 0;
  if (need.operator === 'DoesNotExist') return found.length === 0;
  const isIn = found.some(({ value }) => need.values.includes(value));
  return need.operator === 'In' ? isIn : !isIn;
}

const selectsAll = (all: readonly Need[], labels: readonly ReferenceLabel[]): boolean =>
  all.every((need) => fulfils(need, labels));

const mentions = (all: readonly Need[], key: string): boolean =>
  all.some((need) => need.key === key && (need.source === 'k8s' || need.source === 'any'));

function scoped(selector: Loose, object: ReferenceObject, world: ReferenceWorld): Need[] {
  const all = needs(selector);
  if (object.kind === 'raw') return all;
  if (all.some(({ source }) => source === 'reserved')) return all;
  const added: Need[] = [];
  if (!mentions(all, NS)) {
    if (object.kind === 'CiliumClusterwideNetworkPolicy') {
      added.push({ source: 'k8s', key: NS, operator: 'Exists', values: [] });
    } else {
      const byLabel = all.some(({ source, key }) => ['k8s', 'any'].includes(source) && key.startsWith(NSL));
      if (!byLabel) added.push({ source: 'k8s', key: NS, operator: 'In', values: [object.namespace] });
    }
  }
  return [...all, ...added, ...localCluster(all, world)];
}

function localCluster(all: readonly Need[], world: ReferenceWorld): Need[] {
  if (!world.defaultLocalCluster || mentions(all, CL)) return [];
  return [{ source: 'k8s', key: CL, operator: 'In', values: [world.clusterName] }];
}

function subjectNeeds(rule: Loose, object: ReferenceObject): Need[] {
  if (object.kind === 'NetworkPolicy') {
    return [...needs(rule.podSelector, 'k8s'), { source: 'k8s', key: NS, operator: 'In', values: [object.namespace] }];
  }
  const all = needs(rule.endpointSelector);
  if (object.kind !== 'CiliumNetworkPolicy') return all;
  return [...all, { source: 'k8s', key: NS, operator: 'In', values: [object.namespace] }];
}

function address(text: string): { first: number; last: number } {
  const [quad = '', bits = '32'] = text.split('/');
  const number = quad.split('.').reduce((sum, octet) => sum * 256 + Number(octet), 0);
  const size = 2 ** (32 - Number(bits));
  const first = Math.floor(number / size) * size;
  return { first, last: first + size - 1 };
}

const inside = (prefix: string, number: number): boolean => {
  const { first, last } = address(prefix);
  return first <= number && number <= last;
};

function nameFits(item: Loose, name: string): boolean {
  const text = (item.matchName ?? item.matchPattern).toLowerCase();
  if (item.matchName !== undefined) return text === name;
  if (text === '*') return true;
  const pattern = text
    .split('*')
    .map((part: string) => part.replace(/[.]/g, '\\.'))
    .join('[-a-z0-9_]*');
  return new RegExp(`^${pattern}$`).test(name);
}

/** Labels of a peer as policies see them. */
function labelsOf(peer: ReferencePeer): ReferenceLabel[] {
  return peer.labels.map(label);
}

const RESERVED_IN_CLUSTER = ['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged', 'kube-apiserver'];

function entityFits(entity: string, labels: readonly ReferenceLabel[], world: ReferenceWorld): boolean {
  const has = (name: string): boolean => labels.some(({ source, key }) => source === 'reserved' && key === name);
  if (entity === 'all') return true;
  if (entity === 'world') return has('world') || has('world-ipv4') || has('world-ipv6');
  if (entity !== 'cluster') return has(entity);
  const own = labels.some(({ source, key, value }) => source === 'k8s' && key === CL && value === world.clusterName);
  return own || RESERVED_IN_CLUSTER.some(has);
}

interface Judged {
  readonly entry: Loose;
  readonly object: ReferenceObject;
  readonly required: readonly Need[];
}

function peerFits(judged: Judged, way: 'from' | 'to', peer: ReferencePeer, world: ReferenceWorld): boolean {
  const { entry, object, required } = judged;
  const field = (name: string): Loose => entry[`${way}${name}`];
  const labels = labelsOf(peer);
  const hasPorts = (entry.toPorts?.length ?? 0) > 0 || (entry.icmps?.length ?? 0) > 0;
  const kinds = ['Endpoints', 'CIDR', 'CIDRSet', 'Entities'];
  if (kinds.some((kind) => field(kind)?.length === 0)) return false;
  const outside = peer.outside;
  if (field('Endpoints') !== undefined) {
    return field('Endpoints').some((selector: Loose) => {
      const all = [...scoped(selector, object, world), ...required];
      return all.length === 0 || (peer.unknown !== true && selectsAll(all, labels));
    });
  }
  if (field('Entities') !== undefined) {
    return field('Entities').some(
      (each: string) => each === 'all' || (!peer.unknown && entityFits(each, labels, world)),
    );
  }
  if (field('CIDR') !== undefined) {
    return outside !== undefined && field('CIDR').some((each: string) => inside(each, outside.address));
  }
  if (field('CIDRSet') !== undefined)
    return outside !== undefined && cidrSetFits(field('CIDRSet'), outside.address, world);
  if (way === 'to' && (entry.toFQDNs?.length ?? 0) > 0) {
    return outside?.names.some((name) => entry.toFQDNs.some((item: Loose) => nameFits(item, name))) ?? false;
  }
  if ((field('Requires')?.length ?? 0) > 0) return false;
  return hasPorts;
}

function cidrSetFits(items: readonly Loose[], number: number, world: ReferenceWorld): boolean {
  return items.some((item) => {
    const within = item.cidr === undefined ? (world.groups[item.cidrGroupRef] ?? []) : [item.cidr];
    return (
      within.some((each: string) => inside(each, number)) &&
      !(item.except ?? []).some((each: string) => inside(each, number))
    );
  });
}

function kubernetesPeerFits(
  peers: Loose,
  judged: Omit<Judged, 'entry'>,
  peer: ReferencePeer,
  world: ReferenceWorld,
): boolean {
  const { object, required } = judged;
  if (peers === undefined || peers.length === 0) return true;
  const labels = labelsOf(peer);
  return peers.some((each: Loose) => {
    if (each.ipBlock !== undefined) {
      return peer.outside !== undefined && cidrSetFits([each.ipBlock], peer.outside.address, world);
    }
    const pods = needs(each.podSelector, 'k8s');
    const namespaces = needs(each.namespaceSelector, 'k8s', NSL);
    const anywhere = { source: 'k8s', key: NS, operator: 'Exists', values: [] };
    const here = { source: 'k8s', key: NS, operator: 'In', values: [object.namespace] };
    const place = each.namespaceSelector === undefined ? [here] : namespaces.length === 0 ? [anywhere] : namespaces;
    return !peer.unknown && selectsAll([...pods, ...place, ...localCluster(pods, world), ...required], labels);
  });
}

interface PortPlace {
  readonly flow: ReferenceFlow;
  readonly peer: ReferencePeer;
  readonly world: ReferenceWorld;
}

function portFits(item: Loose, missing: string, { flow, peer, world }: PortPlace): boolean {
  const protocol = item.protocol ?? missing;
  const known = protocol === 'ANY' ? ['TCP', 'UDP', 'SCTP'] : [protocol];
  if (!known.includes(flow.protocol)) return false;
  const port = item.port === undefined ? '0' : String(item.port);
  if (/[a-z]/i.test(port)) {
    const offered = flow.direction === 'ingress' ? world.subjectPorts : (peer.namedPorts ?? []);
    const numbers = offered
      .filter((each) => each.name === port.toLowerCase() && each.protocol === flow.protocol)
      .map((each) => each.port);
    return new Set(numbers).size === 1 && numbers[0] === flow.port;
  }
  const first = Number(port);
  const last = (item.endPort ?? 0) > first ? item.endPort : first;
  if (first === 0 && last === 0) return true;
  return first <= flow.port && flow.port <= last;
}

function portsFit(entry: Loose, place: PortPlace): boolean {
  const { flow } = place;
  if ((entry.toPorts?.length ?? 0) > 0) {
    return entry.toPorts.some((item: Loose) => (item.ports ?? []).some((port: Loose) => portFits(port, 'ANY', place)));
  }
  if ((entry.icmps?.length ?? 0) > 0) {
    return entry.icmps.some((item: Loose) =>
      (item.fields ?? []).some((field: Loose) => {
        const family = (field.family ?? 'IPv4') === 'IPv4' ? 'ICMP' : 'ICMPv6';
        return flow.protocol === family && (field.type === 0 || field.type === flow.port);
      }),
    );
  }
  return true;
}

/** Whatever asks for a proxy or for authentication cannot be given here. */
function needsMore(entry: Loose): boolean {
  return entry.toPorts?.some((item: Loose) => (item.rules?.http?.length ?? 0) > 0) === true;
}

export function referenceVerdict(flow: ReferenceFlow, peer: ReferencePeer, world: ReferenceWorld): 'allow' | 'deny' {
  if (world.enforcement === 'never') return 'allow';
  const way = flow.direction === 'ingress' ? 'from' : 'to';
  const subject = world.subject.map(label);
  const rules = world.policies.flatMap((object) =>
    object.rules.filter((rule) => selectsAll(subjectNeeds(rule, object), subject)).map((rule) => ({ object, rule })),
  );
  const required = (name: string): Need[] =>
    rules.flatMap(({ rule, object }) =>
      (rule[name] ?? []).flatMap((entry: Loose) =>
        (entry[`${way}Requires`] ?? []).flatMap((selector: Loose) => scoped(selector, object, world)),
      ),
    );
  let enforcing = world.enforcement === 'always';
  let defaultDeny = enforcing;
  let denied = false;
  let allowed =
    flow.direction === 'ingress' && world.allowLocalhost === 'always' && peer.labels.includes('reserved:host');
  for (const { rule, object } of rules) {
    if (object.kind === 'NetworkPolicy') {
      const entries = rule[flow.direction] ?? [];
      const types = rule.policyTypes ?? [];
      const isolated =
        entries.length > 0 ||
        (flow.direction === 'egress'
          ? types.includes('Egress')
          : types.includes('Ingress') || !types.includes('Egress'));
      if (!isolated) continue;
      enforcing = true;
      defaultDeny = true;
      for (const entry of entries) {
        const ports = entry.ports ?? [];
        const place = { flow, peer, world };
        const fits = ports.length === 0 || ports.some((port: Loose) => portFits(port, 'TCP', place));
        allowed ||= fits && kubernetesPeerFits(entry[way], { object, required: required(flow.direction) }, peer, world);
      }
      continue;
    }
    const allows = rule[flow.direction] ?? [];
    const denies = rule[`${flow.direction}Deny`] ?? [];
    if (allows.length + denies.length === 0) continue;
    enforcing = true;
    defaultDeny ||= rule.enableDefaultDeny?.[flow.direction] !== false;
    const fits = (entry: Loose, name: string): boolean =>
      peerFits({ entry, object, required: required(name) }, way, peer, world) && portsFit(entry, { flow, peer, world });
    denied ||= denies.some((entry: Loose) => fits(entry, `${flow.direction}Deny`));
    allowed ||= allows.some((entry: Loose) => !needsMore(entry) && fits(entry, flow.direction));
  }
  if (!enforcing) return 'allow';
  if (denied) return 'deny';
  return allowed || !defaultDeny ? 'allow' : 'deny';
}
