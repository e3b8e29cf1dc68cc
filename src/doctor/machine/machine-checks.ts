import { readFile } from 'node:fs/promises';
import type { Check } from '../check.ts';
import { Findings } from '../check.ts';
import { judgeForeignRules, type NeededFlow } from './foreign-rules.ts';
import { type DeviceFacts, judgeConntrack, judgeSysctls, readSettings } from './kernel-settings.ts';
import { checkBpf, checkPacketFilter, readKernelRules } from './packet-filter.ts';
import { checkStateFolder } from './state-folder.ts';

export interface MachineChecksOptions {
  readonly stateDir: string;
  readonly datapath: 'nftables' | 'bpf' | 'none' | 'auto';
  devices(): readonly DeviceFacts[] | Promise<readonly DeviceFacts[]>;
  flows(): readonly NeededFlow[] | Promise<readonly NeededFlow[]>;
  /** Rules of ours must be in the kernel. */
  enforces(): boolean;
}

/** Tables that nftables does not show; none where the old modules are not loaded. */
async function legacyTables(): Promise<string[]> {
  const texts = await Promise.all(
    ['ip', 'ip6'].map((family) => readFile(`/proc/net/${family}_tables_names`, 'latin1').catch(() => '')),
  );
  return [...new Set(texts.join('\n').split('\n'))].filter((name) => name !== '');
}

/** What can be wrong with the machine itself. They run in the agent, or without one where there is none. */
export function machineChecks(options: MachineChecksOptions): Check[] {
  return [
    {
      group: 'machine',
      name: 'state-folder',
      title: 'folder of the state',
      look: () => checkStateFolder(options.stateDir),
    },
    {
      group: 'machine',
      name: 'conntrack',
      title: 'connection tracking',
      look: async () => judgeConntrack(await readSettings([])),
    },
    {
      group: 'machine',
      name: 'sysctl',
      title: 'settings of the kernel',
      look: async () => {
        const devices = await options.devices();
        return judgeSysctls(await readSettings(devices), devices);
      },
    },
    {
      group: 'machine',
      name: 'packet-filter',
      title: 'packet filter',
      look: options.datapath === 'bpf' ? checkBpf : checkPacketFilter,
    },
    {
      group: 'machine',
      name: 'foreign-rules',
      title: 'rules of others',
      look: async () => {
        const findings = new Findings({ group: 'machine', name: 'foreign-rules' });
        if (process.getuid?.() !== 0) {
          findings.skipped('only root may read the packet filter');
          return findings.list;
        }
        const old = await legacyTables();
        if (old.length > 0)
          findings.skipped(
            `tables of the old iptables are in use (${old.join(', ')}): \`iptables-legacy -S\` shows their rules`,
          );
        const { own, foreign } = await readKernelRules();
        if (own === 0 && options.enforces())
          findings.error('DPN-ABSENT', 'there is no rule of ours in the kernel: everything passes');
        return [...findings.list, ...judgeForeignRules(foreign, await options.flows())];
      },
    },
  ];
}
