import type { CertificateRecord, RemoteClusterRecord, Verdict } from '../../hub/clusters/records.ts';
import { printable } from '../../observe/printable.ts';
import { ago, plural } from '../words.ts';

const SIGNS: Record<Verdict['state'], string> = { ok: '✅', warning: '⚠️ ', error: '❌' };

/** In the manner of `cilium clustermesh status` and `kvstoremesh-dbg status` (kvstore specification 10.1, 10.4). */
export function clusterOverviewText(records: readonly RemoteClusterRecord[], now: number): string {
  const ready = records.filter((record) => record.ready).length;
  const connected = records.filter((record) => record.connected).length;
  const lines = [`KVStoreMesh:   ${ready}/${records.length} remote clusters ready, ${connected} connected\n`];
  for (const record of records) {
    lines.push(...blockLines(record, now));
    lines.push(...verdictLines(record.verdicts.filter(({ state }) => state !== 'ok')));
  }
  return lines.join('');
}

/** In the manner of `cilium-dbg troubleshoot clustermesh` (kvstore specification 10.3). */
export function clusterDetailText(record: RemoteClusterRecord, now: number): string {
  const { certificates, endpoints } = record;
  const lines = [
    `Cluster "${printable(record.name)}":\n`,
    ...blockLines(record, now),
    '\n🔌 Endpoints:\n',
    ...endpoints.map((each) => `   - ${printable(each)}\n`),
    '\n🔑 Digital certificates:\n',
    ...certificateLines('TLS Root CA certificates', certificates.authority),
    ...certificateLines('TLS client certificates', certificates.client),
    '\n⚙️ Prerequisites:\n',
    ...verdictLines(record.verdicts),
  ];
  if (record.refusedExamples.length > 0) {
    lines.push('\nNot copied, for example:\n');
    for (const { key, reason } of record.refusedExamples) lines.push(`   - ${printable(key)} (${reason})\n`);
  }
  return lines.join('');
}

/** One line for each check, with what to do below it when it is not met. */
export function verdictLines(verdicts: readonly Verdict[]): string[] {
  return verdicts.flatMap(({ state, check, text, code, remedy }) => {
    const line = `   ${SIGNS[state]} ${check}: ${printable(text)}${code === undefined ? '' : ` (${code})`}\n`;
    return remedy === undefined ? [line] : [line, `      remedy: ${remedy}\n`];
  });
}

function blockLines(record: RemoteClusterRecord, now: number): string[] {
  const { config, counts, store, synced } = record;
  const facts = [
    plural(counts.nodes, 'node'),
    plural(counts.ip, 'endpoint'),
    plural(counts.identities, 'identity', 'identities'),
    plural(counts.services, 'service'),
    `${plural(store.reconnections, 'reconnection')} (last: ${ago(store.lastFailure?.at, now)})`,
  ];
  const exports = config.serviceExports === null ? 'unsupported' : config.serviceExports ? 'enabled' : 'disabled';
  const configuration = config.retrieved
    ? `expected=true, retrieved=true, cluster-id=${config.clusterId}, kvstoremesh=${config.kvstoremesh}, ` +
      `sync-canaries=${config.syncCanaries}, service-exports=${exports}`
    : 'expected=unknown, retrieved=unknown';
  const pending = record.pending === 0 ? '' : `, ${record.pending} keys to be written`;
  return [
    `   ${printable(record.name)}: ${record.ready ? 'ready' : 'not-ready'}, ${facts.join(', ')}\n`,
    `   └  ${printable(record.status)}\n`,
    `   └  remote configuration: ${configuration}\n`,
    `   └  synchronization status: nodes=${synced.nodes}, endpoints=${synced.ip}, identities=${synced.identities}, services=${synced.services}${pending}\n`,
  ];
}

function certificateLines(title: string, certificates: readonly CertificateRecord[]): string[] {
  if (certificates.length === 0) return [`   ℹ️  ${title}: none\n`];
  const time = (ms: number): string => new Date(ms).toISOString();
  return [
    `   ✅ ${title}:\n`,
    ...certificates.map(
      ({ serial, subject, issuer, notBefore, notAfter }) =>
        `      - Serial number:       ${serial}\n        Subject:             ${printable(subject)}\n` +
        `        Issuer:              ${printable(issuer)}\n        Validity:\n` +
        `          Not before:  ${time(notBefore)}\n          Not after:   ${time(notAfter)}\n`,
    ),
  ];
}
