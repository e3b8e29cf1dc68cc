import { constants } from 'node:fs';
import { access, readdir, readFile, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { CheckRecord } from '../../api/doctor-types.ts';
import { messageOf } from '../../core/errors.ts';
import { Findings } from '../check.ts';

const MIB = 1 << 20;
/** A snapshot of a million addresses has about 30 MiB, and is written beside the old one. */
const LITTLE = 64 * MIB;
/** Not even certificates can be renewed. */
const NOTHING = 2 * MIB;
const FEW_INODES = 100;
const GROUP = { group: 'machine', name: 'state-folder' } as const;
const MAX_FILES = 1000;

/** Whether the folder of the state can be written, has space and inodes, and is nobody else's to read. */
export async function checkStateFolder(folder: string): Promise<CheckRecord[]> {
  const findings = new Findings(GROUP);
  try {
    const { mode } = await stat(folder);
    if ((mode & 0o077) !== 0) {
      findings.warning('CFG-EXPOSED', `the folder of the state is open to others (${octal(mode)} instead of 0700)`, {
        place: folder,
        remedy: `chmod 0700 ${folder}`,
      });
    }
    await checkSpace(folder, findings);
    await checkWritable(folder, findings);
    await checkSecrets(folder, findings);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') findings.skipped(`there is no ${folder}: nothing was saved here yet`);
    else if (code === 'EACCES' || code === 'EPERM') findings.skipped(`only root may look into ${folder}`);
    else findings.error('AGT-STATE', messageOf(error), { place: folder });
  }
  if (findings.list.length === 0) findings.ok(`${folder} can be written and has space`);
  return findings.list;
}

async function checkSpace(folder: string, findings: Findings): Promise<void> {
  const { bsize, bavail, files, ffree } = await statfs(folder);
  const free = bsize * bavail;
  const text = `${Math.floor(free / MIB)} MiB are free`;
  if (free < NOTHING) findings.error('HST-SPACE', text, { place: folder });
  else if (free < LITTLE) findings.warning('HST-SPACE', text, { place: folder });
  // File systems without a fixed number of inodes say that they have none at all.
  if (files > 0 && ffree < FEW_INODES) {
    const left = `${ffree} of ${files} inodes are free`;
    if (ffree === 0) findings.error('HST-SPACE', left, { place: folder });
    else findings.warning('HST-SPACE', left, { place: folder });
  }
}

async function checkWritable(folder: string, findings: Findings): Promise<void> {
  try {
    await access(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EROFS') findings.error('HST-READ-ONLY', 'the file system is mounted read-only', { place: folder });
    else throw error;
  }
}

/** Private keys, passwords and snapshots are for their owner alone. */
async function checkSecrets(folder: string, findings: Findings): Promise<void> {
  for (const part of ['pki', 'clustermesh', 'last-good']) {
    for (const name of (await namesIn(join(folder, part))).slice(0, MAX_FILES)) {
      const file = join(folder, part, name);
      const { mode, size } = await stat(file).catch(() => ({ mode: 0, size: 0 }));
      if ((mode & 0o007) === 0 || size > MIB || !(part === 'last-good' || (await isSecret(file)))) continue;
      findings.warning('CFG-EXPOSED', `everyone on this machine may read it (${octal(mode)})`, {
        place: file,
        remedy: `chmod 0600 ${file}; whoever could read a key may use it: renew it`,
      });
    }
  }
}

async function isSecret(file: string): Promise<boolean> {
  const text = await readFile(file, 'latin1').catch(() => '');
  return /PRIVATE KEY-----|^\s*password:/m.test(text);
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

function octal(mode: number): string {
  return (mode & 0o7777).toString(8).padStart(4, '0');
}
