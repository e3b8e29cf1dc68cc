import { identity } from '../../src/core/identity.ts';
import {
  type Address,
  addressBits,
  contains,
  formatAddress,
  type Prefix,
  parseAddress,
  parsePrefix,
} from '../../src/core/ip.ts';
import { WordTable } from '../../src/core/word-table.ts';
import type { DesiredState } from '../../src/datapath/desired.ts';
import { type DirectionPolicy, type PolicyClass, PROTOCOL } from '../../src/policy/result.ts';

/** A desired state in plain JSON, as the tests write it. */
export interface OverlayScene {
  /** Absent: no overlay is wanted (native routing). */
  readonly overlay?: {
    readonly device?: string;
    readonly port?: number;
    readonly identity?: number;
    readonly source4?: string;
    readonly source6?: string;
    readonly underlayMtu?: number;
    readonly ownAddresses?: readonly string[];
  };
  /** Address to tunnel endpoint. */
  readonly hosts?: readonly (readonly [address: string, via: string])[];
  /** The same many times over: addresses counted up from the first one. */
  readonly manyHosts?: { readonly first: string; readonly count: number; readonly vias: readonly string[] };
  readonly prefixes?: readonly (readonly [prefix: string, via: string])[];
  readonly nodes?: readonly string[];
  /** External devices. */
  readonly devices?: readonly string[];
  /** Absent: everything may enter. */
  readonly allowedPeers?: readonly number[];
}

const HOST_IDENTITY = 4242;

/** The state that a scene describes; single addresses within a prefix of the same endpoint have no route of their own. */
export function stateOf(scene: OverlayScene): DesiredState {
  const tables = {
    4: new WordTable({ keyWords: 1, columns: 2 }),
    6: new WordTable({ keyWords: 4, columns: 2 }),
  };
  const vias: Address[] = [];
  const put = (host: Address, via: Address): void => {
    const table = tables[host.family];
    const slot = table.insert(host.words);
    table.set(slot, 0, HOST_IDENTITY);
    table.set(slot, 1, vias.push(via));
  };
  for (const [host, via] of scene.hosts ?? []) put(address(host), address(via));
  if (scene.manyHosts !== undefined) {
    const first = address(scene.manyHosts.first);
    const endpoints = scene.manyHosts.vias.map(address);
    for (let i = 0; i < scene.manyHosts.count; i++) {
      const words = [...first.words];
      words[words.length - 1] = ((first.words.at(-1) as number) + i) >>> 0;
      put({ family: first.family, words }, endpoints[i % endpoints.length] as Address);
    }
  }
  const prefixes = (scene.prefixes ?? []).map(([text, via]) => ({ prefix: prefix(text), via: address(via) }));
  const { overlay } = scene;
  return {
    addresses: { hosts4: tables[4], hosts6: tables[6], prefixes: () => [] },
    ingress: scene.allowedPeers === undefined ? NO_POLICY : onlyFrom(scene.allowedPeers),
    egress: NO_POLICY,
    border: {
      devices: scene.devices ?? [],
      dualStack: true,
      failsafe: { ingress: [], egress: [] },
      stores: [],
      nodes: (scene.nodes ?? []).map(address),
      tunnelPort: overlay?.port ?? 8472,
      audit: false,
    },
    overlay:
      overlay === undefined
        ? undefined
        : {
            device: overlay.device ?? 'mesh_vxlan',
            port: overlay.port ?? 8472,
            identity: identity(overlay.identity ?? 59102),
            source4: overlay.source4 === undefined ? undefined : address(overlay.source4),
            source6: overlay.source6 === undefined ? undefined : address(overlay.source6),
            underlayMtu: overlay.underlayMtu ?? 1500,
            ownAddresses: (overlay.ownAddresses ?? []).map(prefix),
            hostRoute: (family, key) => {
              const via = vias[(tables[family].lookup(key, 1) ?? 0) - 1];
              if (via === undefined || prefixes.length === 0) return via;
              const host: Prefix = { family, words: key, bits: addressBits(family) };
              const wider = prefixes.filter((route) => route.prefix.bits < host.bits && contains(route.prefix, host));
              return wider.some((route) => formatAddress(route.via) === formatAddress(via)) ? undefined : via;
            },
            hostRoutes: () => [],
            prefixRoutes: () => prefixes,
          },
  };
}

const EMPTY_CLASS: PolicyClass = { id: 1, rows: [] };
const NO_POLICY: DirectionPolicy = {
  enforcing: false,
  defaultDeny: false,
  unknownClass: EMPTY_CLASS,
  classOf: () => EMPTY_CLASS,
  identities: () => [],
  classes: () => [EMPTY_CLASS],
};

function onlyFrom(peers: readonly number[]): DirectionPolicy {
  const rows = [{ protocol: PROTOCOL.any, first: 0, last: 65535, verdict: 'allow', rules: [] }] as const;
  const allowed: PolicyClass = { id: 2, rows };
  return {
    enforcing: true,
    defaultDeny: true,
    unknownClass: EMPTY_CLASS,
    classOf: (id) => (peers.includes(id) ? allowed : EMPTY_CLASS),
    identities: () => peers.map((peer) => [identity(peer), allowed] as const),
    classes: () => [EMPTY_CLASS, allowed],
  };
}

function address(text: string): Address {
  const found = parseAddress(text);
  if (found === undefined) throw new Error(`no address: ${text}`);
  return found;
}

function prefix(text: string): Prefix {
  const found = parsePrefix(text);
  if (found === undefined) throw new Error(`no prefix: ${text}`);
  return found;
}
