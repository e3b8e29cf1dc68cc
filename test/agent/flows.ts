import type { FlowEndRecord, FlowRecord } from '../../src/api/flow-types.ts';
import { DROP } from '../../src/core/drop-reason.ts';

export const FRONTEND: FlowEndRecord = {
  address: '10.244.1.5',
  identity: 66_001,
  labels: ['k8s:app=frontend', 'k8s:io.cilium.k8s.policy.cluster=cluster-a'],
  cluster: 'cluster-a',
  service: 'production/web',
};
export const MACHINE: FlowEndRecord = {
  address: '192.168.1.100',
  identity: 59_102,
  labels: ['k8s:app=backend'],
  self: true,
  cluster: 'cluster-a',
  node: 'cluster-a/my-vm',
};

/** A drop of what a frontend sends to the machine. */
export function flow(over: Partial<FlowRecord> = {}): FlowRecord {
  return {
    number: 0,
    time: 1_700_000_000_000,
    verdict: 'DROPPED',
    direction: 'ingress',
    reply: false,
    ipVersion: 4,
    protocol: 'tcp',
    source: FRONTEND,
    sourcePort: 40_000,
    destination: MACHINE,
    destinationPort: 8080,
    tcpFlags: ['SYN'],
    bytes: 60,
    dropReason: DROP.noRule,
    policy: { reason: 'default-deny', rules: [{ policy: 'CiliumNetworkPolicy/production/web', path: 'spec' }] },
    interface: { index: 2, name: 'eth0' },
    explain: ['policy', 'explain', '10.244.1.5', 'self', 'tcp/8080'],
    ...over,
  };
}
