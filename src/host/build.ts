/** What `scripts/build.sh` puts into the bundle; `undefined` when the source runs as it is. */
declare const MESH_AGENT_BUILD: Build | undefined;

export interface Build {
  readonly version: string;
  /** Short commit, with `-dirty` when the tree had changes; `unknown` outside a repository. */
  readonly commit: string;
  /** ISO 8601 date of that commit, so that two builds of one commit are equal. */
  readonly date: string;
}

/** Whether this is the bundle (alone or inside the executable) and not the source tree. */
export const bundled = typeof MESH_AGENT_BUILD !== 'undefined';

export const build: Build =
  typeof MESH_AGENT_BUILD !== 'undefined' ? MESH_AGENT_BUILD : { version: '0.0.0', commit: 'source', date: '' };
