import type { Spec } from './spec.ts';
import { P } from './wire.ts';

/** Something of every kind that a kernel may have to hold. */
export const SPEC: Spec = {
  hosts: { [P.v4]: 70_000, [P.v6]: 70_000, '10.9.9.9': 70_001 },
  prefixes: { '10.0.0.0/8': 500, '10.77.0.0/16': 501, 'fd00::/8': 502 },
  failsafe: { ingress: ['tcp/22'] },
  stores: ['192.0.2.1 2379', '2001:db8::1 2379'],
  ingress: { of: { 70000: ['allow tcp/80', 'allow tcp/90-99'], 70001: [], 500: ['deny udp/53 audit'] } },
  egress: { others: ['allow udp/53', 'allow icmp/8'], of: { 70000: ['allow any'], 501: ['deny any'] } },
};
