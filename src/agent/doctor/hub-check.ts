import { readFile } from 'node:fs/promises';
import { ENROLMENT_PATHS } from '../../api/enrolment.ts';
import { DEFAULT_FILE } from '../../config/load.ts';
import { MeshError } from '../../core/errors.ts';
import { type Check, Findings } from '../../doctor/check.ts';
import { judgeHub } from '../../doctor/mesh/hub.ts';
import { build } from '../../host/build.ts';
import type { Agent } from '../agent.ts';
import { joinFiles, readJoinRecord } from '../join/files.ts';
import { askHub } from '../join/hub-client.ts';

const NAME = { group: 'agent', name: 'hub' } as const;
const ASK_MS = 5000;
const MAX_HUBS = 4;

/** The hub that this machine joined: whether it answers, what time it has, and whether the versions fit. */
export function hubCheck(agent: Agent): Check {
  return {
    ...NAME,
    title: 'hub',
    look: async () => {
      const files = joinFiles(agent.config.stateDir, DEFAULT_FILE);
      const hubs = readJoinRecord(files)?.hubs ?? [];
      if (hubs.length === 0) {
        const findings = new Findings(NAME);
        findings.skipped('this machine joined a cluster directly, without a hub');
        return findings.list;
      }
      const ca = await readFile(files.ca, 'utf8');
      const answers = await Promise.all(
        hubs.slice(0, MAX_HUBS).map(async (url) => {
          const before = Date.now();
          try {
            const { time, version } = await askHub({ url, ca, path: ENROLMENT_PATHS.health, timeoutMs: ASK_MS });
            return { url, before, after: Date.now(), time, version };
          } catch (error) {
            const failure =
              error instanceof MeshError ? error : new MeshError('JOIN-UNREACHABLE', String(error), { place: url });
            return { url, before, after: Date.now(), time: undefined, version: undefined, failure };
          }
        }),
      );
      return judgeHub(answers, build.version);
    },
  };
}
