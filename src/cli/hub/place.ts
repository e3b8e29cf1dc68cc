import { resolve } from 'node:path';
import type { SharedOptions } from '../command.ts';
import type { Terminal } from '../terminal.ts';

const STATE_DIR = '/var/lib/mesh-agent';
const SOCKET = '/run/mesh-agent/hub.sock';

interface Asked {
  readonly terminal: Terminal;
  readonly options: SharedOptions;
}

export function stateDirOf({ terminal, options }: Asked): string {
  const given = options.stateDir ?? terminal.env.MESH_AGENT_STATE_DIR;
  return given === undefined || given === '' ? STATE_DIR : resolve(given);
}

export function hubSocketOf({ options }: Asked): string {
  return options.socket === undefined ? SOCKET : resolve(options.socket);
}
