import { existsSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { stringify } from 'yaml';
import { MeshError, messageOf } from '../core/errors.ts';
import { makePrivateFolder, writeFileSafely } from '../pki/files.ts';
import { type HubConfig, parseHubConfig } from './config.ts';
import { type HubFolder, hubFolder } from './folder.ts';
import { createHubPki } from './hub-pki.ts';
import { lockHub } from './lock.ts';

/** What is given at `hub init`, as text; `hub.yaml` has the same checks. */
export interface HubChoices {
  readonly clusterName: string;
  readonly clusterId: number;
  readonly pools: readonly string[];
  readonly servicePools?: readonly string[];
  readonly names: readonly string[];
  readonly listenEtcd?: string;
  readonly listenEnrolment?: string;
  readonly etcdEndpoints?: readonly string[];
  readonly etcdCa?: string;
}

/**
 * Makes a hub: its configuration, keys and certificates. Its etcd is made when it runs first. `force` gives up one that is there, with
 * its keys and data: every machine has to join again.
 * @throws ConfigErrors; MeshError HUB-EXISTS, HUB-RUNNING, PKI-FILE
 */
export async function initHub(options: {
  readonly stateDir: string;
  readonly choices: HubChoices;
  readonly force?: boolean;
}): Promise<{ readonly config: HubConfig; readonly folder: HubFolder }> {
  const folder = hubFolder(options.stateDir);
  const yaml = hubYaml(options.choices);
  const config = parseHubConfig(yaml, 'the command line');
  await makePrivateFolder(folder.path);
  const unlock = lockHub(folder);
  try {
    const present = existsSync(folder.config) || existsSync(folder.ca.key) || existsSync(folder.etcd);
    if (present && options.force !== true) throw new MeshError('HUB-EXISTS', '', { place: folder.path });
    for (const path of [folder.config, folder.pki, folder.etcd, folder.dataSet])
      await rm(path, { recursive: true, force: true });
    await createHubPki(folder, config);
    await makePrivateFolder(folder.packages);
    // Last: with it the hub is complete.
    await writeFileSafely(folder.config, yaml);
    return { config, folder };
  } finally {
    unlock();
  }
}

function hubYaml(choices: HubChoices): string {
  const { clusterName, clusterId, pools, servicePools, names, listenEtcd, listenEnrolment, etcdEndpoints, etcdCa } =
    choices;
  const listen = {
    ...(listenEtcd !== undefined && { etcd: listenEtcd }),
    ...(listenEnrolment !== undefined && { enrolment: listenEnrolment }),
  };
  const etcd = {
    ...(etcdEndpoints !== undefined && etcdEndpoints.length > 0 && { endpoints: etcdEndpoints }),
    ...(etcdCa !== undefined && { ca: etcdCa }),
  };
  return stringify({
    cluster: { name: clusterName, id: clusterId },
    pools,
    ...(servicePools !== undefined && { services: { pools: servicePools } }),
    names,
    ...(Object.keys(listen).length > 0 && { listen }),
    ...(Object.keys(etcd).length > 0 && { etcd }),
  });
}

/** The configuration of a hub that was made. @throws ConfigErrors; MeshError HUB-MISSING, HUB-FILES */
export function loadHub(stateDir: string): { readonly config: HubConfig; readonly folder: HubFolder } {
  const folder = hubFolder(stateDir);
  return { config: readHubConfig(folder), folder };
}

/** What is in `hub.yaml` now. @throws ConfigErrors; MeshError HUB-MISSING, HUB-FILES */
export function readHubConfig(folder: HubFolder): HubConfig {
  let yaml: string;
  try {
    yaml = readFileSync(folder.config, 'utf8');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'HUB-MISSING' : 'HUB-FILES';
    throw new MeshError(code, code === 'HUB-FILES' ? messageOf(cause) : '', { place: folder.config, cause });
  }
  return parseHubConfig(yaml, folder.config);
}
