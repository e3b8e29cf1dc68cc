import type { MeshLab } from '../lab/mesh-lab.ts';
import type { SystemdMachine } from './systemd-machine.ts';

/** What the operator of a machine that joins a cluster directly writes. */
export function configure(machine: SystemdMachine, lab: MeshLab): void {
  const { cert, key, ca } = lab.credentials;
  for (const [from, to] of [
    [ca, 'ca.crt'],
    [cert, 'agent.crt'],
    [key, 'agent.key'],
  ] as const)
    machine.copy(from, `/var/lib/mesh-agent/pki/${to}`);
  const files = '/var/lib/mesh-agent/pki';
  machine.write(
    '/etc/mesh-agent/conf.d/20-cluster.yaml',
    `name: my-vm\nkvstore:\n  endpoints: [https://${lab.cluster('cluster-a').node.place.ipv4}:2379]\n` +
      `  ca: ${files}/ca.crt\n  cert: ${files}/agent.crt\n  key: ${files}/agent.key\n`,
  );
}
