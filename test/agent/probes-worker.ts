/** Probes this very host twice, with one IPv4 and one IPv6 address, and says what was found: for a process without rights. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Prober } from '../../src/agent/probes/prober.ts';
import { addressRecord, ProbeResults } from '../../src/agent/probes/results.ts';
import type { Target } from '../../src/agent/probes/targets.ts';
import { parseAddress } from '../../src/core/ip.ts';

const server = createServer((_request, response) => response.end()).listen(0, '::');
server.once('listening', async () => {
  const results = new ProbeResults();
  const troubles: (string | undefined)[] = [];
  const prober = new Prober({
    port: (server.address() as AddressInfo).port,
    timeoutMs: 2000,
    results,
    blocked: () => undefined,
    onFinding: () => undefined,
    onEchoTrouble: (text) => troubles.push(text),
  });
  const all = ['127.0.0.1', '::1'].map((ip) => {
    const target: Target = {
      ip,
      address: parseAddress(ip) ?? { family: 4, words: [0] },
      kind: 'node',
      primary: true,
      path: 'direct',
    };
    return { node: `c/${ip}`, target };
  });
  for (const { node, target } of all) results.retain(node, [target]);
  await prober.round(all, 0);
  await prober.round(all, 0);
  prober.close();
  const nodes = all.map(({ node }) => ({
    state: results.stateOf(node),
    addresses: [...results.of(node)].map(addressRecord),
  }));
  process.stdout.write(JSON.stringify({ troubles, nodes }));
  server.close();
});
