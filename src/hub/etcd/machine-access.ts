import { AccessControl, type Permission } from '../../kvstore/access-control.ts';
import { LOST_PREFIX, MACHINE_SERVICES_PREFIX, POLICIES_PREFIX, registerKey } from '../../kvstore/paths.ts';
import type { Session } from '../../kvstore/session.ts';

/** Users and roles in the store for machines and remote clusters: docs/hub.md says which rights they have. */
export interface MachineAccess {
  /**
   * Lets the certificate `machine:<name>` in: reads what machines need, writes its own registration key. Repeatable.
   * @throws MeshError KVS-*
   */
  grant(name: string): Promise<void>;
  /**
   * Ends all rights of a machine and removes its registration: neither reads nor writes from then on, over no
   * connection. A watch that is open may go on, since etcd asks for rights only when it begins: `onRevoked` of the hub
   * ends connections. Repeatable.
   */
  revoke(name: string): Promise<void>;
  /** Lets the certificate `remote-<cluster>` in. Repeatable. */
  grantCluster(cluster: string): Promise<void>;
  revokeCluster(cluster: string): Promise<void>;
  /** Names of machines that are let in. */
  machines(): Promise<readonly string[]>;
}

export interface AccessOptions {
  readonly session: Pick<Session, 'request' | 'remove'>;
  /** Of the hub. */
  readonly cluster: string;
  /** Someone lost all rights; what is open to them must be cut. */
  readonly onRevoked: (user: string) => void;
}

const MACHINE = 'machine';
const REMOTE = 'remote';

/** The common name of a machine's certificate, and its user in the store. */
export function machineUser(name: string): string {
  return `machine:${name}`;
}

/** The machine that a user is; undefined of everyone else. */
export function machineOf(user: string): string | undefined {
  return /^machine:([^/]+)$/.exec(user)?.[1];
}

/** The same for a remote cluster (Cilium's `cluster` mode of authentication). */
export function clusterUser(cluster: string): string {
  return `remote-${cluster}`;
}

/** What every machine reads: the facts of its own cluster and of the others, which ones are lost, policies, and which services it is to serve. */
const MACHINE_READS: readonly Permission[] = [
  // Without a slash, as Cilium's own roles have it (specification 7.1).
  { may: 'read', prefix: 'cilium/.heartbeat' },
  { may: 'read', prefix: 'cilium/cache/' },
  { may: 'read', prefix: 'cilium/cluster-config/' },
  { may: 'read', prefix: 'cilium/state/' },
  { may: 'read', prefix: 'cilium/synced/' },
  { may: 'read', prefix: POLICIES_PREFIX },
  { may: 'read', prefix: MACHINE_SERVICES_PREFIX },
  { may: 'read', prefix: LOST_PREFIX },
];

/** Cilium's role of 1.17 and later: enough for 1.16 as well. */
function remoteReads(cluster: string): readonly Permission[] {
  return [
    { may: 'read', prefix: 'cilium/.heartbeat' },
    { may: 'read', prefix: 'cilium/state/' },
    { may: 'read', key: `cilium/cluster-config/${cluster}` },
    { may: 'read', prefix: `cilium/synced/${cluster}/` },
  ];
}

/** Users and roles of the hub itself, then access control on. Repeatable: it also heals what was half done. */
export async function bootstrapAccess(session: Pick<Session, 'request'>, cluster: string): Promise<void> {
  const control = new AccessControl(session.request);
  await control.ensureRole('root', []);
  await control.ensureUser('root', ['root']);
  await control.ensureUser(`admin-${cluster}`, ['root']);
  await control.ensureRole(MACHINE, MACHINE_READS);
  await control.ensureRole(REMOTE, remoteReads(cluster));
  await control.ensureUser(REMOTE, [REMOTE]);
  await control.enable();
}

export function openMachineAccess({ session, onRevoked }: AccessOptions): MachineAccess {
  const control = new AccessControl(session.request);
  const revokeUser = async (user: string): Promise<void> => {
    await control.removeUser(user);
    onRevoked(user);
  };
  return {
    async grant(name) {
      const user = machineUser(name);
      await control.ensureRole(user, [{ may: 'readwrite', key: registerKey(name) }]);
      await control.ensureUser(user, [MACHINE, user]);
    },
    async revoke(name) {
      const user = machineUser(name);
      await revokeUser(user);
      await control.removeRole(user);
      // Last, when nobody can write it again. A lease needs no rights to be kept alive.
      await session.remove(registerKey(name));
    },
    grantCluster: (cluster) => control.ensureUser(clusterUser(cluster), [REMOTE]),
    revokeCluster: (cluster) => revokeUser(clusterUser(cluster)),
    async machines() {
      const prefix = machineUser('');
      return (await control.users()).filter((user) => user.startsWith(prefix)).map((user) => user.slice(prefix.length));
    },
  };
}
