import { isIP } from 'node:net';
import { stringify } from 'yaml';
import type { ExportAnswer } from './records.ts';

export const EXPORT_FORMS = ['yaml', 'helm', 'secret'] as const;
export type ExportForm = (typeof EXPORT_FORMS)[number];

/** Where Cilium's agents and its kvstoremesh have their clustermesh files, in their containers. */
const FOLDER = '/var/lib/cilium/clustermesh';
const DOMAIN = 'mesh.cilium.io';

interface Files {
  /** File name, as Cilium looks for it, and content. */
  readonly [name: string]: string;
}

/** The etcd configuration of the hub and its certificates, as files of a clustermesh folder (kvstore specification 4.1). */
export function exportedFiles(answer: ExportAnswer, folder = FOLDER): Files {
  const { name } = answer.cluster;
  const at = (file: string): string => `${folder}/${name}.${file}`;
  return {
    [name]: stringify({
      endpoints: [`https://${hostFor(answer)}:${answer.port}`],
      'trusted-ca-file': at('etcd-client-ca.crt'),
      'cert-file': at('etcd-client.crt'),
      'key-file': at('etcd-client.key'),
    }),
    [`${name}.etcd-client-ca.crt`]: answer.ca,
    [`${name}.etcd-client.crt`]: answer.certificate,
    [`${name}.etcd-client.key`]: answer.key,
  };
}

/** What the operator of the other cluster applies. */
export function exportText(answer: ExportAnswer, form: ExportForm): string {
  if (form === 'helm')
    return `${head(answer, 'values of the Cilium Helm chart: `helm upgrade --reuse-values -f FILE`')}${helm(answer)}`;
  if (form === 'secret')
    return `${head(answer, 'merge into the secrets of the same names: `kubectl apply` replaces other clusters')}${secrets(answer)}`;
  return `${head(answer, `files of a clustermesh folder, such as ${FOLDER}`)}${stringify(exportedFiles(answer), WIDE)}`;
}

const WIDE = { lineWidth: 0 } as const;

/** Chart 1.16 to 1.20: it makes both secrets of this, also when KVStoreMesh is in between. */
function helm(answer: ExportAnswer): string {
  const { name } = answer.cluster;
  const addresses = answer.names.filter((each) => isIP(each) !== 0);
  // With addresses Cilium reaches us as <cluster>.mesh.cilium.io, which our certificate carries.
  const where = addresses.length > 0 ? { ips: addresses } : { address: hostFor(answer) };
  const tls = { cert: base64(answer.certificate), key: base64(answer.key), caCert: base64(answer.ca) };
  return stringify(
    {
      clustermesh: {
        useAPIServer: true,
        maxConnectedClusters: answer.cluster.maxConnectedClusters,
        config: { enabled: true, domain: DOMAIN, clusters: [{ name, ...where, port: answer.port, tls }] },
        apiserver: { kvstoremesh: { enabled: true } },
      },
    },
    WIDE,
  );
}

/** With KVStoreMesh, the agents' own configuration leads to the clustermesh-apiserver of their cluster. */
function secrets(answer: ExportAnswer): string {
  const { name } = answer.cluster;
  const local = stringify({
    endpoints: ['https://clustermesh-apiserver.kube-system.svc:2379'],
    'trusted-ca-file': `${FOLDER}/local-etcd-client-ca.crt`,
    'cert-file': `${FOLDER}/local-etcd-client.crt`,
    'key-file': `${FOLDER}/local-etcd-client.key`,
  });
  const documents = [
    secret('cilium-kvstoremesh', exportedFiles(answer)),
    secret('cilium-clustermesh', { [name]: local }),
  ];
  return documents.map((document) => stringify(document, WIDE)).join('---\n');
}

function secret(name: string, files: Files): object {
  return {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name, namespace: 'kube-system' },
    type: 'Opaque',
    data: Object.fromEntries(Object.entries(files).map(([file, content]) => [file, base64(content)])),
  };
}

function head(answer: ExportAnswer, use: string): string {
  const { name, id, maxConnectedClusters } = answer.cluster;
  return [
    `# Cluster ${name} (id ${id}, of ${maxConnectedClusters}), for cluster ${answer.name}: user remote-${answer.name}, until ${new Date(answer.notAfter).toISOString()}.`,
    `# ${use[0]?.toUpperCase() ?? ''}${use.slice(1)}.`,
    '# It holds a private key.',
    '',
  ].join('\n');
}

/** The first name that is no address, or the first address. */
function hostFor({ names }: ExportAnswer): string {
  const host = names.find((each) => isIP(each) === 0) ?? names[0] ?? '';
  return host.includes(':') ? `[${host}]` : host;
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
}
