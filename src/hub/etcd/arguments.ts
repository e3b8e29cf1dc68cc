import { splitListen } from '../../config/values.ts';
import type { HubConfig } from '../config.ts';
import type { HubFolder } from '../folder.ts';

/** The common name of the only certificate that may speak to the peer port. */
export function peerName(cluster: string): string {
  return `peer-${cluster}`;
}

/** Where the hub reaches its own etcd. */
export function ownEndpoint(config: HubConfig): string {
  return `https://${config.etcd.client}`;
}

export function hostAndPort(listen: string): { host: string; port: number } {
  return splitListen(listen) ?? { host: '', port: 0 };
}

/**
 * The command line of the own etcd (3.4). It listens on loopback alone, for certificates of the internal authority alone:
 * everyone but the hub comes through the guard.
 *
 * History of an hour, as Cilium's etcd has it: a machine or a cluster that was away for longer lists again.
 */
export function etcdArguments(of: {
  readonly config: HubConfig;
  readonly folder: HubFolder;
  readonly token: string;
}): string[] {
  const { config, folder, token } = of;
  const client = ownEndpoint(config);
  const peer = `https://${config.etcd.peer}`;
  const name = config.cluster.name;
  const { internal, etcdServer } = folder;
  return [
    ...['--name', name, '--data-dir', folder.etcd],
    ...['--listen-client-urls', client, '--advertise-client-urls', client],
    ...['--client-cert-auth', '--trusted-ca-file', internal.cert],
    ...['--cert-file', etcdServer.cert, '--key-file', etcdServer.key],
    ...['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer],
    ...['--peer-client-cert-auth', '--peer-trusted-ca-file', internal.cert],
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
