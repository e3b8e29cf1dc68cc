import { splitListen } from '../../config/values.ts';
import type { HubConfig } from '../config.ts';
import type { HubFolder } from '../folder.ts';

/** The common name of the only certificate that may speak to the peer port. */
export function peerName(cluster: string): string {
  return `peer-${cluster}`;
}

/** Where the hub reaches its own etcd: loopback, as etcd listens there whatever else it does. */
export function ownEndpoint(config: HubConfig): string {
  return `https://${loopback(config)}`;
}

function loopback(config: HubConfig): string {
  const { host, port } = hostAndPort(config.listen.etcd);
  return `${/^127\./.test(host) ? host : '127.0.0.1'}:${port}`;
}

export function hostAndPort(listen: string): { host: string; port: number } {
  return splitListen(listen) ?? { host: '', port: 0 };
}

/**
 * The command line of the own etcd (3.4). Until access control is on (`secured`) it listens on loopback alone.
 *
 * History of an hour, as Cilium's etcd has it: a machine or a cluster that was away for longer lists again.
 */
export function etcdArguments(of: {
  readonly config: HubConfig;
  readonly folder: HubFolder;
  readonly token: string;
  readonly secured: boolean;
}): string[] {
  const { config, folder, token, secured } = of;
  const own = `https://${loopback(config)}`;
  const { host } = hostAndPort(config.listen.etcd);
  const wild = host === '0.0.0.0' || host === '::';
  const all = wild ? `https://${config.listen.etcd}` : [...new Set([`https://${config.listen.etcd}`, own])].join(',');
  const peer = `https://${config.etcd.peer}`;
  const name = config.cluster.name;
  return [
    ...['--name', name, '--data-dir', folder.etcd],
    ...['--listen-client-urls', secured ? all : own, '--advertise-client-urls', own],
    ...['--client-cert-auth', '--trusted-ca-file', folder.ca.cert],
    ...['--cert-file', folder.server.cert, '--key-file', folder.server.key],
    ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer],
    ...['--peer-client-cert-auth', '--peer-trusted-ca-file', folder.ca.cert],
    ...['--peer-cert-file', folder.peer.cert, '--peer-key-file', folder.peer.key],
    ...['--peer-cert-allowed-cn', peerName(name)],
    ...['--initial-cluster', `${name}=${peer}`, '--initial-cluster-token', token, '--initial-cluster-state', 'new'],
    ...['--auto-compaction-mode', 'periodic', '--auto-compaction-retention', '1h'],
    ...['--quota-backend-bytes', String(config.etcd.quota), '--snapshot-count', '10000'],
    // The JSON gateway would speak to etcd with the server's certificate.
    '--enable-grpc-gateway=false',
    ...['--logger', 'zap', '--log-outputs', 'stderr', '--log-level', 'info'],
  ];
}
