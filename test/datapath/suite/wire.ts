import { Place } from '../../lab/place.ts';

/** Addresses of the wire: `M` the machine, `P` the peer, `O` a second address of the peer. */
export const M = { v4: '10.77.0.1', v6: 'fd77::1' } as const;
export const P = { v4: '10.77.0.2', v6: 'fd77::2' } as const;
export const O = { v4: '10.77.0.3', v6: 'fd77::3' } as const;
export const FAMILIES = ['v4', 'v6'] as const;

export interface Wire {
  readonly machine: Place;
  readonly peer: Place;
  close(): Promise<void>;
}

/** A machine (`eth0`) and a peer on one wire. Both serve echo on the ports given. */
export async function wire(label: string, ports: { tcp?: number[]; udp?: number[] } = {}): Promise<Wire> {
  const machine = new Place(`${label}-m`);
  const peer = new Place(`${label}-p`);
  machine.namespace.connect(peer.namespace, {
    device: 'eth0',
    peerDevice: 'eth0',
    addresses: [`${M.v4}/24`, `${M.v6}/64`],
    peerAddresses: [`${P.v4}/24`, `${P.v6}/64`, `${O.v4}/24`],
  });
  // Deprecated, so that the peer speaks from its first address unless told otherwise.
  const other = [`${O.v6}/64`, 'dev', 'eth0', 'nodad', 'preferred_lft', '0'];
  peer.namespace.run('ip', 'address', 'add', ...other);
  await Promise.all([machine.listen(ports), peer.listen(ports)]);
  return {
    machine,
    peer,
    close: async () => {
      await Promise.all([machine.close(), peer.close()]);
    },
  };
}
