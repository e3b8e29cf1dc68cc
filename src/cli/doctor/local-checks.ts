import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { CheckRecord } from '../../api/doctor-types.ts';
import type { Config } from '../../config/config.ts';
import type { LoadedConfig } from '../../config/load.ts';
import type { MeshError } from '../../core/errors.ts';
import { parseAddress } from '../../core/ip.ts';
import { classifyDevices } from '../../datapath/devices.ts';
import { type Check, Findings } from '../../doctor/check.ts';
import { addressFlow, type NeededFlow } from '../../doctor/machine/foreign-rules.ts';
import type { DeviceFacts } from '../../doctor/machine/kernel-settings.ts';
import { machineChecks } from '../../doctor/machine/machine-checks.ts';
import type { ConfiguredStore } from '../../doctor/store/store-list.ts';
import { readLinkState } from '../../host/links.ts';
import { checkConfigFiles } from '../check-config-files.ts';

const FILES = { group: 'configuration', name: 'files' } as const;
const OVERLAY_DEVICE = 'mesh_vxlan';

/** What loading the configuration said. */
export function configurationRecords(loaded: LoadedConfig | undefined, problems: readonly MeshError[]): CheckRecord[] {
  const findings = new Findings({ group: 'configuration', name: 'configuration' });
  for (const { code, message, place } of problems) findings.error(code, message, place === undefined ? {} : { place });
  for (const { code, message, place } of loaded?.warnings ?? [])
    findings.warning(code, message, place === undefined ? {} : { place });
  if (findings.list.length === 0)
    findings.ok(loaded?.files.length ? loaded.files.join(', ') : 'no file, defaults only');
  return findings.list;
}

/** Certificates, keys and files that the configuration names. */
export function fileCheck(loaded: LoadedConfig): Check {
  return {
    ...FILES,
    title: 'files of the configuration',
    look: async () => {
      const findings = new Findings(FILES);
      const { problems, warnings } = await checkConfigFiles(loaded);
      const details = ({ place }: MeshError) => (place === undefined ? {} : { place });
      for (const each of problems) findings.error(each.code, each.message, details(each));
      for (const each of warnings) findings.warning(each.code, each.message, details(each));
      if (findings.list.length === 0) findings.ok('certificates, keys and files that are named fit together');
      return findings.list;
    },
  };
}

/** The store to join, as far as the configuration alone tells. */
export function joinCheck({ kvstore }: Config): CheckRecord[] {
  const findings = new Findings({ group: 'configuration', name: 'join' });
  if (kvstore.config === undefined && kvstore.endpoints.length === 0)
    findings.error('AGT-KVSTORE', 'this machine is not joined: no store is configured');
  return findings.list;
}

/** The machine, looked at without an agent. */
export function machineWithoutAgent(config: Config, stores: readonly ConfiguredStore[]): Check[] {
  return machineChecks({
    datapath: config.datapath,
    stateDir: config.stateDir,
    devices: () => devicesOf(config),
    flows: () => [...stores.flatMap(flowsOf), overlayFlow(config)],
    enforces: () => config.datapath !== 'none' && existsSync(join(config.stateDir, 'last-good', 'snapshot')),
  });
}

async function devicesOf({ devices }: Config): Promise<readonly DeviceFacts[]> {
  return classifyDevices(await readLinkState(), { devices, overlayDevice: OVERLAY_DEVICE });
}

function flowsOf({ etcd, name }: ConfiguredStore): NeededFlow[] {
  return (etcd?.endpoints ?? []).flatMap((endpoint) => {
    const { hostname, port } = new URL(endpoint);
    const address = parseAddress(hostname.replace(/^\[|\]$/g, ''));
    return address === undefined ? [] : [addressFlow(address, port === '' ? 443 : Number(port), name)];
  });
}

function overlayFlow({ tunnel }: Config): NeededFlow {
  return { what: `udp/${tunnel.port} of the overlay`, protocol: 17, port: tunnel.port, portAt: 'both' };
}
