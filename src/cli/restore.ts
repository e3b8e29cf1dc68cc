import type { Command } from 'commander';
import type { RestoreReport } from '../agent/last-good/restore.ts';
import { command, Option } from './command.ts';
import { loadFor } from './config-options.ts';
import { EXIT } from './exit-code.ts';
import { writeRecord } from './output.ts';
import { plural, span } from './words.ts';

interface Options {
  readonly force?: true;
  readonly check?: true;
}

export function restoreCommand(): Command {
  return command<Options>({
    name: 'restore',
    summary: 'Put the last-good rules in force before the network is up, as the unit mesh-agent-restore does',
    details:
      'While the agent runs it keeps a snapshot of what the kernel ought to hold in last-good below the state folder. This loads it ' +
      'when the kernel has no rules of ours; the agent takes over from there. A snapshot that is damaged, of another version or of ' +
      'another machine is refused; the key lastGood.fallback says what is enforced then. ' +
      'Exit code: 0 restored, or nothing to do; 1 refused, or the kernel did not take it.',
    examples: [
      ['restore', 'at boot'],
      ['restore --check', 'reads the snapshot and tells how old it is; changes nothing'],
      ['restore --force', 'also when rules are in force'],
    ],
    shared: ['config', 'stateDir', 'output'],
    options: [
      new Option('--force', 'also when rules of ours are in force already'),
      new Option('--check', 'only read the snapshot'),
    ],
    async run(call) {
      const { terminal, options } = call;
      const { config, origins } = await loadFor(call);
      const { restoreLastGood } = await import('../agent/last-good/restore.ts');
      const { choosePolicy } = await import('../agent/open-datapath.ts');
      const { silentLog } = await import('../observe/log.ts');
      const { refusal, ...report } = await restoreLastGood({
        config,
        named: origins.get('name')?.kind !== 'default',
        datapath: choosePolicy(config, silentLog),
        force: options.force === true,
        check: options.check === true,
      });
      const record = {
        apiVersion: 'mesh-agent/v1',
        kind: 'Restored',
        ...report,
        tookMs: Math.round(report.tookMs),
        ...(refusal !== undefined && { refusal: { code: refusal.code, message: refusal.message } }),
      };
      await writeRecord({ terminal, format: options.output, record, table: () => reportText(report) });
      if (refusal !== undefined) throw refusal;
      return EXIT.ok;
    },
  });
}

function reportText(report: Omit<RestoreReport, 'refusal'>): string {
  const { outcome, addresses, prefixes, confirmedAt } = report;
  const age = confirmedAt === undefined ? '' : `, with facts ${span(Math.max(0, Date.now() - confirmedAt))} old`;
  const content = `${plural(addresses, 'address', 'addresses')}, ${plural(prefixes, 'prefix', 'prefixes')}${age}`;
  switch (outcome) {
    case 'restored':
      return `The last-good rules are in force: ${content}; took ${Math.round(report.tookMs)} ms.\n`;
    case 'in-force':
      return 'Rules of ours are in force already: nothing was changed.\n';
    case 'usable':
      return `The snapshot can be used: ${content}.\n`;
    case 'failsafe':
      return 'Only the failsafe ports let anybody in until the agent runs (lastGood.fallback).\n';
    case 'nothing':
      return 'Nothing was put in force: there is no snapshot that can be used.\n';
  }
}
