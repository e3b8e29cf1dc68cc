/** Users and roles in the store for machines and remote clusters: docs/hub.md says which rights they have. */
export interface MachineAccess {
  /**
   * Lets the certificate `machine:<name>` in: reads what machines need, writes its own registration key. Repeatable.
   * @throws MeshError KVS-*
   */
  grant(name: string): Promise<void>;
  /** Ends all rights of a machine at once and removes its registration. Repeatable. */
  revoke(name: string): Promise<void>;
  /** Lets the certificate `remote-<cluster>` in. Repeatable. */
  grantCluster(cluster: string): Promise<void>;
  revokeCluster(cluster: string): Promise<void>;
  /** Names of machines that are let in. */
  machines(): Promise<readonly string[]>;
}
