import { Machine } from '../../src/agent/machine.ts';
import { Health } from '../../src/api/health.ts';
import { formatAddress } from '../../src/core/ip.ts';

// Started by machine.test.ts in a network namespace: prints the machine at first and after each change that it tells, and,
// asked for by a line on its input, its health and the processor time that it took so far.
export interface MachineFacts {
  readonly change?: { readonly own: boolean; readonly network: boolean };
  readonly ipv4: string;
  readonly ipv6: string;
  readonly families: readonly number[];
  readonly external: readonly string[];
  readonly addresses: readonly string[];
  readonly gateways: readonly string[];
  readonly mtu: number;
  readonly health: readonly string[];
  readonly cpuMs: number;
}

const health = new Health(() => {});
const say = (change?: MachineFacts['change']): void => {
  const text = (address: typeof machine.ipv4): string => (address === undefined ? '' : formatAddress(address));
  const { user, system } = process.cpuUsage();
  const facts: MachineFacts = {
    ...(change !== undefined && { change }),
    ipv4: text(machine.ipv4),
    ipv6: text(machine.ipv6),
    families: machine.families,
    external: machine.external,
    addresses: machine.addresses.map(formatAddress).sort(),
    gateways: machine.gateways.map(formatAddress),
    mtu: machine.underlayMtu,
    health: health.list().map(({ code }) => code),
    cpuMs: (user + system) / 1000,
  };
  process.stdout.write(`${JSON.stringify(facts)}\n`);
};
const machine = new Machine({ config: () => ({ address: {}, devices: 'auto' }), health, onChange: say });
await machine.open();
say();
process.stdin.on('data', () => say()).on('end', () => machine.close());
