import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { assetPath } from '../../host/assets.ts';
import { bundled } from '../../host/build.ts';
import type { EnrolmentContext } from './context.ts';

/** The script that brings mesh-agent to a machine and joins it; with a token in it for one machine, else for any. */
export function joinScript(
  context: Pick<EnrolmentContext, 'ca' | 'config' | 'hubs'>,
  token: string | undefined,
): string {
  return installScript({
    cluster: context.config.cluster.name,
    ca: context.ca.certificate,
    hubs: context.hubs().map(({ enrolment }) => enrolment),
    token,
  });
}

/**
 * The `install.sh` of this version with what belongs to the hub in it: it then trusts the hub's authority and no other, and
 * what it installs must have the checksum that the hub tells.
 */
export function installScript(facts: {
  readonly cluster: string;
  readonly ca: string;
  readonly hubs: readonly string[];
  readonly token: string | undefined;
}): string {
  const { cluster, ca, hubs, token } = facts;
  const values: Readonly<Record<string, string>> = {
    cluster,
    hubs: hubs.map((url) => url.replace(/\/$/, '')).join(' '),
    token: token ?? '',
    ca: `${ca.trimEnd()}\n`,
  };
  return template().replace(/^ {2}(cluster|hubs|token|ca)=''$/gm, (_, name: string) => {
    return `  ${name}=${quoted(values[name] ?? '')}`;
  });
}

let text: string | undefined;

/** Inside the executable, or in the source tree. */
function template(): string {
  text ??= readFileSync(bundled ? assetPath('install.sh') : join(import.meta.dirname, '../../../install.sh'), 'utf8');
  return text;
}

function quoted(value: string): string {
  return `'${value.replaceAll("'", `'\\''`)}'`;
}
