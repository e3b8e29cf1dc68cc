import { Counter, Histogram } from 'prom-client';
import type { Metrics } from '../observe/metrics.ts';
import { type StoreRequest, storeRequests } from './request-channel.ts';

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10];
/** By the method's name; everything else writes. */
const READS = /^(KV\/Range|Maintenance\/Status|Cluster\/MemberList|Auth\/|Lease\/LeaseTimeToLive)/;
const QUORUM_CODES: readonly string[] = ['KVS-NO-QUORUM', 'KVS-TIMEOUT'];

/** Latency and errors of all stores, in Cilium's names. @returns ends it */
export function exportStoreRequests({ registry }: Metrics): () => void {
  const registers = [registry];
  const duration = new Histogram({
    name: 'cilium_kvstore_operations_duration_seconds',
    help: 'time of requests to stores; the action is the method of etcd',
    labelNames: ['action', 'kind', 'outcome', 'scope'],
    buckets: SECONDS,
    registers,
  });
  const quorum = new Counter({
    name: 'cilium_kvstore_quorum_errors_total',
    help: 'requests to stores that found no quorum, or no answer in time',
    labelNames: ['error'],
    registers,
  });
  const errors = new Counter({
    name: 'mesh_agent_kvstore_errors_total',
    help: 'requests to stores that failed, by error code',
    labelNames: ['code'],
    registers,
  });
  const listen = (message: unknown): void => {
    const { method, seconds, code } = message as StoreRequest;
    const kind = READS.test(method) ? 'read' : 'write';
    const outcome = code === undefined ? 'success' : 'fail';
    duration.observe({ action: method.slice(method.indexOf('/') + 1), kind, outcome, scope: 'all' }, seconds);
    if (code === undefined) return;
    errors.inc({ code });
    if (QUORUM_CODES.includes(code)) quorum.inc({ error: code });
  };
  storeRequests.subscribe(listen);
  return () => void storeRequests.unsubscribe(listen);
}
