import type { ServiceFact } from '../../src/service/facts.ts';
import type { ServiceSettings } from '../../src/service/settings.ts';

/** Everything that the model is told, as plain values. */
export interface Scene {
  readonly joined: string | undefined;
  readonly services: readonly ServiceFact[];
  readonly lost: ReadonlySet<string>;
  readonly settings: ServiceSettings;
  /** Addresses that are no frontends, and the cluster that has each backend address. */
  readonly taken: ReadonlySet<string>;
  readonly homes: ReadonlyMap<string, string>;
  /** `<address> <protocol> <port>` of backends that fail the check of every service. */
  readonly failing?: ReadonlySet<string>;
}

const NUMBERS: Readonly<Record<string, number>> = { TCP: 6, UDP: 17, SCTP: 132 };

/** By frontend, where it leads: the rules read off one by one, without an index and without memory. */
export function referenceMap(scene: Scene): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const service of inOrder(scene.services, scene.joined)) {
    for (const [address, ports] of service.frontends) {
      if (!counts(service, scene) || scene.taken.has(address)) continue;
      if (!isSamePool(ownerOf(address, scene), service, scene)) continue;
      for (const port of ports) {
        const key = `${address} ${NUMBERS[port.protocol]} ${port.port}`;
        if (NUMBERS[port.protocol] === undefined || port.port === 0 || found.has(key)) continue;
        found.set(key, targets(service, { address, ...port }, scene));
      }
    }
  }
  return found;
}

function inOrder(services: readonly ServiceFact[], joined: string | undefined): ServiceFact[] {
  const rank = (service: ServiceFact): string =>
    `${service.cluster === joined ? 0 : 1} ${service.cluster} ${service.namespace}/${service.name}`;
  return [...services].sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
}

function isGlobal(service: ServiceFact, { joined }: Scene): boolean {
  return service.includeExternal && (service.shared || service.cluster === joined);
}

function counts(service: ServiceFact, scene: Scene): boolean {
  return service.cluster === scene.joined || isGlobal(service, scene);
}

function isSamePool(a: ServiceFact | undefined, b: ServiceFact, scene: Scene): boolean {
  return (
    a !== undefined && a.namespace === b.namespace && a.name === b.name && isGlobal(a, scene) === isGlobal(b, scene)
  );
}

/** The first in order that claims the address at all. */
function ownerOf(address: string, scene: Scene): ServiceFact | undefined {
  return inOrder(scene.services, scene.joined).find(
    (service) => counts(service, scene) && service.frontends.has(address) && !scene.taken.has(address),
  );
}

function targets(
  service: ServiceFact,
  frontend: { readonly address: string; readonly name: string; readonly protocol: string },
  scene: Scene,
): string[] {
  const local = scene.settings.local ?? scene.joined;
  const members = inOrder(scene.services, scene.joined).filter(
    (other) => counts(other, scene) && isSamePool(other, service, scene),
  );
  members.sort((a, b) => Number(b.cluster === local) - Number(a.cluster === local));
  const seen = new Set<string>();
  const name = `${service.namespace}/${service.name}`;
  const check = scene.settings.checks.get(name) ?? scene.settings.defaultCheck;
  const all: { text: string; near: boolean; lost: boolean; fails: boolean; leaving: boolean }[] = [];
  const affinity = isGlobal(service, scene) ? (scene.settings.affinity.get(name) ?? 'none') : 'none';
  for (const member of members) {
    for (const [address, ports] of member.backends) {
      if (seen.has(address)) continue;
      const home = scene.homes.get(address);
      if (member.cluster !== scene.joined && home !== member.cluster) continue;
      seen.add(address);
      if (address.includes(':') !== frontend.address.includes(':')) continue;
      const weight = scene.settings.weights.get(member.cluster) ?? 1;
      const same = ports.filter(({ protocol, port }) => protocol === frontend.protocol && port !== 0);
      const named = same.filter(({ name }) => name === frontend.name);
      const loose = same.filter(({ name }) => name === '' || frontend.name === '');
      for (const port of new Set((named.length > 0 ? named : loose).map((each) => each.port))) {
        const condition = member.conditions?.get(address);
        if (weight === 0 || condition === 'not-ready') continue;
        const isLocal = member.cluster === local;
        const near = affinity === 'none' || isLocal === (affinity === 'local');
        const place = `${address} ${NUMBERS[frontend.protocol]} ${port}`;
        const isChecked = check !== 'none' && (check.port !== undefined || frontend.protocol === 'TCP');
        all.push({
          text: `${address} ${port} *${weight}`,
          near,
          lost: scene.lost.has(member.cluster),
          fails: isChecked && scene.failing?.has(place) === true,
          leaving: condition === 'terminating',
        });
      }
    }
  }
  const usable = scene.settings.onClusterLoss === 'keep' ? all : all.filter((each) => !each.lost);
  const fine = usable.filter((each) => !each.lost && !each.fails && !each.leaving);
  const present = usable.filter((each) => !each.lost && !each.fails);
  const passing = usable.filter((each) => !each.fails);
  const left = [fine, present, passing].find((each) => each.length > 0) ?? usable;
  const near = left.filter((each) => each.near);
  return (near.length > 0 ? near : left).map(({ text }) => text).sort();
}
