import type { Command } from 'commander';
import { API_VERSION } from '../api/types.ts';
import { build } from '../host/build.ts';
import { command } from './command.ts';
import { EXIT } from './exit-code.ts';
import { writeRecord } from './output.ts';

export function versionCommand(): Command {
  return command({
    name: 'version',
    summary: 'Show the version of this program',
    examples: [
      ['version', 'one line'],
      ['version -o json', 'for scripts'],
    ],
    shared: ['output'],
    async run({ terminal, options }) {
      const record = { apiVersion: API_VERSION, kind: 'Version', ...build, node: process.version, arch: process.arch };
      const date = build.date === '' ? '' : ` of ${build.date}`;
      const line = `mesh-agent ${build.version} (commit ${build.commit}${date}, Node ${process.version}, ${process.arch})`;
      await writeRecord({ terminal, format: options.output, record, table: () => `${line}\n` });
      return EXIT.ok;
    },
  });
}
