import { loadHub } from '../../src/hub/init.ts';
import { hubParts } from '../../src/hub/parts.ts';
import { runHub } from '../../src/hub/run.ts';

/** `hub run` for stories that cannot wait for days: with other times. */
const [stateDir = '', socket = '', certificateSeconds = '', graceMs = ''] = process.argv.slice(2);
const parts = hubParts({
  enrolment: { certificateSeconds: Number(certificateSeconds) },
  clusters: { graceMs: Number(graceMs) },
});
process.exitCode = await runHub({ ...loadHub(stateDir), socket, parts });
