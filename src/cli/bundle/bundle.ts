import { hostname } from 'node:os';
import { basename, resolve } from 'node:path';
import type { Command } from 'commander';
import { ConfigErrors } from '../../config/config-errors.ts';
import type { LoadedConfig } from '../../config/load.ts';
import { writeFileSafely } from '../../pki/files.ts';
import { ASKS_AGENT, askAgent } from '../agent-socket.ts';
import { type Call, command, InvalidArgumentError, Option } from '../command.ts';
import { loadFor } from '../config-options.ts';
import { examine } from '../doctor/examine.ts';
import { progressLine } from '../doctor/progress.ts';
import { EXIT } from '../exit-code.ts';
import { sinceTime } from '../logs.ts';
import { write } from '../output.ts';
import { archive } from './archive.ts';
import { contents } from './contents.ts';

interface Options {
  readonly file?: string;
  /** Milliseconds since the epoch. */
  readonly since?: number;
  readonly sizeLimit: number;
}

const MIB = 1 << 20;
const LIMIT_MIB = 64;
const SINCE_MS = 24 * 3_600_000;
/** A list of a million records takes some seconds. */
const ENTRY_MS = 60_000;

export function bundleCommand(): Command {
  return command<Options>({
    name: 'bundle',
    summary: 'Write an archive for whoever is to find out what is wrong, without secrets',
    details:
      'It holds what doctor found, status, lists, what the kernel holds, logs, metrics, versions and the effective configuration; no private key, token or password, and of certificates and policies only what is public. What looks like a secret is taken out of every text. It works without an agent. The file is for its owner alone (0600): look at it before you hand it on.',
    examples: [
      ['bundle', 'mesh-agent-bundle-<host>-<time>.tar.gz in this folder'],
      ['bundle --file /tmp/vm7.tar.gz --since 2h', 'another name, and the log of two hours'],
      ['bundle --size-limit 5', 'at most 5 MiB, for a mail'],
    ],
    shared: ASKS_AGENT,
    options: [
      new Option('--file <path>', 'where it is written (default: a name with host and time, in this folder)'),
      new Option('--since <time>', 'how far back the log goes: 30m, 2h, 7d ago, or a date (default: 24h)').argParser(
        sinceTime,
      ),
      new Option('--size-limit <mib>', 'size of the archive, in MiB').default(LIMIT_MIB).argParser(mebibytes),
    ],
    async run(call) {
      const { terminal, options } = call;
      const now = new Date();
      const stamp = now.toISOString().replace(/[-:]/g, '').replace(/\..*/, 'Z');
      const name = `mesh-agent-bundle-${hostname().replace(/[^A-Za-z0-9.-]/g, '_')}-${stamp}`;
      const file = resolve(options.file ?? `${name}.tar.gz`);
      const progress = progressLine(terminal);
      let done = 0;
      const entries = contents({
        client: askAgent(call),
        loaded: await loadedOrNot(call),
        examine: () => examine({ call, onProgress: () => undefined }),
        since: options.since ?? now.getTime() - SINCE_MS,
        env: terminal.env,
      });
      const pieces = archive({
        folder: name,
        entries,
        limit: options.sizeLimit * MIB,
        entryMs: ENTRY_MS,
        onEntry: (entry) => progress.show(done++, entries.length, entry),
        now: Date.now,
      });
      try {
        await writeFileSafely(file, pieces);
      } finally {
        progress.clear();
      }
      await write(terminal.out, `${file}\n`);
      terminal.error.write(`${basename(file)} is for you alone to read; look at it before you hand it on\n`);
      return EXIT.ok;
    },
  });
}

async function loadedOrNot(call: Call): Promise<LoadedConfig | undefined> {
  try {
    return await loadFor(call);
  } catch (error) {
    if (error instanceof ConfigErrors) return undefined;
    throw error;
  }
}

function mebibytes(value: string): number {
  const count = Number(value);
  if (!/^[0-9]{1,5}$/.test(value) || count < 1)
    throw new InvalidArgumentError('It must be a whole number of MiB, at least 1.');
  return count;
}
