import { formatAddress } from '../../src/core/ip.ts';
import { LinkWatch } from '../../src/host/link-watch.ts';
import type { LinkState } from '../../src/host/links.ts';

// Started by links.test.ts in a network namespace: prints the state at first and after each change, one line of JSON each.
export interface LinkFacts {
  readonly links: Record<string, { kind: string; up: boolean; mtu: number; master?: string; parent?: string }>;
  readonly addresses: Record<string, { device: string; flags: string[] }>;
  readonly routes: { device: string; gateway?: string; source?: string; metric: number; family: number }[];
}

function factsOf(state: LinkState): LinkFacts {
  const name = (index: number | undefined): string | undefined =>
    state.links.find((link) => link.index === index)?.name;
  const links: LinkFacts['links'] = {};
  for (const { name: own, kind, up, mtu, master, parent } of state.links) {
    const [masterName, parentName] = [name(master), name(parent)];
    links[own] = {
      kind,
      up,
      mtu,
      ...(masterName && { master: masterName }),
      ...(parentName && { parent: parentName }),
    };
  }
  const addresses: LinkFacts['addresses'] = {};
  for (const each of state.addresses) {
    const flags = (['tentative', 'deprecated', 'temporary', 'secondary'] as const).filter((flag) => each[flag]);
    addresses[`${formatAddress(each.address)}/${each.bits}`] = { device: name(each.link) ?? '?', flags };
  }
  const routes = state.defaultRoutes.map(({ family, link, gateway, source, metric }) => ({
    family,
    device: name(link) ?? '?',
    metric,
    ...(gateway && { gateway: formatAddress(gateway) }),
    ...(source && { source: formatAddress(source) }),
  }));
  return { links, addresses, routes };
}

const say = (state: LinkState): void => void process.stdout.write(`${JSON.stringify(factsOf(state))}\n`);
const watch = new LinkWatch({
  onChange: say,
  onError: (error) => {
    throw error;
  },
});
say(await watch.read());
process.stdin.resume().on('end', () => watch.close());
