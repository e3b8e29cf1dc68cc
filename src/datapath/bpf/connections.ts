import { setImmediate as nextTurn } from 'node:timers/promises';
import { formatIpv4, formatIpv6 } from '../../core/ip.ts';
import type { KernelConnection } from '../connection.ts';
import type { Generation } from './generation.ts';
import { DIRECTION, keyWords } from './layout.ts';

const TURN = 4096;
/** Of the clock of the entries: 2^30 ns. */
const TICK_BITS = 30n;
const PROTOCOL = { icmp: 1, tcp: 6, udp: 17, icmpv6: 58 } as const;
/** `enum` of struct connection in native/bpf/policy.h. */
const STATE = { replied: 1, denied: 2, finished: 4 | 8, reset: 16 } as const;

/** Connections that are not over yet. */
export async function dumpConnections(generation: Generation): Promise<KernelConnection[]> {
  const now = Number(process.hrtime.bigint() >> TICK_BITS);
  const found: KernelConnection[] = [];
  let count = 0;
  for (const name of ['connections4', 'connections6', 'opening4', 'opening6']) {
    for (const { key, value } of generation.map(name).entries()) {
      if (++count % TURN === 0) await nextTurn();
      const connection = connectionOf(key, value, now);
      if (connection.expiresIn >= 0) found.push(connection);
    }
  }
  return found;
}

function connectionOf(key: Buffer, value: Buffer, now: number): KernelConnection {
  const width = key.length === 16 ? 4 : 16;
  const address = (at: number): string =>
    width === 4 ? formatIpv4(key.readUInt32BE(at)) : formatIpv6(keyWords(key, at, 4));
  const protocol = key[width * 2 + 4] ?? 0;
  const hasPorts = protocol !== PROTOCOL.icmp && protocol !== PROTOCOL.icmpv6;
  const port = (at: number): number => (hasPorts ? key.readUInt16BE(at) : 0);
  const state = value[19] ?? 0;
  return {
    direction: DIRECTION[value[18] === 0 ? 'in' : 'out'],
    protocol,
    remote: { address: address(0), port: port(width * 2) },
    local: { address: address(width), port: port(width * 2 + 2) },
    state: stateOf(state),
    expiresIn: value.readUInt32LE(8) + lifetime(state, protocol) - now,
  };
}

function stateOf(state: number): KernelConnection['state'] {
  if ((state & STATE.denied) !== 0) return 'denied';
  if (isClosing(state)) return 'closing';
  return (state & STATE.replied) === 0 ? 'opening' : 'open';
}

function isClosing(state: number): boolean {
  return (state & STATE.reset) !== 0 || (state & STATE.finished) === STATE.finished;
}

/** As `lifetime` in native/bpf/policy.bpf.c. */
function lifetime(state: number, protocol: number): number {
  const replied = (state & STATE.replied) !== 0;
  if (protocol === PROTOCOL.tcp) return replied && !isClosing(state) ? 432_000 : 120;
  if (protocol === PROTOCOL.udp) return replied ? 180 : 30;
  return protocol === PROTOCOL.icmp || protocol === PROTOCOL.icmpv6 ? 30 : 600;
}
