import { accessSync, constants, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { checkTlsFiles, type Findings, type TlsFiles } from '../config/check-tls-files.ts';
import type { LoadedConfig } from '../config/load.ts';
import { MeshError, messageOf } from '../core/errors.ts';
import { readEtcdConfig } from '../kvstore/etcd-config.ts';

/** Looks into every file that a configuration names: certificates, keys, etcd configurations, folders. */
export async function checkConfigFiles({ config, origins }: LoadedConfig): Promise<Findings> {
  const findings: Findings = { problems: [], warnings: [] };
  checkPassword(origins.get('kvstore.password')?.place, findings);
  if (config.kvstore.config === undefined) checkTlsFiles(config.kvstore, findings);
  else await checkEtcdConfig(config.kvstore.config, findings);
  checkFolder(config.policies, findings);
  if (checkFolder(config.clustermesh, findings)) {
    for (const file of clusterFiles(config.clustermesh, findings)) await checkEtcdConfig(file, findings);
  }
  return findings;
}

function checkPassword(origin: string | undefined, findings: Findings): void {
  const file = /^(\/.*):[0-9]+$/.exec(origin ?? '')?.[1];
  if (file === undefined || ((statSync(file, { throwIfNoEntry: false })?.mode ?? 0) & 0o004) === 0) return;
  findings.warnings.push(
    new MeshError('CFG-EXPOSED', 'everyone on this machine may read the password', { place: file }),
  );
}

async function checkEtcdConfig(file: string, findings: Findings): Promise<void> {
  try {
    const { ca, cert, key } = await readEtcdConfig(file);
    const files: TlsFiles = {
      ...(ca !== undefined && { ca }),
      ...(cert !== undefined && { cert }),
      ...(key !== undefined && { key }),
    };
    checkTlsFiles(files, findings);
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    findings.problems.push(error);
  }
}

/** A folder may be missing: it is watched until it appears. @returns whether it is there */
function checkFolder(path: string, findings: Findings): boolean {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) return false;
  try {
    if (!found.isDirectory()) throw new Error('it is not a folder');
    accessSync(path, constants.R_OK | constants.X_OK);
    return true;
  } catch (cause) {
    findings.problems.push(new MeshError('CFG-FILE', messageOf(cause), { place: path, cause }));
    return false;
  }
}

/** One file per cluster; certificates and keys may lie beside them (kvstore specification 4.1). */
function clusterFiles(folder: string, findings: Findings): string[] {
  return readdirSync(folder)
    .sort()
    .map((name) => join(folder, name))
    .filter((file) => {
      try {
        return statSync(file).isFile() && readFileSync(file, 'latin1').includes('endpoints:');
      } catch (cause) {
        findings.problems.push(new MeshError('CFG-FILE', messageOf(cause), { place: file, cause }));
        return false;
      }
    });
}
