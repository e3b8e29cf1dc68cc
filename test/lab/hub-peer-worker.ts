import { formatAddress, formatPrefix } from '../../src/core/ip.ts';
import { labelTexts } from '../../src/core/labels.ts';
import { readEtcdConfig } from '../../src/kvstore/etcd-config.ts';
import { openStore } from '../../src/kvstore/session.ts';
import { Mesh } from '../../src/mesh/mesh.ts';
import { Tables } from '../../src/mesh/tables.ts';
import type { PeerFacts } from './hub-peer.ts';

/**
 * Reads the cluster of a hub as an agent of another cluster does, from the place that it runs in, and tells its parent
 * what it knows whenever that changes. A second watch counts what vanished from the store, also for a moment.
 */
const [config = '', own = '', id = '', hub = ''] = process.argv.slice(2);
const GATHER_MS = 20;

const tables = new Tables((entry) => process.stderr.write(`${JSON.stringify(entry)}\n`));
const mesh = new Mesh({ tables, onChange: () => changed() });
const store = openStore({ etcd: () => readEtcdConfig(config), meshClient: true });
const removed: string[] = [];
let seen = new Set<string>();
let listed = new Set<string>();
let gathering = false;

function changed(): void {
  if (gathering) return;
  gathering = true;
  setTimeout(() => {
    gathering = false;
    // The parent may have left.
    if (process.connected) process.send?.(facts());
  }, GATHER_MS);
}

function facts(): PeerFacts {
  const cluster = mesh.list().find((each) => each.cluster.name === hub)?.cluster;
  return {
    ready: cluster?.ready === true,
    waitingFor: cluster?.waitingFor ?? null,
    nodes: [...tables.nodes.values()].map((node) => ({
      name: node.name,
      addresses: node.addresses.map(({ address }) => formatAddress(address)),
      ranges: [...node.ranges4, ...node.ranges6].map(formatPrefix),
    })),
    addresses: [...tables.ipcache.entries()].map(({ prefix, identity, tunnelEndpoint }) => ({
      prefix: formatPrefix(prefix),
      identity,
      host: tunnelEndpoint === undefined ? null : formatAddress(tunnelEndpoint),
    })),
    identities: [...tables.identities.entries()].map(([number, fact]) => ({ number, labels: labelTexts(fact.labels) })),
    removed,
  };
}

drain(tables.nodes.changed);
drain(tables.identities.changed);
drain(tables.ipcache.changed4);
drain(tables.ipcache.changed6);
drain(tables.ipcache.changedPrefixes);

function drain<K>(feed: { read(wake: () => void): { drain(): Set<K> } }): void {
  const reader = feed.read(() =>
    setImmediate(() => {
      reader.drain();
      changed();
    }),
  );
}

mesh.ids.setOwn({ name: own, id: Number(id) });
mesh.addRemote(hub, store);
store.onStatus(changed);
store.watchPrefix('cilium/state/', {
  listing: () => {
    listed = new Set();
  },
  put: (key) => {
    seen.add(key);
    listed.add(key);
  },
  remove: (key) => {
    seen.delete(key);
    removed.push(key);
    changed();
  },
  listed: () => {
    for (const key of seen) if (!listed.has(key)) removed.push(key);
    seen = new Set(listed);
    changed();
  },
});
process.on('disconnect', () => process.exit());
await mesh.run(new AbortController().signal);
