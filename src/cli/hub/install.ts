import { chmod, writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { askRecord } from '../../api/ask.ts';
import { MeshError, messageOf } from '../../core/errors.ts';
import { command, Option } from '../command.ts';
import { EXIT } from '../exit-code.ts';
import { write } from '../output.ts';
import { hubOf, seconds, whoAsks } from './asking.ts';
import { time } from './token.ts';

const FILE = 'install-mesh-agent.sh';
const MODE = 0o775;

/** `hub workload install [FILE]` */
export function installCommand(): Command {
  return command<{ readonly workload?: string; readonly ttl?: number }>({
    name: 'install [file]',
    summary: 'Write the one script that brings mesh-agent to a machine and joins it',
    details:
      'The script trusts this hub alone, takes the package from it, and joins. With --workload it has a join token in it and works on ' +
      'one machine; without, it is given one with --token or --token-file. The same script is at https://HUB/install.sh.',
    examples: [
      ['hub workload install', `writes ${FILE}`],
      ['hub workload install web-1.sh --workload web-1', 'with a token for web-1'],
      ['hub workload install -', 'to standard output'],
    ],
    shared: ['socket'],
    options: [
      new Option('--workload <name>', 'put a join token for this workload into the script'),
      new Option('--ttl <time>', 'life of that token: 90s, 30m, 1h, 7d (default: 1h)').argParser(seconds),
    ],
    async run(call) {
      const { terminal, options } = call;
      const { workload, ttl } = options;
      const body = {
        by: whoAsks(terminal),
        ...(workload !== undefined && { workload }),
        ...(ttl !== undefined && { ttlSeconds: ttl }),
      };
      const { script, expiresAt } = await askRecord<{ script: string; expiresAt: number | null }>(
        hubOf(call),
        '/v1/install-script',
        { method: 'POST', body },
      );
      const named = call.args[0] ?? '';
      if (named === '-') {
        await write(terminal.out, script);
        return EXIT.ok;
      }
      const file = resolve(named === '' ? FILE : named);
      try {
        await writeFile(file, script, { mode: MODE });
        // The mask of this process is not asked.
        await chmod(file, MODE);
      } catch (cause) {
        throw new MeshError('PKI-FILE', messageOf(cause), { place: file, cause });
      }
      const token =
        expiresAt === null
          ? ''
          : ` It has a join token for ${workload} in it, good until ${time(expiresAt)}: keep it safe.`;
      await write(terminal.out, `The script is in ${file}.${token}\n`);
      return EXIT.ok;
    },
  });
}
